"""Colours as sRGB, which models are trained on: what an embedded ICC profile makes of an image's numbers."""

import functools
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

UNUSABLE_PROFILE = "colours taken for sRGB, as the colour profile cannot be used"
_ADOBE_RGB = "colours taken for sRGB, though EXIF says Adobe RGB (embed its profile with an image editor)"

# What a profile says it describes (ICC.1, table 19), by the modes of images; the mode that it is given.
_RGB_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "YCbCr")
_GRAY_MODES = ("1", "L", "LA", "La")
_TAKEN_AS = {
    **{(mode, "RGB"): "RGB" for mode in _RGB_MODES + _GRAY_MODES},
    **{(mode, "GRAY"): "L" for mode in _GRAY_MODES},
    ("CMYK", "CMYK"): "CMYK",
}
# Levels in which a profile may differ from sRGB and still be called that: makers round its curve differently.
_SAME = 2


@dataclass(frozen=True)
class Conversion:
    """How an image, or any piece of it, becomes RGB (or RGBA where it has transparency) in sRGB.

    Attributes:
      transform: of LittleCMS; None where the numbers are sRGB, or taken for it.
      mode: that the transform takes.
      note: what the user should know, empty if nothing.
    """

    transform: ImageCms.ImageCmsTransform | None = None
    mode: str = "RGB"
    note: str = ""

    def rgb(self, piece: Image.Image) -> Image.Image:
        """The piece in RGB, its transparency left out."""
        if self.transform is None:
            return piece.convert("RGB")
        taken = piece.convert(self.mode)
        if self.mode == "RGB":  # without a second copy
            self.transform.apply_in_place(taken)
            return taken
        made: Any = self.transform.apply(taken)
        return made

    def rgba(self, piece: Image.Image) -> Image.Image:
        """The piece in RGBA, its transparency as it is."""
        whole = piece.convert("RGBA")
        if self.transform is None:
            return whole
        made = self.rgb(piece if self.mode == "L" else whole)
        made.putalpha(whole.getchannel("A"))
        return made


def conversion_of(image: Image.Image, mode: str | None = None) -> Conversion:
    """Find out how an image becomes sRGB.

    Of several renderings the relative colorimetric one is taken, with black point compensation, as image
    editors do.

    Args:
      image: with `icc_profile` in its `info`, or without.
      mode: that its pieces have; None: its own.
    """
    mode = mode or image.mode
    if mode == "LAB":
        return Conversion(_from_lab(), "LAB")
    content = image.info.get("icc_profile")
    if not content:
        return Conversion(note=_ADOBE_RGB if _is_marked_adobe_rgb(image) else "")
    try:
        transform, taken = _transform(content, mode)
    except Exception:  # LittleCMS's own, and what reads a profile's head
        return Conversion(note=UNUSABLE_PROFILE)
    return Conversion(transform, taken)


def _is_marked_adobe_rgb(image: Image.Image) -> bool:
    """Whether EXIF says so in the way that cameras do, without the profile (DCF 2.0: R03, uncalibrated)."""
    try:
        exif = image.getexif()
        marked = str(exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex, ""))
        space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
    except Exception:  # EXIF that is damaged, which Pillow reads without guard
        return False
    return space == 2 or (space == 0xFFFF and marked.startswith("R03"))


@functools.lru_cache(maxsize=8)
def _transform(content: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The transform of a profile for a mode, None if it changes nothing, and the mode that it takes.

    Raises:
      Exception: the profile cannot be read, or describes other images than this one.
    """
    profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
    head: Any = profile.profile
    taken = _TAKEN_AS[mode, head.xcolor_space.strip()]
    transform = _to_srgb(profile, taken)
    return (None if _changes_nothing(transform, taken) else transform), taken


@functools.cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    return _to_srgb(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")


def _to_srgb(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        profile,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform leaves colours where they are, so that sRGB under any name keeps its bits."""
    if mode == "CMYK":
        return False
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(len(steps), -1, 3)
    tried: Any = Image.fromarray(grid[..., 0] if mode == "L" else grid)
    made: Any = transform.apply(tried)
    difference = np.asarray(made).astype(int) - np.asarray(tried.convert("RGB")).astype(int)
    return bool(np.abs(difference).max() <= _SAME)
