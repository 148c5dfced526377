"""The images beside a model card: what the concept was learned from, and what it draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ti_flax.errors import unwritable
from ti_flax.export.hub_files import CONCEPT_IMAGES, EXAMPLE_IMAGES
from ti_flax.files.atomic import atomic_write
from ti_flax.files.written_files import record, written

# The most training images that are shown.
MOST_CONCEPT_IMAGES = 20


def write_concept_images(folder: Path, images: Iterable[np.ndarray]) -> int:
    """Writes `concept_images/0.jpeg` and so on in place of earlier ones; returns how many.

    Args:
      folder: the run's.
      images: `[height, width, 3]` uint8 each, as they are trained on; a JPEG of pixels has no metadata.

    Raises:
      OutputError: the folder cannot be written.
    """
    return _write(folder / CONCEPT_IMAGES, list(images)[:MOST_CONCEPT_IMAGES])


def write_example_images(folder: Path, grid: Path, prompts: Sequence[str], size: tuple[int, int]) -> int:
    """Writes the first image of each prompt in a grid of previews; returns how many, 0 without a grid.

    Args:
      folder: the run's.
      grid: a PNG of images of one size, a row for each prompt; of one prompt, in any number of rows.
      prompts: one for each row.
      size: height and width of an image, in pixels.
    """
    from PIL import Image

    if not grid.is_file():
        return _write(folder / EXAMPLE_IMAGES, [])
    with Image.open(grid) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    height, width = size
    fits = pixels.shape[0] % height == 0 and pixels.shape[1] % width == 0
    if not fits or (len(prompts) > 1 and pixels.shape[0] != height * len(prompts)):
        return _write(folder / EXAMPLE_IMAGES, [])
    return _write(
        folder / EXAMPLE_IMAGES, [pixels[row * height :][:height, :width] for row in range(len(prompts))]
    )


def _write(folder: Path, images: Sequence[np.ndarray]) -> int:
    from PIL import Image

    run, names = folder.parent, [f"{folder.name}/{index}.jpeg" for index in range(len(images))]
    try:
        if folder.is_symlink():  # what it leads to is nobody's to empty or to fill
            folder.unlink()
        for path in folder.glob("*.jpeg"):
            if path.relative_to(run).as_posix() in written(run):
                path.unlink()
        record(run, *names)
        for name, image in zip(names, images, strict=True):
            with atomic_write(run / name) as file:
                Image.fromarray(image).save(file, format="JPEG", quality=95)
    except OSError as error:
        raise unwritable(folder, error) from error
    return len(images)
