"""Training images: from any source -> RGB arrays of one shape, or of a few."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ti_flax.data.images.augment import AS_IT_IS, Augmentation, augmented
from ti_flax.data.images.buckets import ChosenShapes, Shape, ShapeRules, choose_shapes
from ti_flax.data.images.decode import (
    Decoded,
    decoded,
    gray,
    notes_on_images,
    upright_alone,
    upright_size,
    upright_with_alpha,
)
from ti_flax.data.images.focal_crop import Box
from ti_flax.data.images.groups import GroupArrays, ImageGroup, require_room
from ti_flax.data.images.masks import MaskFolder, MaskRules, same_aspect
from ti_flax.data.images.resize import COVERED, CROPPED, SQUEEZED, Fit, in_frame
from ti_flax.data.images.sizes import conditioning_of
from ti_flax.data.sources.duplicates import duplicate_notes
from ti_flax.data.sources.find import Found, find_images
from ti_flax.data.sources.formats import is_named_as_image
from ti_flax.data.sources.links import Fetch, Spent, fetch_image
from ti_flax.data.sources.optional_formats import OPTIONAL_SUFFIXES
from ti_flax.data.sources.roles import without_other_roles
from ti_flax.data.sources.source_image import SourceImage
from ti_flax.data.sources.table_options import ALL_AS_FOUND, TableOptions
from ti_flax.errors import ConfigError, DataError

T = TypeVar("T")

# The names diffusers gives to Pillow's filters; its "linear" and "bilinear" are one filter.
_FILTERS = {
    "linear": Image.Resampling.BILINEAR,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingImages:
    """Images in the order of their sources and, in a folder, of their names, in groups of one shape.

    Attributes:
      groups: one of squares, or one for each shape that was chosen.
      names: such as the file's, one for each image.
      passed_over: names of files in the folders that are no image.
      captions: from a dataset's column or a metadata file, None for an image that has none.
      weights: how often an epoch shows each image.
      paths: full path of each image's file; None for links and rows of datasets.
      notes: what the user should know of them, in lines.
      shapes: how the shapes were chosen; None if all are squares by default.
      without_mask: names of images that have no mask though masks were asked for.
      leaving: names of images that symbolic links take from outside of their folder.
      sources: of which source each image is, by its place.
    """

    groups: tuple[ImageGroup, ...]
    names: tuple[str, ...]
    passed_over: tuple[str, ...] = ()
    captions: tuple[str | None, ...] = ()
    weights: tuple[int, ...] = ()
    paths: tuple[str | None, ...] = ()
    notes: tuple[str, ...] = ()
    shapes: ChosenShapes | None = None
    without_mask: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    sources: tuple[int, ...] = ()

    def __post_init__(self):
        for name, value in (("captions", None), ("weights", 1), ("paths", None), ("sources", 0)):
            if not getattr(self, name):  # left out: the same for all
                object.__setattr__(self, name, (value,) * len(self.names))

    @property
    def pixels(self) -> np.ndarray:
        """All images, `[images, height, width, 3]` uint8; only if they are of one shape."""
        (group,) = self.groups
        return group.pixels

    def content_hash(self) -> str:
        """Return the SHA-256, in hexadecimal, of shapes and pixels: equal for equal training images."""
        hashes = [pixels_hash(group.pixels) for group in self.groups]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def of_source(self, source: int) -> TrainingImages:
        """Names, captions, weights and paths of the images of one source alone, by its place."""
        places = [place for place, each in enumerate(self.sources) if each == source]
        names = ("names", "captions", "weights", "paths", "sources")
        own = {name: tuple(getattr(self, name)[place] for place in places) for name in names}
        return dataclasses.replace(self, groups=(), **own)

    def first(self, count: int) -> list[np.ndarray]:
        """The first images, `[height, width, 3]` uint8 each."""
        return _in_order(self.groups)[:count]

    def with_pixels_of(self, count: int) -> TrainingImages:
        """The same with the pixels of the first images alone, once the others are encoded."""
        groups = (group.first(count) for group in self.groups if (group.indices < count).any())
        return dataclasses.replace(self, groups=tuple(groups))

    def shown(self, count: int, size: tuple[int, int]) -> np.ndarray:
        """The first images, whole, with white beside them where it takes some to fill the size.

        Args:
          count: of images.
          size: height and width.

        Returns:
          `[count, height, width, 3]` uint8.
        """
        return np.stack([in_frame(pixels, size) for pixels in self.first(count)])


def pixels_hash(pixels: np.ndarray) -> str:
    """Return the SHA-256, in hexadecimal, of the shape and values of a uint8 array."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def load_images(
    train_data_dir: str | Path | Sequence[str | Path],
    *,
    resolution: int,
    center_crop: bool | Sequence[bool] = False,
    interpolation: str = "bicubic",
    repeats: Sequence[int] = (1,),
    table: TableOptions = ALL_AS_FOUND,
    shapes: ShapeRules | None = None,
    into: Sequence[Shape] = (),
    masks: MaskRules | None = None,
    allow_private_links: bool = False,
    roles: Sequence[tuple[str, Path]] = (),
    augmentation: Augmentation = AS_IT_IS,
) -> TrainingImages:
    """Read images from one or several sources, as squares or in a few shapes.

    Orientation and colour profiles apply; transparent parts become white; of an animation the first frame
    counts. One image at a time is held at its full size.

    Args:
      train_data_dir: each source, a folder, image, list, link or dataset (`find_images`).
      resolution: side of the squares in pixels.
      center_crop: of all sources or of each: cut out the central square, in place of squeezing all into it.
      interpolation: "linear", "bilinear" (the same), "bicubic", "lanczos" or "nearest".
      repeats: how often an epoch shows each image of all sources, or of each.
      table: columns, configuration and split of datasets and metadata files.
      shapes: instead of squares, shapes near those of the images, which then cover them without squeezing.
      into: instead of squares, these shapes, each of which all images cover without squeezing.
      masks: where masks come from; they are cut and resized as their images are.
      allow_private_links: whether links may lead to this machine and its network.
      roles: files and folders that other options name, each with its option: no images to learn from.
      augmentation: what is drawn for further variants of each image; masks go with the crops.

    Raises:
      ConfigError: the interpolation is unknown, or an option of `table` has nothing it could apply to.
      DataError: no such source, no images, one that cannot be had or decoded, or a mask that does not fit.
    """
    resample = _filter(interpolation)
    sources = [train_data_dir] if isinstance(train_data_dir, str | Path) else list(train_data_dir)
    folder = None if masks is None else masks.folder
    found = _all_found(sources, table, folder, roles, allow_private_links=allow_private_links)
    images = [image for each in found for image in each.images]
    names = [image.name for image in images]
    crops, mask_files = _of_images(center_crop, found), _mask_files(images, masks, sources)
    plan = _planned(images, resolution, center_crop=crops, shapes=shapes, into=into)
    groups, noted = _grouped(plan, list(zip(images, mask_files)), resample, masks, augmentation)
    return TrainingImages(
        groups,
        tuple(names),
        passed_over=_joined(each.passed_over for each in found),
        captions=tuple(image.caption for image in images),
        weights=_of_images(repeats, found),
        sources=_of_images(range(len(found)), found),
        paths=tuple(image.path for image in images),
        notes=_joined((*(each.notes for each in found), noted, duplicate_notes(_in_order(groups), names))),
        shapes=plan.chosen,
        without_mask=() if folder is None else _without(names, mask_files),
        leaving=_joined(each.leaving for each in found),
    )


def _filter(interpolation: str) -> Image.Resampling:
    if interpolation not in _FILTERS:
        raise ConfigError("interpolation", expected=", ".join(_FILTERS), found=repr(interpolation))
    return _FILTERS[interpolation]


def _all_found(
    sources: Iterable[str | Path],
    table: TableOptions,
    masks: Path | None,
    roles: Sequence[tuple[str, Path]],
    *,
    allow_private_links: bool,
) -> list[Found]:
    """What is in each source, with one limit on all that is downloaded."""
    fetch = functools.partial(fetch_image, allow_private_links=allow_private_links, spent=Spent())
    found = [_found(source, table, fetch, masks, roles) for source in sources]
    _refuse_unused(table, found)
    return found


def _of_images(given: T | Sequence[T], found: Sequence[Found]) -> tuple[T, ...]:
    """What each image of all sources is given: one value for all sources, or one for each."""
    values = given if isinstance(given, Sequence) else [given]
    values = list(values) * len(found) if len(values) == 1 else values
    return tuple(value for value, each in zip(values, found, strict=True) for _ in each.images)


def _joined(texts: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(itertools.chain.from_iterable(texts))


def _without(names: Sequence[str], masks: Iterable[Path | None]) -> tuple[str, ...]:
    return tuple(name for name, mask in zip(names, masks) if mask is None)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The shapes that images get, the indices of each shape's images, and how each image gets it."""

    shapes: Sequence[Shape]
    members: Sequence[np.ndarray]
    fits: Sequence[Fit]
    chosen: ChosenShapes | None = None


def _grouped(
    plan: _Plan,
    members: Sequence[tuple[SourceImage, Path | None]],
    resample: Image.Resampling,
    masks: MaskRules | None,
    augmentation: Augmentation,
) -> tuple[tuple[ImageGroup, ...], list[str]]:
    """The images of each shape, and lines on those that have something to be noted."""
    notes: dict[SourceImage, tuple[str, ...]] = {}
    alpha = masks is not None and masks.alpha
    fitted = functools.partial(
        _fitted,
        members,
        fits=plan.fits,
        resample=resample,
        alpha=alpha,
        augmentation=augmentation,
        notes=notes,
    )
    groups = tuple(fitted(*each) for each in zip(plan.members, plan.shapes, strict=True))
    return groups, notes_on_images((image.name, notes.get(image, ())) for image, _ in members)


def _planned(
    images: Sequence[SourceImage],
    resolution: int,
    *,
    center_crop: Sequence[bool],
    shapes: ShapeRules | None,
    into: Sequence[Shape],
) -> _Plan:
    everything = np.arange(len(images))
    if into:
        return _Plan(into, [everything] * len(into), [COVERED] * len(images))
    if shapes is not None:
        chosen = choose_shapes([_opened(each, upright_size) for each in images], resolution, shapes)
        members = [np.flatnonzero(chosen.of_image == group) for group in range(len(chosen.shapes))]
        return _Plan(chosen.shapes, members, [COVERED] * len(images), chosen)
    fits = [CROPPED if crop else SQUEEZED for crop in center_crop]
    return _Plan([Shape(resolution, resolution)], [everything], fits)


def _in_order(groups: Iterable[ImageGroup]) -> list[np.ndarray]:
    """The pixels of all images, in the order of the images."""
    found = {int(index): pixels for group in groups for index, pixels in zip(group.indices, group.pixels)}
    return [found[index] for index in sorted(found)]


def _refuse_unused(table: TableOptions, found: Iterable[Found]) -> None:
    used = {name for each in found for name in each.used}
    for name in table.given():
        if name not in used:
            kind = "dataset or metadata file" if name.endswith("column") else "dataset"
            expected = f"a {kind} in train_data_dir"
            raise ConfigError(name, expected=expected, found="none", remedy=f"Leave {name} out.")


def _found(
    source: str | Path,
    table: TableOptions,
    fetch: Fetch,
    masks: Path | None,
    roles: Sequence[tuple[str, Path]],
) -> Found:
    """The images of a source that are to be learned from: no masks, and nothing of another role."""
    found = _without_masks(find_images(str(source), table, fetch), source, masks)
    return without_other_roles(found, source, roles)


def _without_masks(found: Found, source: str | Path, folder: Path | None) -> Found:
    """What was found, less the folder of the masks if it is one of the source's sub-folders."""
    if folder is None or not Path(os.path.expanduser(folder)).is_dir():
        return found
    inside, root = Path(os.path.expanduser(folder)).resolve(), Path(os.path.expanduser(source)).resolve()
    if inside == root or not inside.is_relative_to(root):
        return found
    images = tuple(
        image
        for image in found.images
        if image.path is None or not Path(image.path).resolve().is_relative_to(inside)
    )
    if not images:
        remedy = "Set mask_dir to a folder of masks alone."
        raise DataError(f"mask_dir {folder}", expected="masks", found="all the images", remedy=remedy)
    return dataclasses.replace(found, images=images)


def _opened(image: SourceImage, convert: Callable[[Image.Image], Any]) -> Any:
    return decoded(image.read(), image.where, convert)


def _mask_files(
    images: Sequence[SourceImage], masks: MaskRules | None, sources: Iterable[str | Path]
) -> list[Path | None]:
    """The mask file of each image, or None."""
    if masks is None or masks.folder is None:
        return [None] * len(images)
    suffixes = {suffix for suffix in Image.registered_extensions() if is_named_as_image(Path(f"a{suffix}"))}
    suffixes |= OPTIONAL_SUFFIXES
    folders = [Path(os.path.expanduser(source)) for source in sources]
    folder = MaskFolder(
        Path(os.path.expanduser(masks.folder)), suffixes, [each for each in folders if each.is_dir()]
    )
    found = [
        folder.find(Path(image.name).name if image.path is None else Path(image.path).absolute())
        for image in images
    ]
    if not any(found):
        raise folder.none_found([image.name for image in images])
    return found


def _fitted(
    members: Sequence[tuple[SourceImage, Path | None]],
    indices: np.ndarray,
    shape: Shape,
    *,
    fits: Sequence[Fit],
    resample: Image.Resampling,
    alpha: bool,
    augmentation: Augmentation,
    notes: dict[SourceImage, tuple[str, ...]],
) -> ImageGroup:
    """Decode images and their masks one by one, bring each at once into its shape, and fill in notes."""
    require_room(len(indices), shape, augmentation.variants)
    itself, *others = (GroupArrays(len(indices), shape) for _ in range(augmentation.variants))
    for place, index in enumerate(indices):
        (source, mask_path), fit = members[index], fits[index]
        made = _opened(source, upright_with_alpha if alpha else upright_alone)
        notes[source] = made.notes
        if mask_path is not None:
            made = dataclasses.replace(made, alpha=_mask_for(mask_path, made.image.size, source.name))
        pixels = fit.pixels(made.image, shape, resample)
        mask = None if made.alpha is None else fit.pixels(made.alpha, shape, Image.Resampling.BOX)
        box = fit.box(made.image.size, shape)
        itself.put(place, pixels, _told(made, box, shape), mask)
        drawn = augmented(augmentation, made, box, shape, resample, pixels=pixels, mask=mask)
        for arrays, variant in zip(others, drawn, strict=True):
            arrays.put(place, variant.pixels, _told(made, variant.box, shape), variant.mask)
    return itself.group(indices, tuple(arrays.group(indices) for arrays in others))


def _told(made: Decoded, box: Box, shape: Shape) -> np.ndarray:
    """What a model is told of the sizes of a part of an image, `[2, 6]` float32."""
    return conditioning_of(made.origin.size, made.origin.part(box, made.image.size), shape)


def _mask_for(path: Path, size: tuple[int, int], name: str) -> Image.Image:
    """A mask file at the size of its image."""
    mask = decoded(str(path), str(path), gray)
    if not same_aspect(mask.size, size):
        raise DataError(
            path,
            expected=f"a mask of the shape of {name}, {size[0]} x {size[1]} pixels",
            found=f"{mask.size[0]} x {mask.size[1]}",
            remedy="A mask may be smaller or larger than its image, but has to show the same part of it.",
        )
    return mask.resize(size, Image.Resampling.BOX)
