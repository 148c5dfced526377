"""A Stable Diffusion model: its modules, their frozen parameters and configs in one bundle."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ti_flax.errors import ConfigError, WeightsError
from ti_flax.models.attention import AUTO, Attention
from ti_flax.models.config_fields import given
from ti_flax.models.layers import STACKED
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.parameter_shapes import parameter_shapes
from ti_flax.models.text_encoder import (
    END_OF_TEXT,
    CLIPTextConfig,
    FlaxCLIPTextModel,
    FlaxCLIPTextModelWithProjection,
)
from ti_flax.models.unet import SIZES, FlaxUNet2DConditionModel, UNet2DConditionConfig
from ti_flax.models.vae import AutoencoderKLConfig, FlaxAutoencoderKL
from ti_flax.models.weights.model_source import COMPONENTS, SDXL_COMPONENTS, ModelSource
from ti_flax.models.weights.parameters import write_flax_params, write_torch_params
from ti_flax.models.weights.pipeline_config import component_config, model_index, scheduler_config

# Of the transformers library, for token and position tables (`initializer_range` of CLIPTextConfig).
_EMBEDDING_DEVIATION = 0.02

TextEncoder = FlaxCLIPTextModel | FlaxCLIPTextModelWithProjection


@dataclasses.dataclass(frozen=True)
class FlaxStableDiffusion:
    """The modules of a model with their parameters.

    Attributes:
      text_encoders: map token embeddings to the prompt's encoding; SDXL has `text_encoder` and
        `text_encoder_2`, others `text_encoder`.
      unet: predicts noise or velocity in latents.
      vae: maps images to latents and back; SDXL's computes in float32, as its activations overflow in float16
        and lose too much in bfloat16.
      params: parameter trees by component; only what was asked for.
      configs: parsed config files by component, and `scheduler`.
      source: the files the model was read from; None for a random model.
      dtype: of parameters and computation.
      zeros_for_empty_prompt: whether SDXL's UNet gets zeros in the place of an empty negative prompt.
    """

    text_encoders: dict[str, TextEncoder]
    unet: FlaxUNet2DConditionModel
    vae: FlaxAutoencoderKL
    params: dict[str, Any]
    configs: dict[str, dict[str, Any]]
    source: ModelSource | None
    dtype: DTypeLike
    zeros_for_empty_prompt: bool = True

    @property
    def is_sdxl(self) -> bool:
        return "text_encoder_2" in self.text_encoders

    @property
    def components(self) -> tuple[str, ...]:
        """The names of the parts that have parameters."""
        return SDXL_COMPONENTS if self.is_sdxl else COMPONENTS

    @property
    def text_encoder(self) -> FlaxCLIPTextModel:
        """The first text encoder."""
        first = self.text_encoders["text_encoder"]
        assert isinstance(first, FlaxCLIPTextModel)
        return first

    @property
    def widths(self) -> dict[str, int]:
        """The width of a token's vector, by text encoder."""
        return {name: encoder.config.hidden_size for name, encoder in self.text_encoders.items()}

    @property
    def step_params(self) -> dict[str, Any]:
        """The parameters that an update needs and leaves as they are: text encoders and UNet."""
        return {part: self.params[part] for part in (*self.text_encoders, "unet")}

    def module(self, component: str) -> nn.Module:
        """Return the module of a component."""
        return {**self.text_encoders, "unet": self.unet, "vae": self.vae}[component]


def load_stable_diffusion(
    source: pathlib.Path | ModelSource,
    *,
    dtype: DTypeLike | None = jnp.float32,
    variant: str | None = None,
    components: Sequence[str] | None = None,
    attention: Attention = AUTO,
) -> FlaxStableDiffusion:
    """Read a model folder or a single file: all configs, and the parameters of the named components.

    Args:
      source: what `weights.resolve_model` returns, or that and what is to be read otherwise.
      dtype: of parameters and computation, float32 or bfloat16; files of another dtype are converted. SDXL's
        autoencoder is float32 in any case. None keeps each file's dtype, and computes in float32.
      variant: as in `model.fp16.safetensors`, where `source` is a path.
      components: whose parameters to read; None: all.
      attention: how the modules compute it.

    Raises:
      WeightsError: when the model is incomplete or of another kind, or files do not fit.
      ConfigError: when the source asks for what the model cannot give.
    """
    if not isinstance(source, ModelSource):
        source = ModelSource(pathlib.Path(source), variant)
    configs = source.configs(source.components)
    model = _build(configs, source, dtype, str(source.place), attention)
    for component in model.components if components is None else components:
        module = model.module(component)
        kept = None if dtype is None else module.dtype
        model.params[component] = source.params(component, parameter_shapes(module), kept)
    return model


def save_stable_diffusion(
    model: FlaxStableDiffusion,
    folder: pathlib.Path,
    *,
    layout: str = "torch",
    eos_token_id: int = END_OF_TEXT,
) -> pathlib.Path:
    """Write a diffusers folder without tokenizers, whose files come from elsewhere.

    Args:
      model: with the parameters of all components.
      folder: made where it does not exist.
      layout: `torch` for StableDiffusionPipeline or StableDiffusionXLPipeline, `flax` for those of Flax
        (diffusers 0.39).
      eos_token_id: the tokenizer's end of the text, where PyTorch is to pool SDXL's second encoder.
    """
    write = {"torch": write_torch_params, "flax": write_flax_params}[layout]
    folder = pathlib.Path(folder)
    for component in model.components:
        write(folder, component, model.params[component])
        config = dict(model.configs[component])
        if component in model.text_encoders:
            config["vocab_size"] = len(token_table(model.params, component))
        if component == "text_encoder_2":
            # Released models have 2 here, which makes PyTorch pool at the largest id: at an added word.
            config["eos_token_id"] = eos_token_id
        _write_json(folder / component / "config.json", component_config(config, component, layout))
    scheduler = scheduler_config(model.configs["scheduler"], layout)
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = model_index(
        model.components,
        scheduler["_class_name"],
        layout,
        zeros_for_empty_prompt=model.zeros_for_empty_prompt,
    )
    _write_json(folder / "model_index.json", index)
    return folder


def token_table(params: Mapping[str, Any], encoder: str) -> Any:
    """Return the token table of a text encoder, `[vocabulary, width]`, out of the trees by component."""
    return params[encoder]["text_model"]["embeddings"]["token_embedding"]["embedding"]


def random_stable_diffusion(
    configs: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
    dtype: DTypeLike = jnp.float32,
    components: Sequence[str] | None = None,
    attention: Attention = AUTO,
) -> FlaxStableDiffusion:
    """Make a model with random parameters, the same for the same seed, for tests and benchmarks.

    Nothing is zero and no scale is exactly one, so that a parameter which is not used, or used twice, shows.

    Args:
      configs: parsed config files of `text_encoder`, `unet`, `vae` and `scheduler`, and of `text_encoder_2`
        for an SDXL model.
      seed: of the generator.
      dtype: of parameters and computation.
      components: whose parameters to make; None: all.
      attention: how the modules compute it.
    """
    model = _build(configs, None, dtype, "the configuration", attention)
    generator = np.random.default_rng(seed)
    for component in model.components if components is None else components:
        shapes = parameter_shapes(model.module(component))
        model.params[component] = jax.tree_util.tree_map_with_path(
            lambda path, shape: _random_leaf(generator, [key.key for key in path], shape), shapes
        )
    return model


def _build(
    configs: Mapping[str, Mapping[str, Any]],
    source: ModelSource | None,
    dtype: DTypeLike | None,
    where: str,
    attention: Attention,
) -> FlaxStableDiffusion:
    """Make the modules, without parameters, and check that they fit one another."""
    configs = {component: given(config) for component, config in configs.items()}
    texts = {
        name: CLIPTextConfig.from_dict(configs[name], f"{where}: {name}/config.json", projected=projected)
        for name, projected in (("text_encoder", False), ("text_encoder_2", True))
        if name in configs
    }
    unet = UNet2DConditionConfig.from_dict(configs["unet"], f"{where}: unet/config.json")
    vae = AutoencoderKLConfig.from_dict(configs["vae"], f"{where}: vae/config.json")
    if source is not None and source.vae is not None and vae.latent_channels != unet.in_channels:
        raise WeightsError(
            f"pretrained_vae_model_name_or_path {source.vae}",
            expected=f"a VAE of {unet.in_channels} latent channels, as the UNet takes",
            found=f"{vae.latent_channels}",
        )
    _check_latents(unet, vae, where)
    _check_prompts(unet, texts, where)
    # For what is wrong with it, before any weights are read.
    NoiseSchedule.from_config(configs["scheduler"], f"{where}: scheduler/scheduler_config.json")
    computing: DTypeLike = jnp.float32 if dtype is None else dtype
    return FlaxStableDiffusion(
        text_encoders=_text_encoders(texts, computing, attention, 0 if source is None else source.clip_skip),
        unet=FlaxUNet2DConditionModel(unet, computing, attention=attention),
        vae=FlaxAutoencoderKL(vae, jnp.float32 if len(texts) > 1 else computing, attention),
        params={},
        configs=configs,
        source=source,
        dtype=computing,
        zeros_for_empty_prompt=source is None or source.force_zeros_for_empty_prompt,
    )


def _text_encoders(
    texts: Mapping[str, CLIPTextConfig], dtype: DTypeLike, attention: Attention, clip_skip: int
) -> dict[str, TextEncoder]:
    layers = min(config.num_hidden_layers for config in texts.values())
    # SDXL leaves the last layer out as it is.
    most = layers - len(texts)
    if clip_skip > most:
        raise ConfigError(
            "clip_skip",
            expected=f"at most {most}, as this text encoder has {layers} layers",
            found=str(clip_skip),
            remedy="The Web UI's and kohya's number is one more than this one.",
        )
    encoders: dict[str, TextEncoder] = {
        "text_encoder": FlaxCLIPTextModel(
            texts["text_encoder"], dtype, attention, clip_skip, penultimate=len(texts) > 1
        )
    }
    if "text_encoder_2" in texts:
        second = texts["text_encoder_2"]
        encoders["text_encoder_2"] = FlaxCLIPTextModelWithProjection(second, dtype, attention, clip_skip)
    return encoders


def _check_latents(unet: UNet2DConditionConfig, vae: AutoencoderKLConfig, where: str) -> None:
    """Raise a WeightsError unless the UNet takes and gives the autoencoder's latents."""
    if unet.in_channels != vae.latent_channels or unet.out_channels != vae.latent_channels:
        raise WeightsError(
            f"{where}: unet/config.json",
            expected=f"in_channels and out_channels {vae.latent_channels}, the latent_channels of the VAE",
            found=f"{unet.in_channels} and {unet.out_channels}",
            remedy="Inpainting, depth and upscaling models cannot be trained; use the text-to-image model.",
        )


def _check_prompts(unet: UNet2DConditionConfig, texts: Mapping[str, CLIPTextConfig], where: str) -> None:
    """Raise a WeightsError unless the UNet takes what the text encoders, by name, make of a prompt."""
    width = sum(config.hidden_size for config in texts.values())
    if unet.cross_attention_dim != width:
        of = "the text encoder" if len(texts) == 1 else "both text encoders together"
        raise WeightsError(
            f"{where}: unet/config.json",
            expected=f"cross_attention_dim {width}, the hidden_size of {of}",
            found=str(unet.cross_attention_dim),
        )
    pooled = texts["text_encoder_2"].projection_dim if "text_encoder_2" in texts else None
    if (pooled is None) != (unet.addition_embed_type is None):
        raise WeightsError(
            f"{where}: unet/config.json, field addition_embed_type",
            expected="text_time beside two text encoders, and nothing beside one",
            found=f"{unet.addition_embed_type} beside {len(texts)}",
            remedy="Use a text-to-image model; refiners cannot be trained.",
        )
    if pooled is not None and unet.pooled_dim != pooled:
        sizes = unet.addition_time_embed_dim or 0
        raise WeightsError(
            f"{where}: unet/config.json",
            expected=f"projection_class_embeddings_input_dim {pooled + SIZES * sizes}: the projection_dim of "
            f"text_encoder_2, {pooled}, and {SIZES} times addition_time_embed_dim, {sizes}",
            found=str(unet.projection_class_embeddings_input_dim),
        )


def _random_leaf(
    generator: np.random.Generator, path: Sequence[str], shape: jax.ShapeDtypeStruct
) -> np.ndarray:
    """Draw one parameter: kernels keep the variance of what they are applied to, scales stay near one."""
    if path[-1] == "kernel":
        stacked = any(STACKED in module for module in path)
        deviation, centre = 1 / np.sqrt(np.prod(shape.shape[int(stacked) : -1])), 0.0
    elif path[-1] == "embedding":
        deviation, centre = _EMBEDDING_DEVIATION, 0.0
    else:
        deviation, centre = 0.1, float(path[-1] == "scale")
    # Uniform numbers are some times cheaper than normal ones, which shows with a thousand million of them.
    values = generator.random(shape.shape, dtype=np.float32)
    values -= np.float32(0.5)
    values *= np.float32(deviation * np.sqrt(12.0))
    values += np.float32(centre)
    return values.astype(shape.dtype, copy=False)


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
