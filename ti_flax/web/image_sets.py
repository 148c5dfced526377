"""Folders of training images: what browsers send, looked at before it is kept, and captions beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ti_flax.data.images.decode import Decoded, decoded, upright_alone
from ti_flax.data.sources.formats import is_named_as_image
from ti_flax.errors import DataError, TiFlaxError
from ti_flax.files.atomic import atomic_write, write_text
from ti_flax.files.regular import read_regular
from ti_flax.files.text import read_text
from ti_flax.web.work_folder import WorkFolder

# Of one drop: files, and bytes of each, which Gradio is told as well.
MOST_FILES, LARGEST_FILE = 200, 50 * 2**20
LONGEST_CAPTION = 2**12
# Formats that are kept as they are; others become PNG.
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}
_CAPTION = ".txt"


@dataclass(frozen=True)
class Taken:
    """What became of files that were dropped.

    Attributes:
      folder: where the images are now; None if there were none.
      faults: a line for each file that was refused.
    """

    folder: Path | None
    faults: tuple[str, ...]


def take_files(work: WorkFolder, files: Sequence[str]) -> Taken:
    """Keeps images that a browser sent, and captions of the same name, in a new folder; under names of ours.

    Args:
      work: where the folder goes.
      files: paths below Gradio's folder; anything else is refused.
    """
    if len(files) > MOST_FILES:
        found = DataError("images", expected=f"at most {MOST_FILES} files at once", found=f"{len(files)}")
        return Taken(None, (str(found),))
    paths = [Path(os.path.realpath(file)) for file in files]
    captions = {path.stem: path for path in paths if path.suffix.lower() == _CAPTION}
    folder, faults, number = None, [], 0
    for path in paths:
        if path.suffix.lower() == _CAPTION:
            continue
        try:
            content, suffix = _looked_at(work, path)
        except TiFlaxError as error:
            faults.append(str(error))
            continue
        folder, number = folder or work.new_images(), number + 1
        kept = folder / f"{number:03d}{suffix}"
        with atomic_write(kept, durable=False) as file:
            file.write(content)
        if path.stem in captions:
            faults += _take_caption(captions[path.stem], kept)
    return Taken(folder, tuple(faults))


def _looked_at(work: WorkFolder, path: Path) -> tuple[bytes, str]:
    """The bytes to keep of a file that is an image, and their suffix.

    Raises:
      DataError: it is no image that training reads.
    """
    if not path.is_relative_to(work.temporary):
        raise DataError(path.name, expected="a file that was dropped on the page", found="another one")
    try:
        content = read_regular(path, LARGEST_FILE)
    except OSError as error:
        raise DataError(path.name, expected="an image", found=error.strerror or str(error)) from None
    form, image = decoded(content, path.name, lambda opened: (opened.format, upright_alone(opened)))
    if form in _SUFFIXES:
        return content, _SUFFIXES[form]
    return _as_png(image), ".png"


def _as_png(image: Decoded) -> bytes:
    import io

    content = io.BytesIO()
    image.image.save(content, format="PNG")
    return content.getvalue()


def _take_caption(path: Path, image: Path) -> list[str]:
    try:
        text = read_text(path, path.name, most=4 * LONGEST_CAPTION)
        write_caption(image.parent, image.name, text)
    except TiFlaxError as error:
        return [str(error)]
    return []


def images_of(folder: Path) -> list[Path]:
    """The images of a folder itself, without links, by name."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in paths if path.is_file() and not path.is_symlink() and is_named_as_image(path)]


def captions_of(folder: Path) -> list[list[str]]:
    """The names of a folder's images, each with the caption beside it."""
    return [[image.name, _caption(image)] for image in images_of(folder)]


def captioned(table: Sequence[Sequence[str]]) -> tuple[int, int]:
    """How many images of a table of `captions_of` have a caption, and how many images there are."""
    return sum(bool(caption) for _, caption in table), len(table)


def _caption(image: Path) -> str:
    path = image.with_suffix(_CAPTION)
    if path.is_symlink() or not path.is_file():
        return ""
    try:
        return read_text(path, most=4 * LONGEST_CAPTION).strip()
    except TiFlaxError:
        return ""


def write_captions(work: WorkFolder, folder: Path, table: Iterable[Sequence[Any]]) -> None:
    """Writes captions beside images as the trainer reads them; those that have not changed stay.

    Args:
      work: only what lies in it is written.
      folder: of the images.
      table: names and captions.

    Raises:
      DataError: the folder is not ours to write, a name is no image of it, or a caption is too long.
    """
    if not folder.is_relative_to(work.images):
        raise DataError(
            "captions",
            expected="images that were dropped here",
            found=work.shown(folder),
            remedy="Drop them on the page to write captions for them.",
        )
    before = dict(captions_of(folder))
    for name, caption in ((str(line[0]), str(line[1] or "")) for line in table if len(line) > 1):
        if name not in before:
            raise DataError("captions", expected="the name of an image of this folder", found=repr(name))
        if caption.strip() != before[name]:
            write_caption(folder, name, caption)


def write_caption(folder: Path, name: str, caption: str) -> None:
    """Writes the caption of one image; an empty one takes it away.

    Raises:
      DataError: it is too long.
      OSError: it cannot be written.
    """
    text = " ".join(caption.split())
    if len(text) > LONGEST_CAPTION:
        found = f"{len(text)}"
        raise DataError(f"caption of {name}", expected=f"at most {LONGEST_CAPTION} letters", found=found)
    path = (folder / name).with_suffix(_CAPTION)
    if text:
        write_text(path, f"{text}\n")
    else:
        path.unlink(missing_ok=True)
