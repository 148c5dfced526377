"""The layout of a diffusers model folder: which file holds what."""

import json
import pathlib
import re
from collections.abc import Collection, Iterable
from typing import Any

from ti_flax.errors import WeightsError
from ti_flax.files.folder_files import LINK_REMEDY, LeavingLinkError, require_inside
from ti_flax.files.regular import read_regular

SAFETENSORS = ".safetensors"
MSGPACK = ".msgpack"

_LONGEST_JSON = 2**24

# Parts that have files of weights.
WITH_WEIGHTS = frozenset({"text_encoder", "unet", "vae", "safety_checker"})
# Stands for files that are no variant.
_PLAIN = "none"

_PIPELINES = (
    "StableDiffusionPipeline",
    "FlaxStableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "FlaxStableDiffusionXLPipeline",
)
# Parts that other kinds of models have and that no text-to-image Stable Diffusion 1.x or 2.x has.
_FOREIGN_PARTS = ("text_encoder_2", "transformer", "prior", "image_encoder", "controlnet", "depth_estimator")


def torch_stem(component: str) -> str:
    """Name weight files of the transformers library (`model`) and of diffusers, without extension."""
    return "diffusion_pytorch_model" if component in ("unet", "vae") else "model"


def flax_name(component: str) -> str:
    """Name the Flax weight file of a component."""
    return ("diffusion_flax_model" if component in ("unet", "vae") else "flax_model") + MSGPACK


def config_name(component: str) -> str:
    """Name the config file of a component."""
    return "scheduler_config.json" if component == "scheduler" else "config.json"


def choose_weights(names: Collection[str], component: str, variant: str | None, where: str) -> list[str]:
    """Choose one format among a component's files: safetensors, in one or several files, or Flax msgpack.

    Args:
      names: of the files in the component's folder.
      component: `text_encoder`, `unet`, `vae`, `safety_checker`.
      variant: as in `model.fp16.safetensors`, where the component has it; else its plain files are chosen, as
        diffusers does. None: the plain files.
      where: the folder, for messages.

    Returns:
      The names to read or download; the index of a sharded set is not among them.

    Raises:
      WeightsError: when there is none.
    """
    for wanted in dict.fromkeys((variant, None)):
        if chosen := _chosen(names, component, wanted, where):
            return chosen
    raise _no_weights(names, component, variant, where)


def require_variant(names: Collection[str], variant: str | None, where: object) -> None:
    """Check that some component of a model has a variant, which else would be one that nobody has.

    Args:
      names: of the model's files, such as `unet/config.json`.
      variant: as for `choose_weights`.
      where: the model, for messages.

    Raises:
      WeightsError: naming the variants that there are.
    """
    if variant is None:
        return
    found: set[str] = set()
    for component in WITH_WEIGHTS:
        found.update(_variants(_inside(names, component), torch_stem(component)))
    if variant not in found:
        known = sorted(found - {_PLAIN})
        raise WeightsError(
            where,
            expected=f"the variant {variant} of at least one part",
            found=f"only {', '.join(known)}" if known else "files without a variant",
            remedy=f"Set variant to {known[0]}." if known else "Leave variant out.",
        )


def parts_without(names: Collection[str], variant: str, components: Iterable[str]) -> list[str]:
    """Name the components with weights of which there is no such variant, so that plain files are read."""
    present = {name.split("/")[0] for name in names}
    return [
        part
        for part in components
        if part in WITH_WEIGHTS and part in present
        if variant not in _variants(_inside(names, part), torch_stem(part))
    ]


def names_in(folder: pathlib.Path) -> list[str]:
    """List the files of a model folder's parts, such as `unet/config.json`."""
    parts = (folder / part for part in sorted(WITH_WEIGHTS))
    return [f"{part.name}/{file.name}" for part in parts if part.is_dir() for file in part.iterdir()]


def _inside(names: Iterable[str], component: str) -> list[str]:
    return [name.removeprefix(f"{component}/") for name in names if name.startswith(f"{component}/")]


def _chosen(names: Collection[str], component: str, variant: str | None, where: str) -> list[str]:
    """Choose a component's files of just this variant; none where there are none."""
    stem = torch_stem(component) + (f".{variant}" if variant else "")
    if stem + SAFETENSORS in names:
        return [stem + SAFETENSORS]
    shard = re.compile(re.escape(stem) + r"-\d+-of-(\d+)" + re.escape(SAFETENSORS))
    shards = {name: int(match[1]) for name in sorted(names) if (match := shard.fullmatch(name))}
    if shards:
        if len(shards) != max(shards.values()):
            found = f"{len(shards)} of {max(shards.values())} files {stem}-*{SAFETENSORS}"
            raise WeightsError(where, expected="all shards", found=found, remedy="Download it again.")
        return list(shards)
    if variant is None and flax_name(component) in names:
        return [flax_name(component)]
    return []


def read_config(folder: pathlib.Path, component: str) -> dict[str, Any]:
    """Read the parsed config file of a component, `scheduler` included.

    Raises:
      WeightsError: when it is missing or no JSON object.
    """
    return read_json(folder / component / config_name(component))


def check_kind(folder: pathlib.Path) -> None:
    """Check that a folder holds a text-to-image Stable Diffusion 1.x or 2.x model.

    A folder without `model_index.json` is left to the checks of the config files.

    Raises:
      WeightsError: naming what it holds instead.
    """
    path = folder / "model_index.json"
    if not path.exists():
        return
    index = read_json(path)
    present = [part for part in index if not part.startswith("_") and _is_present(index[part])]
    pipeline = str(index.get("_class_name", _PIPELINES[0]))
    if pipeline in _PIPELINES and "XL" in pipeline:
        return
    refuse_foreign_parts(present, folder)
    if pipeline not in _PIPELINES and not {"unet", "vae", "text_encoder"} <= set(present):
        raise _foreign(folder, f"a {pipeline}")
    if "Inpaint" in pipeline or "Upscale" in pipeline or "XL" in pipeline:
        raise _foreign(folder, f"a {pipeline}")


def refuse_foreign_parts(parts: Iterable[str], where: object) -> None:
    """Raise a WeightsError if one of the named parts belongs to another kind of model."""
    foreign = [part for part in parts if part in _FOREIGN_PARTS]
    if foreign:
        kind = "a Stable Diffusion XL model" if "text_encoder_2" in foreign else "another kind of model"
        raise _foreign(where, f"{kind} (it has {foreign[0]})")


def _is_present(entry: Any) -> bool:
    """Tell a part from one that is switched off: `null`, `[null, null]` or `[library, null]`."""
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def _foreign(where: object, found: str) -> WeightsError:
    return WeightsError(
        where,
        expected="a text-to-image Stable Diffusion 1.x or 2.x model",
        found=found,
        remedy="Use one such as stable-diffusion-v1-5/stable-diffusion-v1-5.",
    )


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object of a model folder, which the file has to lie in.

    Raises:
      WeightsError: when the file is missing, holds something else, or is a link that leaves its folder.
    """
    try:
        content = json.loads(_text_of(path))
    except FileNotFoundError:
        raise WeightsError(
            path, expected="a config file", found="none", remedy="The model folder is incomplete."
        ) from None
    except LeavingLinkError as error:  # what a config says goes into the result
        raise WeightsError(
            path, expected="a JSON file", found=error.strerror or "", remedy=LINK_REMEDY
        ) from None
    except OSError as error:
        raise WeightsError(path, expected="a JSON file", found=error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        said = "brackets within brackets, too deep" if isinstance(error, RecursionError) else str(error)
        raise WeightsError(path, expected="a JSON file", found=f"something else ({said})") from None
    if not isinstance(content, dict):
        raise WeightsError(path, expected="a JSON object", found=type(content).__name__)
    return content


def _text_of(path: pathlib.Path) -> bytes:
    content = read_regular(path, _LONGEST_JSON)
    require_inside(path, path.parent)
    return content


def _no_weights(names: Collection[str], component: str, variant: str | None, where: str) -> WeightsError:
    stem = torch_stem(component)
    wanted = f"{stem}{SAFETENSORS} or {flax_name(component)}"
    wanted = f"{stem}.{variant}{SAFETENSORS}, or {wanted}" if variant else wanted
    others = sorted(name for name in names if name.endswith((SAFETENSORS, MSGPACK, ".bin", ".ckpt")))
    remedy = "The model folder is incomplete."
    if variants := _variants(others, stem):
        remedy = f"The variants here are {', '.join(variants)}: set variant to one of them"
        remedy += f", or rename its file to {stem}{SAFETENSORS}, which goes with any." if variant else "."
    elif others and all(name.endswith((".bin", ".ckpt")) for name in others):
        remedy = (
            "Pickled .bin files are not read. Take a revision with safetensors, or convert once, where "
            "PyTorch is installed: StableDiffusionPipeline.from_pretrained(...).save_pretrained(folder)."
        )
    return WeightsError(where, expected=wanted, found=", ".join(others) or "no weights", remedy=remedy)


def _variants(names: Iterable[str], stem: str) -> list[str]:
    pattern = re.compile(re.escape(stem) + r"(?:\.(\w+))?(?:-\d+-of-\d+)?" + re.escape(SAFETENSORS))
    return sorted({match[1] or _PLAIN for name in names if (match := pattern.fullmatch(name))})
