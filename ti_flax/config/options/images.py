"""The images to learn from."""

import dataclasses
import typing
from typing import Literal

from ti_flax.config.concept_entry import ConceptEntry
from ti_flax.config.image_sources import path_of, value_of_source
from ti_flax.config.options.group import Options
from ti_flax.config.values import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """The images to learn from, their shapes and their masks."""

    train_data_dir: tuple[str | ConceptEntry, ...] = option(
        (),
        metavar="SOURCE",
        path="input",
        when_unset="required, unless concepts is given",
        brief="the images: a folder, a list, links or a dataset",
        help="Where the images are: a folder with its sub-folders, an image, a text file with a path or "
        "link a line, a link, a dataset on disk, or a Hub dataset id such as diffusers/cat_toy_example; in a "
        "file also a mapping with a path and options of that source alone",
        required_unless="concepts",
        per_concept=True,
    )
    image_column: str | None = option(
        None,
        metavar="NAME",
        when_unset="the first column of images",
        help="Column of a dataset or metadata file that holds the images.",
        per_concept=True,
    )
    caption_column: str | None = option(
        None,
        metavar="NAME",
        when_unset="text, caption or txt, if there is one",
        help="Column of a dataset or metadata file that holds the captions.",
        per_concept=True,
    )
    dataset_config_name: str | None = option(
        None,
        metavar="NAME",
        when_unset="the only one",
        help="Configuration of a dataset that has several.",
        per_concept=True,
    )
    dataset_split: str | None = option(
        None,
        metavar="NAME",
        when_unset="train, else the first",
        help="Split of a dataset to learn from.",
        per_concept=True,
    )
    allow_private_links: bool = option(
        False,
        help="Also download images from links to this machine and its private network, which the run "
        "otherwise refuses.",
    )
    resolution: int = option(
        512, above=0, multiple_of=8, help="Side of the square training images, in pixels."
    )
    center_crop: bool = option(
        False,
        help="Crop to the central square before resizing, instead of squeezing the whole image.",
        excludes=("enable_bucket",),
        per_concept=True,
    )
    enable_bucket: bool = option(
        False,
        help="Train in a few aspect ratios near the images' own instead of squares, squeezing nothing; "
        "SDXL at 1024 takes the shapes that it was trained in.",
    )
    bucket_reso_steps: int = option(
        64,
        above=0,
        multiple_of=8,
        help="Sides of shapes other than the square are multiples of this, in pixels.",
        needs=("enable_bucket",),
    )
    max_buckets: int = option(
        4,
        at_least=1,
        help="Most shapes to train in; each takes a compilation, and those that crop least win.",
        needs=("enable_bucket",),
    )
    alpha_mask: bool = option(
        False,
        help="Weigh each part of an image in the loss by its alpha channel: transparent parts do not count.",
        excludes=("mask_dir",),
        per_concept=True,
    )
    mask_dir: str | None = option(
        None,
        metavar="FOLDER",
        path="input",
        when_unset="everything counts",
        help="Folder of masks, white where an image counts in the loss: NAME.png or NAME-masklabel.png.",
        per_concept=True,
    )
    unmasked_weight: float = option(
        0.0,
        at_least=0,
        at_most=1,
        help="Weight of the black or transparent part of a mask.",
        needs=("alpha_mask or mask_dir",),
        per_concept=True,
    )
    interpolation: Literal["nearest", "linear", "bilinear", "bicubic", "lanczos"] = option(
        "bicubic",
        metavar="NAME",
        help="Filter used to resize the images",
        per_concept=True,
    )
    flip_p: float = option(
        0.5, at_least=0, at_most=1, help="Probability that a sample is mirrored.", changes_bits=True
    )
    crop_jitter: float = option(
        0.0,
        at_least=0,
        below=1,
        help="Crop each variant of an image at random: the crop's sides are smaller by up to this share of "
        "them, and it moves by up to as much",
    )
    color_jitter: tuple[float, ...] = option(
        (0.0,),
        at_least=0,
        at_most=1,
        help="Change the colours of each variant of an image at random, by up to this share: brightness, "
        "contrast and saturation (one number), or these three and hue, in turns (four numbers)",
    )
    augmentations_per_image: int = option(
        8,
        at_least=2,
        help="Variants of each image that crop_jitter and color_jitter make and the run encodes; the first "
        "is the image as it is, and a sample shows any.",
        needs=("crop_jitter or color_jitter",),
    )
    repeats: tuple[int, ...] = option(
        (100,),
        at_least=1,
        help="How often an epoch shows each image: one number, or one for each train_data_dir",
        per_concept=True,
    )
    latents_cache_dir: str | None = option(
        None,
        metavar="FOLDER",
        path="output",
        when_unset="the user's cache folder",
        help="Where to keep encoded images for the next run; the run warns of a folder that others can write "
        "to, since whoever writes there decides what it learns.",
    )
    latents_cache_limit: float = option(
        10.0,
        above=0,
        metavar="GIB",
        help="Most GiB that encoded images in the cache may take; those that were used longest ago give way, "
        "those of a running run never.",
    )

    @property
    def source_paths(self) -> tuple[str, ...]:
        """Each `train_data_dir` without the options of its own."""
        return tuple(map(path_of, self.train_data_dir))

    def of_each_source(self, name: str) -> tuple[typing.Any, ...]:
        """The values that an option has for each `train_data_dir`; of `repeats`, its number."""
        return tuple(
            value_of_source(name, getattr(self, name), *each) for each in enumerate(self.train_data_dir)
        )

    @property
    def strengths(self) -> tuple[float, float, float, float]:
        """The most that brightness, contrast, saturation and hue change by; hue in turns."""
        brightness, *others = self.color_jitter
        contrast, saturation, hue = others or (brightness, brightness, 0.0)
        return brightness, contrast, saturation, hue

    @property
    def without_variants(self) -> "ImageOptions":
        """The same with images as they are."""
        return dataclasses.replace(self, crop_jitter=0.0, color_jitter=(0.0,))

    @property
    def variants(self) -> int:
        """Variants of each image that are encoded; 1 where images stay as they are."""
        return self.augmentations_per_image if self.crop_jitter or any(self.color_jitter) else 1
