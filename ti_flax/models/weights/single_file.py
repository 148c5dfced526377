"""A whole model in one file, in the layout of the original Stable Diffusion code, or an autoencoder alone.

What a file holds is told from its contents: the format from its first bytes, the kind of model from the
names and shapes of its tensors.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from ti_flax.errors import WeightsError
from ti_flax.files.regular import open_regular
from ti_flax.models.weights import derived_configs
from ti_flax.models.weights.ignored_tensors import is_ignored
from ti_flax.models.weights.model_folder import read_config
from ti_flax.models.weights.original_names import clip_names, dotted, open_clip_tensors, unet_names, vae_names
from ti_flax.models.weights.original_yaml import apply_description, predicted, read_description
from ti_flax.models.weights.tensor_files import StoredTensor, damaged, index_safetensors
from ti_flax.models.weights.torch_files import is_torch_file, named_tensors, read_torch

_UNET = "model.diffusion_model."
_AVERAGED = "model_ema.diffusion_model"
_VAE = "first_stage_model."
_CLIP = "cond_stage_model.transformer."
_OPEN_CLIP = "cond_stage_model.model."
_TEXT_MODEL = "text_model."

# What tells other kinds of files: a beginning or ending of names, in the order they are asked for.
_OTHERS = (
    (
        ("conditioner.embedders.", f"{_UNET}label_emb."),
        "a Stable Diffusion XL model",
        "SDXL is not supported yet.",
    ),
    (
        ("control_model.", "controlnet_cond_embedding.", "input_hint_block.", "zero_convs.", "controlnet_"),
        "a ControlNet",
        "A ControlNet is used beside a model; name the model it was made for.",
    ),
    (
        (f"{_UNET}joint_blocks.", f"{_UNET}double_blocks.", "double_blocks.", "transformer_blocks."),
        "another kind of model (a diffusion transformer)",
        "Use a Stable Diffusion 1.x or 2.x model.",
    ),
)
_LORA_PARTS = ("lora_", "lokr_", "hada_", ".lora.", ".oft_", "dora_scale")
_EMBEDDING_NAMES = frozenset({"emb_params", "emp_params", "clip_l", "clip_g", "string_to_param"})


@dataclasses.dataclass(frozen=True)
class SingleFile:
    """What one file holds, under diffusers' names.

    Attributes:
      path: of the file.
      tensors: of `text_encoder`, `unet` and, unless it comes from elsewhere, `vae`.
      configs: of the same and of `scheduler`.
      second: whether it is a 2.x model, by its text encoder.
      notes: what a user should know about how it was read.
    """

    path: pathlib.Path
    tensors: dict[str, dict[str, StoredTensor]]
    configs: dict[str, dict[str, Any]]
    second: bool
    notes: tuple[str, ...]


def index_file(path: pathlib.Path) -> dict[str, StoredTensor]:
    """List the tensors of a safetensors or PyTorch file, told apart by their contents.

    Raises:
      WeightsError: it is neither, is damaged, or is a pickle that does more than hold tensors.
    """
    try:
        with open_regular(path) as file:
            beginning = file.read(64)
    except OSError as error:
        raise WeightsError(
            path, expected="a file that can be read", found=error.strerror or str(error)
        ) from None
    # Asked first: a header of 128 bytes begins as a pickle does.
    if beginning[8:9] == b"{":
        return index_safetensors(path)
    if is_torch_file(beginning):
        content = read_torch(path)
        if isinstance(content, dict) and _EMBEDDING_NAMES & content.keys():
            raise _other(path, "a learned embedding", "Name the model that it belongs to.")
        return named_tensors(content, path)
    raise damaged(path, "safetensors or PyTorch", f"it begins with {beginning[:12]!r}")


def open_single_file(
    path: pathlib.Path,
    config_folder: pathlib.Path | None = None,
    *,
    prediction_type: str | None = None,
    with_vae: bool = True,
) -> SingleFile:
    """List a model's tensors under diffusers' names, and find or work out its configs.

    Args:
      path: of the file.
      config_folder: a model folder whose config files are taken in place of derived ones.
      prediction_type: what the user says that the UNet predicts, which need not be guessed then.
      with_vae: False where the autoencoder comes from elsewhere; many a file has none.

    Raises:
      WeightsError: the file holds something else, which is named.
    """
    stored = index_file(path)
    notes = []
    unet = _inside(stored, _UNET)
    if not unet and (unet := _averaged(stored)):
        notes.append(f"{path.name} has averaged (EMA) weights of the UNet alone; they are used")
    elif any(name.startswith(_AVERAGED) for name in stored):
        notes.append(f"{path.name} also has averaged (EMA) weights of the UNet, which are not used")
    _refuse_others(stored, path)
    clip, open_clip = _inside(stored, _CLIP), _inside(stored, _OPEN_CLIP)
    vae = _inside(stored, _VAE) if with_vae else {}
    for part, prefix in ((unet, _UNET), (clip or open_clip, "cond_stage_model.")):
        if not part:
            raise _other(
                path, f"no tensors {prefix}*", "The file is incomplete, or of another kind of model."
            )
    if with_vae and not vae:
        raise _other(path, f"no tensors {_VAE}*", "Name a VAE as pretrained_vae_model_name_or_path.")
    second = bool(open_clip)
    clip = open_clip_tensors(open_clip) if second else _renamed(clip, clip_names(clip))
    tensors = {
        "text_encoder": {
            name: tensor for name, tensor in clip.items() if not is_ignored(name, "text_encoder")
        },
        "unet": _renamed(unet, unet_names(unet)),
    }
    if with_vae:
        tensors["vae"] = _vae_tensors(vae)
    if config_folder is not None:
        parts = (*tensors, "scheduler")
        configs = {component: read_config(config_folder, component) for component in parts}
    else:
        configs, said = _derived(path, tensors, second, prediction_type, marks=stored.keys())
        notes += said
    return SingleFile(path, tensors, configs, second, tuple(notes))


def open_vae_file(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """Return config and tensors of the autoencoder in a file: alone, in either layout, or in a whole model's.

    Raises:
      WeightsError: there is none in it.
    """
    stored = index_file(path)
    vae = _inside(stored, _VAE) or {
        name: tensor for name, tensor in stored.items() if name.startswith(_VAE_PARTS)
    }
    if not {name.partition(".")[0] for name in vae} >= {"encoder", "decoder"}:
        raise WeightsError(
            path,
            expected="a VAE of Stable Diffusion, with encoder.* and decoder.*",
            found=f"{len(stored)} other tensors such as {next(iter(stored), 'none')}",
            remedy="Name a VAE as pretrained_vae_model_name_or_path.",
        )
    tensors = _vae_tensors(vae)
    return derived_configs.vae_config(_shapes(tensors), where=str(path)), tensors


_VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


def _inside(stored: Mapping[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}


def _averaged(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {dotted(name): tensor for name, tensor in _inside(stored, _AVERAGED).items()}


def _renamed(tensors: Mapping[str, StoredTensor], names: Mapping[str, str]) -> dict[str, StoredTensor]:
    return {names[name]: tensor for name, tensor in tensors.items()}


def _vae_tensors(vae: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Rename an autoencoder's tensors; its training loss, which some files hold too, is left out."""
    own = {name: tensor for name, tensor in vae.items() if name.startswith(_VAE_PARTS)}
    return _renamed(own, vae_names(own))


def _shapes(tensors: Mapping[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _derived(
    path: pathlib.Path,
    tensors: Mapping[str, Mapping[str, StoredTensor]],
    second: bool,
    prediction_type: str | None,
    marks: Collection[str],
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Work configs out from shapes, from the original code's YAML file beside the model if there is one."""
    where = str(path)
    shapes = {component: _shapes(own) for component, own in tensors.items()}
    act = "gelu" if second else "quick_gelu"
    configs = {
        "text_encoder": derived_configs.text_encoder_config(
            shapes["text_encoder"], hidden_act=act, where=where
        ),
        "unet": derived_configs.unet_config(shapes["unet"], where=where),
    }
    if "vae" in shapes:
        configs["vae"] = derived_configs.vae_config(shapes["vae"], where=where)
    yaml_file = path.with_suffix(".yaml")
    written = read_description(yaml_file) if yaml_file.is_file() else {}
    said = [f"{yaml_file.name} beside it describes the model"] if written else []
    # Some trainers mark what a UNet predicts with an empty tensor of this name.
    marked = "v_prediction" if "v_pred" in marks else None
    prediction_type = prediction_type or marked or predicted(written, yaml_file)
    if prediction_type is None:
        prediction_type = "v_prediction" if second else "epsilon"
        if second:
            said.append(
                f"{path.name} does not say what its UNet predicts; taken for a 2.x model of velocity, as the "
                "768 ones are: --prediction_type=epsilon is right for the 512-base ones"
            )
    configs["scheduler"] = derived_configs.scheduler_config(prediction_type)
    if second and prediction_type == "v_prediction":
        configs["unet"]["sample_size"] = 96
    if "ztsnr" in marks:
        configs["scheduler"] |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    apply_description(configs, written, yaml_file)
    return configs, said


def _refuse_others(stored: Mapping[str, StoredTensor], path: pathlib.Path) -> None:
    """Raise a WeightsError that names a file of another known kind."""
    for beginnings, kind, remedy in _OTHERS:
        if any(name.startswith(beginnings) for name in stored):
            raise _other(path, kind, remedy)
    if any(name.startswith((_UNET, _AVERAGED)) for name in stored):
        return
    if any(part in name for name in stored for part in _LORA_PARTS):
        raise _other(path, "a LoRA", "Merge it into its model first, or name the model alone.")
    vectors = all(len(tensor.shape) <= 2 for tensor in stored.values()) and len(stored) <= 2
    if _EMBEDDING_NAMES & stored.keys() or vectors:
        raise _other(path, "a learned embedding", "Name the model that it belongs to.")
    if any(name.removeprefix(_VAE).startswith(_VAE_PARTS) for name in stored):
        raise _other(
            path, "a VAE alone", "Name it as pretrained_vae_model_name_or_path, beside a whole model."
        )
    if any(name.startswith(("down_blocks.", "conv_in.")) for name in stored):
        raise _other(path, "a UNet alone, in diffusers' layout", "Name the whole model's folder.")
    if any(name.startswith(_TEXT_MODEL) for name in stored):
        raise _other(path, "a text encoder alone", "Name the whole model's folder.")


def _other(path: pathlib.Path, kind: str, remedy: str) -> WeightsError:
    return WeightsError(path, expected="a whole Stable Diffusion 1.x or 2.x model", found=kind, remedy=remedy)
