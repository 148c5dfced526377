"""Images of one shape, as arrays, and how these are filled."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from ti_flax.data.images.buckets import Shape
from ti_flax.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class ImageGroup:
    """Images of one shape.

    Attributes:
      indices: `[images]` int, places in the order of all images.
      pixels: `[images, height, width, 3]` uint8 RGB.
      time_ids: `[images, 2, 6]` float32, the micro-conditioning of each image and of its mirror image:
        original height and width, crop top and left, target height and width.
      masks: `[images, height, width]` uint8, 255 where the image counts in the loss; None if everywhere.
      augmented: the same images, cropped and coloured at random, a group for each time that was done.
    """

    indices: np.ndarray
    pixels: np.ndarray
    time_ids: np.ndarray
    masks: np.ndarray | None = None
    augmented: tuple[ImageGroup, ...] = ()

    @property
    def variants(self) -> tuple[ImageGroup, ...]:
        """The images as they are, then augmented."""
        return (dataclasses.replace(self, augmented=()), *self.augmented)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels."""
        return sum(group.pixels.nbytes for group in (self, *self.augmented))

    def first(self, count: int) -> ImageGroup:
        """Copies of those of the first images of all that are in this group, as they are."""
        kept = self.indices < count
        masks = None if self.masks is None else self.masks[kept]
        return ImageGroup(self.indices[kept], self.pixels[kept], self.time_ids[kept], masks)


class GroupArrays:
    """The arrays of images of one shape, which come in one by one.

    Args:
      images: how many there will be.
      shape: of all.
    """

    def __init__(self, images: int, shape: Shape):
        self.pixels = np.empty((images, *shape, 3), np.uint8)
        self._time_ids = np.empty((images, 2, 6), np.float32)
        self._masks: np.ndarray | None = None

    def put(self, index: int, pixels: np.ndarray, time_ids: np.ndarray, mask: np.ndarray | None) -> None:
        """Takes an image, what is told of its sizes, and its mask if it has one."""
        self.pixels[index], self._time_ids[index] = pixels, time_ids
        if mask is not None:
            if self._masks is None:
                self._masks = np.full(self.pixels.shape[:3], 255, np.uint8)
            self._masks[index] = mask

    def group(self, indices: np.ndarray, augmented: tuple[ImageGroup, ...] = ()) -> ImageGroup:
        """The images that came in, with their places in the order of all."""
        return ImageGroup(indices, self.pixels, self._time_ids, self._masks, augmented)


def require_room(images: int, shape: Shape, variants: int = 1) -> None:
    """Refuses images that this machine's memory cannot hold.

    Args:
      images: how many.
      shape: of all.
      variants: of each.

    Raises:
      DataError: they are too many.
    """
    needed, there = images * variants * shape.height * shape.width * 3, memory_of_machine()
    if needed > there:
        several = f" in {variants} variants each" if variants > 1 else ""
        fewer = "augmentations_per_image or " if variants > 1 else ""
        raise DataError(
            "train_data_dir",
            expected=f"images that fit into {there / 2**30:.1f} GiB of memory",
            found=f"{images} of {shape.width} x {shape.height} pixels{several}, {needed / 2**30:.1f} GiB",
            remedy=f"Name fewer images, or lower {fewer}resolution.",
        )


def memory_of_machine() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
