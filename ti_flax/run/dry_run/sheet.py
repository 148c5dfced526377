"""The images as training sees them, on one sheet beside the output folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ti_flax.data.images.load import ImageGroup, TrainingImages
from ti_flax.data.images.resize import in_frame
from ti_flax.errors import unwritable
from ti_flax.files.regular import open_regular
from ti_flax.generation.image_grid import contact_sheet
from ti_flax.generation.png_metadata import save_png

# Says in a PNG that it is such a sheet, which a later one may replace.
_MARK = ("Software", "ti_flax dry_run")
_SIDE, _COLUMNS = 160, 8
# Rows of all that is shown.
MOST_ROWS = 24
# What stands for the parts of an image that do not count.
_MASKED = np.array([255, 0, 160], np.float32)

Rows = list[tuple[str, np.ndarray]]


def rows_of(name: str, images: TrainingImages, most: int) -> Rows:
    """Rows of the images of a concept, shape by shape.

    Args:
      name: of the concept, in front of each row's label.
      images: with all pixels.
      most: rows.
    """
    rows: Rows = []
    for group in images.groups:
        count, height, width, _ = group.pixels.shape
        label = f"{name}: {count} of {width} x {height} pixels"
        label += ", without what is tinted" if group.masks is not None else ""
        for first in range(0, count, _COLUMNS):
            some = range(first, min(first + _COLUMNS, count))
            rows.append((label, np.stack([_shown(group, index) for index in some])))
            label = ""
        if group.augmented:
            rows.append(_variants_of_first(name, images, group))
    return rows if len(rows) <= most else [*rows[: most - 1], _and_more(rows[most - 1 :])]


def _variants_of_first(name: str, images: TrainingImages, group: ImageGroup) -> tuple[str, np.ndarray]:
    """The first image of a group and its variants, as many as a row has room for."""
    first, count = images.names[group.indices[0]], len(group.variants)
    label = f"{name}: {first} and its variants" + (f", {_COLUMNS} of {count}" if count > _COLUMNS else "")
    return label, np.stack([_shown(each, 0) for each in group.variants[:_COLUMNS]])


def _and_more(left: Rows) -> tuple[str, np.ndarray]:
    images = sum(len(images) for _, images in left)
    label, shown = left[0]
    return f"{label or 'the last row'}; {images - len(shown)} more are not shown", shown


def _shown(group: ImageGroup, index: int) -> np.ndarray:
    """An image whole in a white square, with the parts that do not count tinted."""
    pixels = group.pixels[index]
    if group.masks is not None:
        weight = (group.masks[index].astype(np.float32) / 255)[..., None]
        faded = 0.35 * pixels.astype(np.float32) + 0.65 * _MASKED
        pixels = (weight * pixels + (1 - weight) * faded).astype(np.uint8)
    return in_frame(pixels, (_SIDE, _SIDE))


def write_sheet(rows: Rows, output_dir: Path) -> Path:
    """Writes the sheet beside the output folder, in place of an earlier one of the same name alone.

    Raises:
      OutputError: it cannot be written.
    """
    path = free_path(output_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(contact_sheet(rows), path, dict([_MARK]), overwrite=True)
    except OSError as error:
        raise unwritable(path.parent, error) from error
    return path


def free_path(output_dir: Path) -> Path:
    """The first name beside the folder that nobody's file has: `cat.dry_run.png`, `cat.dry_run-2.png`."""
    place = output_dir.absolute()
    numbers: Sequence[str] = ("", *(f"-{number}" for number in range(2, 1000)))
    paths = (place.with_name(f"{place.name}.dry_run{number}.png") for number in numbers)
    return next(path for path in paths if not path.is_symlink() and (not path.exists() or _is_ours(path)))


def _is_ours(path: Path) -> bool:
    try:
        with open_regular(path) as file, Image.open(file) as image:
            return image.info.get(_MARK[0]) == _MARK[1]
    except Exception:  # Pillow's decoders have no class for their errors
        return False
