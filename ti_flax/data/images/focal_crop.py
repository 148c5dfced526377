"""Where to cut an image, by what stands out in it; no network is asked."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

# Longer side of the small copy that is looked at, in pixels: enough for what fills a hundredth of an image.
_LOOKED_AT = 160
# D65 white and the matrix of linear sRGB to XYZ (IEC 61966-2-1).
_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32
) / np.array([[0.9505], [1.0], [1.089]], np.float32)


@dataclass(frozen=True)
class Box:
    """A rectangle of an image, in its pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, as Pillow takes them."""
        return self.left, self.top, self.right, self.bottom


def importance(image: Image.Image) -> np.ndarray:
    """Say how much each part of an image stands out: shares of 1, `[height, width]`, of a small copy.

    The mean of two maps. Colour: the squared distance, in CIE Lab, of the smoothed image from one colour
    (R. Achanta et al., "Frequency-tuned Salient Region Detection", CVPR 2009, eq. 4, with the median of the
    border, which is background more often than not, in place of the image's mean). Edges: the gradient of
    the lightness.

    Args:
      image: RGB.
    """
    scale = _LOOKED_AT / max(image.size)
    size = (max(3, round(image.width * scale)), max(3, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(1))
    lab = _lab(np.asarray(small, np.float32) / 255)
    border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    colour = np.square(lab - np.median(border, axis=0)).sum(axis=-1)
    down, across = np.gradient(lab[..., 0])
    return (_shares(colour) + _shares(np.hypot(down, across))) / 2


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab of sRGB in 0..1, `[height, width, 3]`."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T
    cube = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(cube, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _shares(values: np.ndarray) -> np.ndarray:
    """Values as shares of their sum; all the same where there is nothing, which noise is not to decide."""
    total = values.sum()
    if total < 1e-3 * values.size:
        return np.full(values.shape, 1 / values.size, np.float32)
    return (values / total).astype(np.float32)


def focal_box(image: Image.Image, aspect: float) -> Box:
    """Return the largest box of an aspect, placed where most of what stands out is, and near its middle.

    Every place is scored by the sum of the importance inside, which counts fully in the box's middle and half
    at its edge along the way it can move; of equal places the one nearest to the image's centre is taken.

    Args:
      image: RGB.
      aspect: width by height of the box.
    """
    width, height = image.size
    box_width, box_height = min(width, height * aspect), min(height, width / aspect)
    sideways = width - box_width >= height - box_height
    free, length = (width - box_width, width) if sideways else (height - box_height, height)
    profile = importance(image).sum(axis=0 if sideways else 1)
    start = _best_start(profile, (length - free) / length) * length
    start = min(max(start, 0.0), free)
    left, top = (start, 0.0) if sideways else (0.0, start)
    return Box(left, top, left + box_width, top + box_height)


def _best_start(profile: np.ndarray, share: float) -> float:
    """Return where, in 0..1, the window of a share of a profile begins that holds most of it."""
    cells = len(profile)
    centres = (np.arange(cells) + 0.5) / cells
    starts = np.linspace(0, 1 - share, cells + 1)
    offset = (centres[None] - starts[:, None]) / share * 2 - 1
    inside = np.where(np.abs(offset) <= 1, 1 - 0.5 * np.square(offset), 0)
    scores = inside @ profile
    # A thousandth of all, less at the edges: decides where nothing else does.
    middle = np.abs(starts - (1 - share) / 2)
    return float(starts[np.argmax(scores - 1e-3 * middle)])


def center_box(image: Image.Image, aspect: float) -> Box:
    """Return the largest box of an aspect in the middle of an image."""
    width, height = image.size
    box_width, box_height = min(width, height * aspect), min(height, width / aspect)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return Box(left, top, left + box_width, top + box_height)


def covering_boxes(size: tuple[int, int], box: tuple[float, float], overlap: float) -> list[Box]:
    """Return the fewest boxes that cover an image, each sharing at least so much with the next.

    Args:
      size: width and height of the image.
      box: width and height of each box, at most those of the image.
      overlap: share of a box's side that the next one shows too, below 1.

    Returns:
      Evenly spread, row by row.
    """
    starts = []
    for length, side in zip(size, box, strict=True):
        # Short of whole numbers by rounding alone.
        steps = math.ceil(max(0.0, length - side) / (side * (1 - overlap)) - 1e-9)
        starts.append([step * (length - side) / steps for step in range(steps + 1)] if steps else [0.0])
    return [Box(left, top, left + box[0], top + box[1]) for top in starts[1] for left in starts[0]]
