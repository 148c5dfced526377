"""Images that are not to be learned from: options give their folders another role, or a run wrote them."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ti_flax.data.sources.find import Found
from ti_flax.data.sources.source_image import SourceImage
from ti_flax.errors import DataError
from ti_flax.files.written_files import is_list, recorded

# Options whose folder may be that of the images: masks have names of their own there, the others no images.
_SHARED = frozenset(("mask_dir", "latents_cache_dir"))


def without_other_roles(found: Found, source: str | Path, roles: Sequence[tuple[str, Path]]) -> Found:
    """What a folder holds, less what lies in folders of another role, with a note for each of them.

    Left out are images in a file or folder that another option names, and images that a run wrote, by the
    list in its output folder. Lists and datasets name their images one by one, and are taken at their word.

    Args:
      found: images of the source.
      source: as train_data_dir or class_data_dir names it.
      roles: files and folders, each with the option that names it.

    Raises:
      DataError: another option names the same folder, or nothing is left.
    """
    root = Path(os.path.realpath(os.path.expanduser(source)))
    if not root.is_dir():
        return found
    named = [(option, Path(os.path.realpath(path))) for option, path in roles]
    for option, path in named:
        if path == root and option not in _SHARED:
            raise DataError(
                f"train_data_dir {source}",
                expected="a folder of images to learn from",
                found=f"the folder that {option} names",
                remedy="Give each a folder of its own.",
            )
    # Folders above this one have another role as a whole; links may lead to folders anywhere else.
    apart = [(option, path) for option, path in named if not root.is_relative_to(path)]
    written = functools.cache(_written_in)
    kept: list[SourceImage] = []
    left_out: dict[str, list[str]] = {}
    for image in found.images:
        reason = _role(image, apart) or _run(image, root, written)
        if reason is None:
            kept.append(image)
        else:
            left_out.setdefault(reason, []).append(image.name)
    if found.images and not kept:
        raise DataError(
            f"train_data_dir {source}",
            expected="images to learn from",
            found=f"only images {_listed(left_out)}",
            remedy="Put three to five images of the concept into it.",
        )
    notes = [f"left out of train_data_dir: {_counted(names)} {reason}" for reason, names in left_out.items()]
    return dataclasses.replace(found, images=tuple(kept), notes=(*found.notes, *notes))


def _role(image: SourceImage, roles: Iterable[tuple[str, Path]]) -> str | None:
    if image.path is None:
        return None
    path = Path(os.path.realpath(image.path))
    return next((f"of {option}" for option, place in roles if path.is_relative_to(place)), None)


def _run(image: SourceImage, root: Path, written) -> str | None:
    """Why an image is a run's: it is in the list of a folder that it lies in."""
    if image.path is None:
        return None
    path = Path(os.path.realpath(image.path))
    for folder in path.parents:
        if not folder.is_relative_to(root):
            return None
        if path.relative_to(folder).as_posix() in written(folder):
            return f"that a run wrote in {folder.name}"
    return None


def _written_in(folder: Path) -> frozenset[str]:
    return frozenset(recorded(folder) or ()) if is_list(folder) else frozenset()


def _counted(names: Sequence[str]) -> str:
    return f"{names[0]}, an image" if len(names) == 1 else f"{len(names)} images, such as {names[0]},"


def _listed(left_out: dict[str, list[str]]) -> str:
    return " and ".join(left_out)
