"""Masks that say which parts of an image count in the loss: their files, and the weights they give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ti_flax.errors import DataError

# OneTrainer's name for the mask of NAME.jpg is NAME-masklabel.png.
MASK_SUFFIX = "-masklabel"


@dataclass(frozen=True, kw_only=True)
class MaskRules:
    """Where masks are taken from; one of the two.

    Attributes:
      alpha: from the images' own transparency.
      folder: from files in a folder.
    """

    alpha: bool = False
    folder: Path | None = None


class MaskFolder:
    """The masks of a folder and its sub-folders, found by the names of their images.

    Args:
      folder: with the masks: NAME.png or any other suffix in `suffixes`, or NAME-masklabel.png.
      suffixes: of images, in lower case.
      images: folders of the images; a mask may lie in the same sub-folder.

    Raises:
      DataError: there is no such folder.
    """

    def __init__(self, folder: Path, suffixes: Collection[str], images: Iterable[Path] = ()):
        if not folder.is_dir():
            found = "a file" if folder.exists() else "no such folder"
            remedy = "Set mask_dir to the folder that holds the masks."
            raise DataError(f"mask_dir {folder}", expected="a folder", found=found, remedy=remedy)
        self._folder, self._images = folder.resolve(), [each.resolve() for each in images]
        self._files: dict[Path, list[Path]] = defaultdict(list)
        for path in sorted(self._folder.rglob("*")):
            if path.suffix.lower() in suffixes and not path.name.startswith("."):
                self._files[path.relative_to(self._folder).with_suffix("")].append(path)

    def find(self, image: str | Path) -> Path | None:
        """The mask of an image, given by its whole path or, if it is no file, its name; None if it has none.

        Raises:
          DataError: there are several.
        """
        path = Path(image)
        parent = path.parent.resolve() if path.is_absolute() else None
        places = [parent.relative_to(each) for each in self._images if parent and parent.is_relative_to(each)]
        for place in dict.fromkeys([*places, Path()]):
            found = self._files.get(place / (path.stem + MASK_SUFFIX), [])
            # Among the images themselves a file of the same name is another image.
            if not found and parent != (self._folder / place).resolve():
                found = self._files.get(place / path.stem, [])
            if len(found) > 1:
                names = ", ".join(each.name for each in found)
                raise DataError(
                    f"mask_dir {self._folder}",
                    expected=f"one mask for {path.name}",
                    found=names,
                    remedy="Take the others out of the folder.",
                )
            if found:
                return found[0]
        return None

    def none_found(self, names: Sequence[str]) -> DataError:
        """The error for images of which none has a mask."""
        stem = Path(names[0]).stem
        return DataError(
            f"mask_dir {self._folder}",
            expected=f"masks named as the images are, such as {stem}.png or {stem}{MASK_SUFFIX}.png",
            found="none for any image" if self._files else "no images",
        )


def split_masks(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Tells images from masks that lie beside them under OneTrainer's name."""
    paths = list(paths)
    stems = {(path.parent, path.stem) for path in paths}
    images, masks = [], []
    for path in paths:
        owner = (path.parent, path.stem.removesuffix(MASK_SUFFIX))
        (masks if path.stem.endswith(MASK_SUFFIX) and owner in stems else images).append(path)
    return images, masks


def same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one size is the other, scaled and rounded to whole pixels."""
    (small_x, small_y), (large_x, large_y) = sorted((size, other))
    scaled_y, scaled_x = large_y * small_x / large_x, large_x * small_y / large_y
    return abs(scaled_y - small_y) <= 1 or abs(scaled_x - small_x) <= 1


def loss_weights(
    masks: np.ndarray, *, factor: int, unmasked_weight: float = 0.0, names: Sequence[str] = ()
) -> np.ndarray | None:
    """What each place of the latents counts: a mask's mean over the place, scaled to mean 1 over the image.

    Args:
      masks: `[images, height, width]` uint8, 255 counts wholly and 0 `unmasked_weight`.
      factor: pixels along a side of a latent's square.
      unmasked_weight: in [0, 1].
      names: of the images, for error messages.

    Returns:
      `[images, 2, height / factor, width / factor]` float32, axis 1 is image, mirror image; None if
      everything counts the same.

    Raises:
      DataError: a mask leaves nothing.
    """
    images, height, width = masks.shape
    blocks = masks.reshape(images, height // factor, factor, width // factor, factor)
    counted = blocks.mean(axis=(2, 4), dtype=np.float64) / 255
    empty = np.flatnonzero(counted.max(axis=(1, 2)) == 0)
    if empty.size:
        raise DataError(
            names[empty[0]] if names else f"image {empty[0] + 1}",
            expected="a mask with something white (or opaque) in it",
            found="only black (or transparent) where the image is not cropped",
            remedy="White is what is learned: invert the mask, or take the image out.",
        )
    weights = unmasked_weight + (1 - unmasked_weight) * counted
    weights /= weights.mean(axis=(1, 2), keepdims=True)
    weights[np.ptp(counted, axis=(1, 2)) == 0] = 1.0  # exactly, whatever the division rounds to
    if (weights == 1).all():
        return None
    return np.stack([weights, weights[:, :, ::-1]], axis=1).astype(np.float32)
