"""The layout of a diffusers model folder: which file holds what."""

import json
import pathlib
import re
from collections.abc import Collection, Iterable
from typing import Any

from ti_flax.errors import WeightsError
from ti_flax.files.folder_files import LINK_REMEDY, LeavingLinkError, require_inside
from ti_flax.files.regular import read_regular
from ti_flax.models.weights.other_kinds import refuse_index, refuse_parts

SAFETENSORS = ".safetensors"
MSGPACK = ".msgpack"

_INDEX = "model_index.json"
_LONGEST_JSON = 2**24

# Parts that have files of weights.
WITH_WEIGHTS = frozenset({"text_encoder", "text_encoder_2", "unet", "vae", "safety_checker"})
# Parts that an SDXL model has twice, and the second of each.
_SECOND_PARTS = {"tokenizer": "tokenizer_2", "text_encoder": "text_encoder_2"}
# Stands for files that are no variant.
_PLAIN = "none"


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
      component: `text_encoder`, `text_encoder_2`, `unet`, `vae`, `safety_checker`.
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
    """Check that a folder holds a text-to-image Stable Diffusion 1.x, 2.x or XL model.

    What neither `model_index.json` nor the names of the parts tell is left to the checks of the config files.

    Raises:
      WeightsError: naming what it holds instead.
    """
    index, parts = read_index(folder), folder_parts(folder)
    if index:
        refuse_index(index, parts, folder)
    else:
        refuse_parts(parts, folder)


def read_index(folder: pathlib.Path) -> dict[str, Any]:
    """Return the parsed `model_index.json` of a model folder; empty where there is none.

    Raises:
      WeightsError: when it is no JSON object.
    """
    path = folder / _INDEX
    return read_json(path) if path.exists() else {}


def folder_parts(folder: pathlib.Path) -> set[str]:
    """Name the parts of a model folder: those that `model_index.json` does not switch off, else its folders.

    Raises:
      WeightsError: when `model_index.json` is no JSON object.
    """
    index = read_index(folder)
    if not index:
        return {entry.name for entry in folder.iterdir() if entry.is_dir()}
    return {part for part in index if not part.startswith("_") and _is_present(index[part])}


def has_second_parts(parts: Collection[str]) -> bool:
    """Tell the parts of an SDXL model, which has two text encoders and tokenizers, from others."""
    return any(part in parts for part in _SECOND_PARTS.values())


def with_second_parts(components: Iterable[str], parts: Collection[str]) -> tuple[str, ...]:
    """Add to components the second text encoder and tokenizer behind the first, where the model has them.

    Args:
      components: such as `text_encoder`.
      parts: all parts of the model.
    """
    if not has_second_parts(parts):
        return tuple(components)
    doubled = [(part, _SECOND_PARTS.get(part, part)) for part in components]
    return tuple(dict.fromkeys(part for pair in doubled for part in pair))


def _is_present(entry: Any) -> bool:
    """Tell a part from one that is switched off: `null`, `[null, null]` or `[library, null]`."""
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


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
            "PyTorch is installed: DiffusionPipeline.from_pretrained(...).save_pretrained(folder)."
        )
    return WeightsError(where, expected=wanted, found=", ".join(others) or "no weights", remedy=remedy)


def _variants(names: Iterable[str], stem: str) -> list[str]:
    pattern = re.compile(re.escape(stem) + r"(?:\.(\w+))?(?:-\d+-of-\d+)?" + re.escape(SAFETENSORS))
    return sorted({match[1] or _PLAIN for name in names if (match := pattern.fullmatch(name))})
