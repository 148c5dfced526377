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
from ti_flax.models.weights.model_folder import folder_parts, has_second_parts, read_config
from ti_flax.models.weights.original_names import (
    clip_names,
    dotted,
    open_clip_tensors,
    projected_open_clip_tensors,
    unet_names,
    vae_names,
)
from ti_flax.models.weights.original_yaml import apply_description, predicted, read_description
from ti_flax.models.weights.other_kinds import (
    AVERAGED_UNET,
    EMBEDDING_NAMES,
    SDXL_TEXT,
    UNET,
    VAE,
    VAE_PARTS,
    embedding_file,
    other_file,
    refuse_file,
)
from ti_flax.models.weights.tensor_files import StoredTensor, damaged, index_safetensors
from ti_flax.models.weights.torch_files import is_torch_file, named_tensors, read_torch

_TEXT = "cond_stage_model."
_CLIP, _OPEN_CLIP = f"{_TEXT}transformer.", f"{_TEXT}model."
_SDXL_CLIP, _SDXL_OPEN_CLIP = f"{SDXL_TEXT}0.transformer.", f"{SDXL_TEXT}1.model."
# Empty tensors by which trainers mark a file: its UNet predicts velocity; its last timestep is pure noise.
_VELOCITY, _ZERO_SNR = "v_pred", "ztsnr"

Tensors = dict[str, StoredTensor]


@dataclasses.dataclass(frozen=True)
class SingleFile:
    """What one file holds, under diffusers' names.

    Attributes:
      path: of the file.
      tensors: of `text_encoder`, `text_encoder_2` of an SDXL model, `unet` and, unless it comes from
        elsewhere, `vae`.
      configs: of the same and of `scheduler`.
      second: whether it is a 2.x model, by its text encoder.
      notes: what a user should know about how it was read.
    """

    path: pathlib.Path
    tensors: dict[str, Tensors]
    configs: dict[str, dict[str, Any]]
    second: bool
    notes: tuple[str, ...]

    @property
    def is_sdxl(self) -> bool:
        """Whether it is an SDXL model, by its text encoders."""
        return "text_encoder_2" in self.tensors


def index_file(path: pathlib.Path) -> Tensors:
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
        if isinstance(content, dict) and EMBEDDING_NAMES & content.keys():
            raise embedding_file(path)
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
    refuse_file(_shapes(stored), path)
    unet, notes = _unet(stored, path)
    sdxl = any(name.startswith(SDXL_TEXT) for name in stored)
    second = not sdxl and any(name.startswith(_OPEN_CLIP) for name in stored)
    tensors = {
        part: {name: tensor for name, tensor in found.items() if not is_ignored(name, part)}
        for part, found in _text_encoders(stored, sdxl=sdxl, second=second, path=path).items()
    }
    tensors["unet"] = _renamed(unet, unet_names(unet))
    if with_vae:
        tensors["vae"] = _vae_tensors(_required(stored, VAE, path))
    if config_folder is not None:
        configs, said = _described(config_folder, tensors, sdxl=sdxl)
    else:
        configs, said = _derived(path, tensors, second, prediction_type, marks=stored.keys())
    said += _apply_marks(configs, stored.keys(), prediction_type, path)
    return SingleFile(path, tensors, configs, second, (*notes, *said))


def _unet(stored: Mapping[str, StoredTensor], path: pathlib.Path) -> tuple[Tensors, list[str]]:
    """Return the UNet's tensors, its averaged ones where there are no others, and what to say of them."""
    unet, averaged = _inside(stored, UNET), _averaged(stored)
    if unet and averaged:
        return unet, [f"{path.name} also has averaged (EMA) weights of the UNet, which are not used"]
    if averaged:
        return averaged, [f"{path.name} has averaged (EMA) weights of the UNet alone; they are used"]
    return _required(stored, UNET, path), []


def _text_encoders(
    stored: Mapping[str, StoredTensor], *, sdxl: bool, second: bool, path: pathlib.Path
) -> dict[str, Tensors]:
    """Return the tensors of the text encoders, one or two, under the names of transformers."""
    if sdxl:
        clip, open_clip = (_required(stored, prefix, path) for prefix in (_SDXL_CLIP, _SDXL_OPEN_CLIP))
        return {
            "text_encoder": _renamed(clip, clip_names(clip)),
            "text_encoder_2": projected_open_clip_tensors(open_clip),
        }
    if second:
        return {"text_encoder": open_clip_tensors(_inside(stored, _OPEN_CLIP))}
    clip = _inside(stored, _CLIP) or _required(stored, _CLIP, path, told=_TEXT)
    return {"text_encoder": _renamed(clip, clip_names(clip))}


def open_vae_file(path: pathlib.Path, *, sdxl: bool = False) -> tuple[dict[str, Any], Tensors]:
    """Return config and tensors of the autoencoder in a file: alone, in either layout, or in a whole model's.

    Args:
      path: of the file.
      sdxl: whether it is for an SDXL model: the file does not say how its latents are scaled.

    Raises:
      WeightsError: there is none in it.
    """
    stored = index_file(path)
    vae = _inside(stored, VAE) or {
        name: tensor for name, tensor in stored.items() if name.startswith(VAE_PARTS)
    }
    if not {name.partition(".")[0] for name in vae} >= {"encoder", "decoder"}:
        raise WeightsError(
            path,
            expected="a VAE of Stable Diffusion, with encoder.* and decoder.*",
            found=f"{len(stored)} other tensors such as {next(iter(stored), 'none')}",
            remedy="Name a VAE as pretrained_vae_model_name_or_path.",
        )
    tensors = _vae_tensors(vae)
    return derived_configs.vae_config(_shapes(tensors), where=str(path), sdxl=sdxl), tensors


def _inside(stored: Mapping[str, StoredTensor], prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}


def _required(
    stored: Mapping[str, StoredTensor], prefix: str, path: pathlib.Path, *, told: str = ""
) -> Tensors:
    """Return the tensors whose names begin with a prefix, without it.

    Raises:
      WeightsError: there are none; the message has `told` in place of the prefix.
    """
    if found := _inside(stored, prefix):
        return found
    remedy = "The file is incomplete, or of another kind of model."
    if prefix == VAE:
        remedy = "Name a VAE as pretrained_vae_model_name_or_path."
    raise other_file(path, f"no tensors {told or prefix}*", remedy)


def _averaged(stored: Mapping[str, StoredTensor]) -> Tensors:
    return {dotted(name): tensor for name, tensor in _inside(stored, AVERAGED_UNET).items()}


def _renamed(tensors: Mapping[str, StoredTensor], names: Mapping[str, str]) -> Tensors:
    return {names[name]: tensor for name, tensor in tensors.items()}


def _vae_tensors(vae: Mapping[str, StoredTensor]) -> Tensors:
    """Rename an autoencoder's tensors; its training loss, which some files hold too, is left out."""
    own = {name: tensor for name, tensor in vae.items() if name.startswith(VAE_PARTS)}
    return _renamed(own, vae_names(own))


def _shapes(tensors: Mapping[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _described(
    folder: pathlib.Path, tensors: Mapping[str, Tensors], *, sdxl: bool
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Read the configs of the file's parts from a model folder of the same kind."""
    if has_second_parts(folder_parts(folder)) != sdxl:
        kinds = ("a Stable Diffusion 1.x or 2.x model", "an SDXL model")
        raise WeightsError(
            f"config_name {folder}",
            expected=f"config files of {kinds[sdxl]}, as the single file is",
            found=f"those of {kinds[not sdxl]}",
            remedy="Name another folder, or leave config_name out.",
        )
    return {component: read_config(folder, component) for component in (*tensors, "scheduler")}, []


def _derived(
    path: pathlib.Path,
    tensors: Mapping[str, Tensors],
    second: bool,
    prediction_type: str | None,
    marks: Collection[str],
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Work configs out from shapes, and from the original code's YAML file beside the model if any."""
    shapes = {component: _shapes(own) for component, own in tensors.items()}
    configs = derived_configs.model_configs(shapes, second=second, where=str(path))
    sdxl = "text_encoder_2" in tensors
    yaml_file = path.with_suffix(".yaml")
    written = read_description(yaml_file) if yaml_file.is_file() else {}
    said = [f"{yaml_file.name} beside it describes the model"] if written else []
    marked = "v_prediction" if _VELOCITY in marks else None
    prediction_type = prediction_type or marked or predicted(written, yaml_file)
    if prediction_type is None:
        prediction_type = "v_prediction" if second else "epsilon"
        if second:
            said.append(
                f"{path.name} does not say what its UNet predicts; taken for a 2.x model of velocity, as the "
                "768 ones are: --prediction_type=epsilon is right for the 512-base ones"
            )
    configs["scheduler"] = derived_configs.scheduler_config(prediction_type, sdxl=sdxl)
    if second and prediction_type == "v_prediction":
        configs["unet"]["sample_size"] = 96
    apply_description(configs, written, yaml_file)
    return configs, said


def _apply_marks(
    configs: dict[str, dict[str, Any]],
    marks: Collection[str],
    prediction_type: str | None,
    path: pathlib.Path,
) -> list[str]:
    """Put what a file's marks say into its scheduler's config, and say where that said otherwise."""
    scheduler, said = configs["scheduler"], []
    if _VELOCITY in marks and prediction_type is None:
        if scheduler.get("prediction_type") != "v_prediction":
            said.append(f"{path.name} is marked {_VELOCITY}: its UNet is taken to predict velocity")
        scheduler = scheduler | {"prediction_type": "v_prediction"}
    if _ZERO_SNR in marks:
        scheduler = derived_configs.with_zero_snr(scheduler)
    configs["scheduler"] = scheduler
    return said
