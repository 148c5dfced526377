"""A Stable Diffusion model: three modules, their frozen parameters and configs in one bundle."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ti_flax.errors import ConfigError, WeightsError
from ti_flax.models.attention import AUTO, Attention
from ti_flax.models.config_fields import given
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.text_encoder import CLIPTextConfig, FlaxCLIPTextModel
from ti_flax.models.unet import FlaxUNet2DConditionModel, UNet2DConditionConfig
from ti_flax.models.vae import AutoencoderKLConfig, FlaxAutoencoderKL
from ti_flax.models.weights.model_source import ModelSource
from ti_flax.models.weights.parameters import write_flax_params, write_torch_params

COMPONENTS = ("text_encoder", "unet", "vae")

# Of the transformers library, for token and position tables (`initializer_range` of CLIPTextConfig).
_EMBEDDING_DEVIATION = 0.02

# Schedulers that diffusers 0.39 has in Flax; DDIM reads the config of any of the others.
_FLAX_SCHEDULERS = ("DDIM", "DDPM", "DPMSolverMultistep", "EulerDiscrete", "LMSDiscrete", "PNDM")
_LIBRARIES = {"text_encoder": "transformers", "unet": "diffusers", "vae": "diffusers"}
_CLASSES = {"text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}


@dataclasses.dataclass(frozen=True)
class FlaxStableDiffusion:
    """The modules of a model with their parameters.

    Attributes:
      text_encoder: maps token embeddings to the prompt's encoding.
      unet: predicts noise or velocity in latents.
      vae: maps images to latents and back.
      params: parameter trees by component, `text_encoder`, `unet`, `vae`; only what was asked for.
      configs: parsed config files by component, and `scheduler`.
      source: the files the model was read from; None for a random model.
      dtype: of parameters and computation.
    """

    text_encoder: FlaxCLIPTextModel
    unet: FlaxUNet2DConditionModel
    vae: FlaxAutoencoderKL
    params: dict[str, Any]
    configs: dict[str, dict[str, Any]]
    source: ModelSource | None
    dtype: DTypeLike

    @property
    def text_encoders(self) -> dict[str, FlaxCLIPTextModel]:
        """The text encoders by name."""
        return {"text_encoder": self.text_encoder}


def load_stable_diffusion(
    source: pathlib.Path | ModelSource,
    *,
    dtype: DTypeLike | None = jnp.float32,
    variant: str | None = None,
    components: Sequence[str] = COMPONENTS,
    attention: Attention = AUTO,
) -> FlaxStableDiffusion:
    """Read a model folder or a single file: all configs, and the parameters of the named components.

    Args:
      source: what `weights.resolve_model` returns, or that and what is to be read otherwise.
      dtype: of parameters and computation, float32 or bfloat16; files of another dtype are converted.
        None keeps each file's dtype, and computes in float32.
      variant: as in `model.fp16.safetensors`, where `source` is a path.
      components: whose parameters to read.
      attention: how the modules compute it.

    Raises:
      WeightsError: when the model is incomplete or of another kind, or files do not fit.
      ConfigError: when the source asks for what the model cannot give.
    """
    if not isinstance(source, ModelSource):
        source = ModelSource(pathlib.Path(source), variant)
    model = _build(source.configs(COMPONENTS), source, dtype, str(source.place), attention)
    for component in components:
        shapes = parameter_shapes(getattr(model, component))
        model.params[component] = source.params(component, shapes, dtype)
    return model


def save_stable_diffusion(
    model: FlaxStableDiffusion, folder: pathlib.Path, *, layout: str = "torch"
) -> pathlib.Path:
    """Write a diffusers folder without a tokenizer, whose files come from elsewhere.

    Args:
      model: with the parameters of all three components.
      folder: made where it does not exist.
      layout: `torch` for StableDiffusionPipeline, `flax` for FlaxStableDiffusionPipeline (diffusers 0.39).
    """
    write = {"torch": write_torch_params, "flax": write_flax_params}[layout]
    folder = pathlib.Path(folder)
    for component in COMPONENTS:
        write(folder, component, model.params[component])
        _write_json(folder / component / "config.json", _component_config(model, component, layout))
    scheduler = model.configs["scheduler"]
    scheduler = {**scheduler, "_class_name": _scheduler_class(scheduler, layout)}
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    _write_json(folder / "model_index.json", _model_index(scheduler["_class_name"], layout))
    return folder


def random_stable_diffusion(
    configs: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
    dtype: DTypeLike = jnp.float32,
    components: Sequence[str] = COMPONENTS,
    attention: Attention = AUTO,
) -> FlaxStableDiffusion:
    """Make a model with random parameters, the same for the same seed, for tests and benchmarks.

    Nothing is zero and no scale is exactly one, so that a parameter which is not used, or used twice, shows.

    Args:
      configs: parsed config files of `text_encoder`, `unet`, `vae` and `scheduler`.
      seed: of the generator.
      dtype: of parameters and computation.
      components: whose parameters to make.
      attention: how the modules compute it.
    """
    model = _build(configs, None, dtype, "the configuration", attention)
    generator = np.random.default_rng(seed)
    for component in components:
        shapes = parameter_shapes(getattr(model, component))
        model.params[component] = jax.tree_util.tree_map_with_path(
            lambda path, shape: _random_leaf(generator, path[-1].key, shape), shapes
        )
    return model


def parameter_shapes(module: nn.Module) -> dict[str, Any]:
    """Return the tree of `jax.ShapeDtypeStruct` of one of the three modules, without computing anything."""
    return _shapes(module.clone(dtype=jnp.dtype(module.dtype), parent=None))


@functools.lru_cache(maxsize=16)
def _shapes(module: nn.Module) -> dict[str, Any]:
    inputs, method = _example_inputs(module)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, method=method))
    return variables["params"]


def _build(
    configs: Mapping[str, Mapping[str, Any]],
    source: ModelSource | None,
    dtype: DTypeLike | None,
    where: str,
    attention: Attention,
) -> FlaxStableDiffusion:
    """Make the modules, without parameters, and check that they fit one another."""
    configs = {component: given(config) for component, config in configs.items()}
    text = CLIPTextConfig.from_dict(configs["text_encoder"], f"{where}: text_encoder/config.json")
    unet = UNet2DConditionConfig.from_dict(configs["unet"], f"{where}: unet/config.json")
    vae = AutoencoderKLConfig.from_dict(configs["vae"], f"{where}: vae/config.json")
    if source is not None and source.vae is not None and vae.latent_channels != unet.in_channels:
        raise WeightsError(
            f"pretrained_vae_model_name_or_path {source.vae}",
            expected=f"a VAE of {unet.in_channels} latent channels, as the UNet takes",
            found=f"{vae.latent_channels}",
        )
    _check_fit(text, unet, vae, where)
    # For what is wrong with it, before any weights are read.
    NoiseSchedule.from_config(configs["scheduler"], f"{where}: scheduler/scheduler_config.json")
    computing: DTypeLike = jnp.float32 if dtype is None else dtype
    clip_skip = 0 if source is None else source.clip_skip
    if clip_skip >= text.num_hidden_layers:
        raise ConfigError(
            "clip_skip",
            expected=f"at most {text.num_hidden_layers - 1}, as this text encoder has "
            f"{text.num_hidden_layers} layers",
            found=str(clip_skip),
            remedy="The Web UI's and kohya's number is one more than this one.",
        )
    return FlaxStableDiffusion(
        text_encoder=FlaxCLIPTextModel(text, computing, attention, clip_skip),
        unet=FlaxUNet2DConditionModel(unet, computing, attention=attention),
        vae=FlaxAutoencoderKL(vae, computing, attention),
        params={},
        configs=configs,
        source=source,
        dtype=computing,
    )


def _check_fit(
    text: CLIPTextConfig, unet: UNet2DConditionConfig, vae: AutoencoderKLConfig, where: str
) -> None:
    if unet.in_channels != vae.latent_channels or unet.out_channels != vae.latent_channels:
        raise WeightsError(
            f"{where}: unet/config.json",
            expected=f"in_channels and out_channels {vae.latent_channels}, the latent_channels of the VAE",
            found=f"{unet.in_channels} and {unet.out_channels}",
            remedy="Inpainting, depth and upscaling models cannot be trained; use the text-to-image model.",
        )
    if unet.cross_attention_dim != text.hidden_size:
        raise WeightsError(
            f"{where}: unet/config.json",
            expected=f"cross_attention_dim {text.hidden_size}, the hidden_size of the text encoder",
            found=str(unet.cross_attention_dim),
        )


def _example_inputs(module: nn.Module) -> tuple[tuple, Callable | None]:
    """Give the smallest inputs that touch every parameter of a module, and the method to give them to."""
    if isinstance(module, FlaxCLIPTextModel):
        return (jnp.zeros((1, 1), jnp.int32),), FlaxCLIPTextModel.encode_ids
    if isinstance(module, FlaxAutoencoderKL):
        side = module.config.downsampling
        return (jnp.zeros((1, side, side, module.config.in_channels)),), None
    if isinstance(module, FlaxUNet2DConditionModel):
        config = module.config
        side = 2 ** (len(config.block_out_channels) - 1)
        sample = jnp.zeros((1, side, side, config.in_channels))
        return (sample, jnp.zeros((1,)), jnp.zeros((1, 1, config.cross_attention_dim))), None
    raise TypeError(f"not a module of Stable Diffusion: {type(module).__name__}")


def _random_leaf(generator: np.random.Generator, name: str, shape: jax.ShapeDtypeStruct) -> np.ndarray:
    """Draw one parameter: kernels keep the variance of what they are applied to, scales stay near one."""
    if name == "kernel":
        deviation, centre = 1 / np.sqrt(np.prod(shape.shape[:-1])), 0.0
    elif name == "embedding":
        deviation, centre = _EMBEDDING_DEVIATION, 0.0
    else:
        deviation, centre = 0.1, float(name == "scale")
    # Uniform numbers are some times cheaper than normal ones, which shows with a thousand million of them.
    values = generator.random(shape.shape, dtype=np.float32)
    values -= np.float32(0.5)
    values *= np.float32(deviation * np.sqrt(12.0))
    values += np.float32(centre)
    return values.astype(shape.dtype, copy=False)


def _component_config(model: FlaxStableDiffusion, component: str, layout: str) -> dict[str, Any]:
    """Return the config to write: the source's, with class names of the layout and what was changed since."""
    config = dict(model.configs[component])
    class_name = ("Flax" if layout == "flax" else "") + _CLASSES[component]
    if component == "text_encoder":
        table = model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
        return config | {
            "architectures": [class_name],
            "model_type": "clip_text_model",
            "vocab_size": table.shape[0],
        }
    if component == "unet" and config.get("num_attention_heads") is not None:
        # PyTorch's class refuses `num_attention_heads` and means the same by `attention_head_dim`.
        config |= {"attention_head_dim": config["num_attention_heads"], "num_attention_heads": None}
    return config | {"_class_name": class_name}


def _scheduler_class(config: Mapping[str, Any], layout: str) -> str:
    name = str(config.get("_class_name", "DDIMScheduler")).removeprefix("Flax")
    if layout == "torch":
        return name
    known = name.removesuffix("Scheduler") in _FLAX_SCHEDULERS
    return f"Flax{name}" if known else "FlaxDDIMScheduler"


def _model_index(scheduler: str, layout: str) -> dict[str, Any]:
    prefix = "Flax" if layout == "flax" else ""
    parts = {component: [_LIBRARIES[component], prefix + _CLASSES[component]] for component in COMPONENTS}
    # In a Flax folder diffusers 0.39 takes [null, null] for a part that was forgotten, and a library without
    # a class for one that is switched off.
    absent = {"safety_checker": "stable_diffusion", "feature_extractor": "transformers"}
    index = {
        "_class_name": f"{prefix}StableDiffusionPipeline",
        **{part: [library if layout == "flax" else None, None] for part, library in absent.items()},
        "scheduler": ["diffusers", scheduler],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        **parts,
    }
    return index if layout == "flax" else index | {"requires_safety_checker": False}


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
