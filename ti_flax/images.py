"""Training pictures: files of any common kind -> square RGB arrays."""

import contextlib
import dataclasses
import hashlib
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ti_flax.errors import ConfigError, DataError

# The names diffusers gives to Pillow's filters; its "linear" and "bilinear" are one filter.
_FILTERS = {
    "linear": Image.Resampling.BILINEAR,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}

# Formats whose first bytes no text or metadata file shares, so that content alone tells them. The second row
# is tried under an image suffix only. Left out: what runs other programs (EPS) or has no pixels (MPEG, HDF5).
_SIGNED_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "TIFF", "AVIF", "BMP", "JPEG2000", "QOI")
_OTHER_FORMATS = ("DIB", "PPM", "TGA", "ICO", "PSD", "PCX", "SGI", "DDS")

# Pictures that Pillow cannot read, or of which it reads the thumbnail alone (camera raw). Passing
# them over would train on fewer pictures than were given.
_UNREADABLE_SUFFIXES = frozenset(
    (".heic", ".heif", ".jxl", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2")
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingImages:
    """Square pictures in the order of their names.

    Attributes:
      pixels: `[images, resolution, resolution, 3]` uint8 RGB.
      names: file names, one for each picture.
      passed_over: names in the folder that are no picture; sub-folders end in "/".
      captions: what the source says about each picture, None where it says nothing.
      paths: full path of each picture that is a local file, None for others.
    """

    pixels: np.ndarray
    names: tuple[str, ...]
    passed_over: tuple[str, ...] = ()
    captions: tuple[str | None, ...] = ()
    paths: tuple[str | None, ...] = ()

    def content_hash(self) -> str:
        """Return the SHA-256, in hexadecimal, of shape and pixels: equal for equal training pictures."""
        return pixels_hash(self.pixels)


def pixels_hash(pixels: np.ndarray) -> str:
    """Return the SHA-256, in hexadecimal, of the shape and values of a uint8 array."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def load_images(
    train_data_dir: str | Path,
    *,
    resolution: int,
    center_crop: bool = False,
    interpolation: str = "bicubic",
) -> TrainingImages:
    """Read the pictures of one folder, or of a dataset on the Hub, as squares.

    Only the folder itself is read, not what is below it. Orientation from EXIF is applied; transparent parts
    become white; of an animation the first frame counts.

    Args:
      train_data_dir: a folder; or, where there is none of that name, a Hub dataset id `owner/name`.
      resolution: side of the squares in pixels.
      center_crop: cut out the central square; otherwise the whole picture is squeezed into a square.
      interpolation: "linear", "bilinear" (the same), "bicubic", "lanczos" or "nearest".

    Raises:
      ConfigError: the interpolation is unknown.
      DataError: no folder, no pictures, or a picture that cannot be decoded.
    """
    if interpolation not in _FILTERS:
        raise ConfigError("interpolation", expected=", ".join(_FILTERS), found=repr(interpolation))
    folder = Path(train_data_dir).expanduser()
    if not folder.exists() and _HUB_ID.fullmatch(str(train_data_dir)):
        rows, passed_over = _hub_rows(str(train_data_dir)), ()
    else:
        rows, passed_over = _folder_rows(folder)
    pixels = np.empty((len(rows), resolution, resolution, 3), np.uint8)
    names = []
    for index, row in enumerate(rows):
        names.append(Path(row["path"] or f"image {index}").name)
        where = row["path"] if row["bytes"] is None else f"{train_data_dir}: {names[-1]}"
        picture = _decoded(row["path"] if row["bytes"] is None else row["bytes"], where)
        pixels[index] = _square(picture, resolution, center_crop, _FILTERS[interpolation])
    return TrainingImages(
        pixels,
        tuple(names),
        tuple(passed_over),
        captions=(None,) * len(rows),
        paths=tuple(row["path"] if row["bytes"] is None else None for row in rows),
    )


def _folder_rows(folder: Path) -> tuple[Sequence[dict[str, Any]], list[str]]:
    """Return the pictures of a folder as rows of a `datasets` table, and the names that are no picture."""
    files, subfolders = _listing(folder)
    pictures = [path for path in files if _is_picture(path)]
    if not pictures:
        raise _no_pictures(folder, files, subfolders)
    kept = set(pictures)
    passed_over = [path.name for path in files if path not in kept]
    passed_over += [f"{path.name}/" for path in subfolders]
    return _image_table([str(path) for path in pictures]), passed_over


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files and the visible sub-folders of a folder, each sorted by name."""
    remedy = "Set train_data_dir to the folder that holds your pictures."
    if not folder.exists():
        raise DataError(f"train_data_dir {folder}", found="no such folder", remedy=remedy)
    if not folder.is_dir():
        raise DataError(f"train_data_dir {folder}", expected="a folder", found="a file", remedy=remedy)
    try:
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(
            f"train_data_dir {folder}", found=error.strerror or str(error), remedy=remedy
        ) from error
    files = [path for path in paths if not path.is_dir()]
    return files, [path for path in paths if path.is_dir() and not path.name.startswith(".")]


def _no_pictures(folder: Path, files: list[Path], subfolders: list[Path]) -> DataError:
    with_pictures = [
        path.name for path in subfolders if any(_is_named_as_picture(child) for child in path.glob("[!.]*"))
    ]
    found, remedy = "none", "Put three to five pictures of the concept into it."
    if files:
        found = f"only other files ({len(files)}, such as {files[0].name})"
    if with_pictures:
        remedy = f"Sub-folders are not read; name one of those with pictures: {', '.join(with_pictures[:5])}."
    return DataError(f"train_data_dir {folder}", expected="pictures", found=found, remedy=remedy)


def _is_named_as_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    # A Pillow built without AVIF does not register its suffix.
    known = Image.registered_extensions().get(suffix) in _SIGNED_FORMATS + _OTHER_FORMATS
    return known or suffix == ".avif" or suffix in _UNREADABLE_SUFFIXES


def _is_picture(path: Path) -> bool:
    """Tell a picture by its suffix, or without an image's suffix by its content."""
    if path.name.startswith("."):  # .DS_Store, and the ._cat.jpg twins that macOS leaves on foreign disks
        return False
    if _is_named_as_picture(path):
        return True
    try:
        with _strict_about_size(), Image.open(path, formats=_available(_SIGNED_FORMATS)):
            return True
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return True
    except Exception:  # Pillow's plugins raise whatever their parser stumbled upon
        return False


def _image_table(paths: list[str]) -> Sequence[dict[str, Any]]:
    """Return rows `{"path", "bytes"}`, as imagefolder's, undecoded; held in memory, nothing is cached.

    `datasets` would make no difference to a folder's pixels, so a machine without it reads the same rows.
    """
    try:
        import datasets
    except ImportError:
        return [{"path": path, "bytes": None} for path in paths]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    return datasets.Dataset.from_dict({"image": paths}, features=features)["image"]


def _hub_rows(dataset_id: str) -> Sequence[dict[str, Any]]:
    """Download a dataset of the Hub and return its pictures as rows `{"path", "bytes"}`, undecoded."""
    where = f"train_data_dir {dataset_id}"
    try:
        import datasets
    except ImportError as error:
        remedy = "Run `pip install datasets` to read it as a dataset of the Hub."
        raise DataError(where, found="no such folder", remedy=remedy) from error
    try:
        splits = datasets.load_dataset(dataset_id)
    except Exception as error:  # the Hub's client and `datasets` share no base class
        raise DataError(
            where,
            found=f"no such folder, and no such dataset could be had from the Hub ({_cause(error)})",
            remedy="Name a folder with pictures; --config configs/demo.yaml runs without the Hub.",
        ) from error
    table = splits["train"] if "train" in splits else next(iter(splits.values()))
    columns = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    if not columns or not len(table):
        raise DataError(where, expected="pictures", found=f"a dataset with columns {list(table.features)}")
    return table.cast_column(columns[0], datasets.Image(decode=False))[columns[0]]


def _decoded(content: str | bytes, where: str) -> Image.Image:
    """Return the upright RGB picture of a file, given by path or by content."""
    opened = io.BytesIO(content) if isinstance(content, bytes) else content
    if Path(where).suffix.lower() in _UNREADABLE_SUFFIXES:
        raise DataError(where, found="a format that is not read", remedy="Save it as PNG or JPEG.")
    try:
        formats = _available(_SIGNED_FORMATS + _OTHER_FORMATS)
        with _strict_about_size(), Image.open(opened, formats=formats) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"at most {Image.MAX_IMAGE_PIXELS} pixels"
        raise DataError(where, expected=limit, found="a larger picture", remedy="Scale it down.") from error
    except Exception as error:  # Pillow's plugins raise whatever their parser stumbled upon
        raise DataError(
            where,
            found=f"a picture that cannot be decoded ({_cause(error)})",
            remedy="Replace it or take it out of the folder.",
        ) from error


@contextlib.contextmanager
def _strict_about_size() -> Iterator[None]:
    """Turn Pillow's warning about huge pictures into an error; its other warnings are about oddities."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _available(formats: Iterable[str]) -> list[str]:
    Image.init()
    return [name for name in formats if name in Image.OPEN]


def _cause(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose message names the file once more
        return "it is empty, in no known format, or a Git LFS pointer"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _rgb(image: Image.Image) -> Image.Image:
    """Return any of Pillow's modes as RGB, transparent parts over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        over_white = Image.new("RGBA", image.size, "white")
        over_white.alpha_composite(image.convert("RGBA"))
        return over_white.convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale gray values of more than 8 bits to 0..255; Pillow itself would cut them off at 255.

    Integers fill 16 bits. Floats fill the first of [0, 1], [0, 255] and [0, 65535] that holds them. Values
    outside fill their own range.
    """
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("gray values that are not finite")
    scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    low = min(values.min(), 0.0)
    high = next((scale for scale in scales if values.max() <= scale), values.max())
    return Image.fromarray(np.rint((values - low) * (255 / (high - low))).astype(np.uint8))


def _square(image: Image.Image, resolution: int, center_crop: bool, resample: Image.Resampling) -> np.ndarray:
    """Crop if asked to, then resize: `[resolution, resolution, 3]` uint8, the values of diffusers' script."""
    pixels = np.asarray(image)
    if center_crop:
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    return np.asarray(Image.fromarray(pixels).resize((resolution, resolution), resample))
