"""The images of a run as the options say: read, encoded, and put into buckets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from ti_flax.config.options import ImageOptions
from ti_flax.console.messages import say, warn
from ti_flax.data.dataset import Bucket, weighted_sample_indices
from ti_flax.data.encoding import Encoding
from ti_flax.data.images.augment import Augmentation
from ti_flax.data.images.buckets import Shape, ShapeRules
from ti_flax.data.images.groups import ImageGroup
from ti_flax.data.images.load import TrainingImages, load_images
from ti_flax.data.images.masks import MASK_SUFFIX, MaskRules, loss_weights
from ti_flax.data.latent_cache import FOLDER, LatentCache
from ti_flax.data.prompts.captions import CAPTION_EXTENSIONS
from ti_flax.data.sources.table_options import TableOptions
from ti_flax.errors import DataError, one_line
from ti_flax.files.cache import default_cache_dir, private_folder, why_not_default


def read_images(
    options: ImageOptions,
    captions: str,
    roles: Sequence[tuple[str, Path]] = (),
    *,
    of_sdxl: bool = False,
    seed: int = 0,
) -> TrainingImages:
    """Reads the training images, and says what was found.

    Args:
      options: of images.
      captions: the option of that name.
      roles: files and folders that other options name, each with its option.
      of_sdxl: whether they are for an SDXL model, which has shapes of its own (`ShapeRules`).
      seed: of the run, from which variants are drawn.
    """
    shapes = ShapeRules(reso_steps=options.bucket_reso_steps, max_shapes=options.max_buckets, of_sdxl=of_sdxl)
    folder = Path(options.mask_dir) if options.mask_dir is not None else None
    images = load_images(
        options.source_paths,
        resolution=options.resolution,
        center_crop=options.of_each_source("center_crop"),
        interpolation=options.interpolation,
        repeats=options.of_each_source("repeats"),
        table=TableOptions(
            image_column=options.image_column,
            caption_column=options.caption_column,
            dataset_config_name=options.dataset_config_name,
            dataset_split=options.dataset_split,
        ),
        shapes=shapes if options.enable_bucket else None,
        masks=MaskRules(alpha=options.alpha_mask, folder=folder),
        allow_private_links=options.allow_private_links,
        roles=roles,
        augmentation=augmentation_of(options, seed),
    )
    texts = texts_beside(images)
    others = len(images.passed_over) - (len(texts) if captions == "files" else 0)
    passed_over = f", {_counted(others, 'other file')} passed over" if others else ""
    say(f"{_counted(len(images.names), 'image')}{passed_over}")
    if texts and captions == "none":
        say(f"note: {texts[0]} and the like are captions, used with --captions files")
    for line in images.notes:
        say(f"note: {one_line(line)}")
    if images.shapes is not None:
        say(images.shapes.describe())
    say_masks(options, images)
    return images


def augmentation_of(options: ImageOptions, seed: int) -> Augmentation:
    """What the options draw for the variants of every image."""
    return Augmentation(
        variants=options.variants, crop=options.crop_jitter, colours=options.strengths, seed=seed
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def texts_beside(images: TrainingImages) -> list[str]:
    """Names of the files that lie where captions of the images would."""
    names = {each for name in images.names for each in (name, str(PurePath(name).with_suffix("")))}
    suffixed = (PurePath(name) for name in images.passed_over)
    return [
        str(path)
        for path in suffixed
        if path.suffix.lower() in CAPTION_EXTENSIONS and str(path.with_suffix("")) in names
    ]


def read_class_images(
    class_data_dir: str | None,
    options: ImageOptions,
    images: TrainingImages,
    roles: Sequence[tuple[str, Path]] = (),
    *,
    seed: int = 0,
) -> TrainingImages | None:
    """Reads the images of the word's class, all of them in each shape of the training images."""
    if class_data_dir is None:
        return None
    shapes = [] if images.shapes is None else [Shape(*group.pixels.shape[1:3]) for group in images.groups]
    try:
        found = load_images(
            class_data_dir,
            resolution=options.resolution,
            center_crop=options.center_crop,
            interpolation=options.interpolation,
            into=shapes,
            allow_private_links=options.allow_private_links,
            roles=roles,
            augmentation=augmentation_of(options, seed),
        )
    except DataError as error:  # which names the option of the training images
        raise DataError(str(error).replace("train_data_dir", "class_data_dir", 1)) from None
    say(_counted(len(found.names), "class image"))
    for line in found.notes:
        say(f"note: {one_line(line.replace('train_data_dir', 'class_data_dir', 1))}")
    return found


def say_masks(options: ImageOptions, images: TrainingImages) -> None:
    """Says which masks are missing or not used."""
    unused = [name for name in images.passed_over if Path(name).stem.endswith(MASK_SUFFIX)]
    if unused and options.mask_dir is None:
        say(f"note: {unused[0]} and the like are masks, used with --mask_dir {options.source_paths[0]}")
    if images.without_mask:
        more = f", and {len(images.without_mask) - 5} more" if len(images.without_mask) > 5 else ""
        say(f"note: without a mask, and counted wholly: {', '.join(images.without_mask[:5])}{more}")


def make_buckets(
    options: ImageOptions,
    images: TrainingImages,
    encoding: Encoding,
    *,
    prompts: Sequence[int],
    weights: Sequence[int],
    sizes: bool = False,
) -> tuple[Bucket, ...]:
    """Puts the images of each shape into a bucket, not encoded yet, and turns their masks into weights.

    Args:
      options: of masks.
      images: in groups of one shape.
      encoding: of these images.
      prompts: for each image the group of token ids that describes it.
      weights: for each image how often it is shown; only the ratios matter.
      sizes: whether the model takes the images' sizes and crops (SDXL).
    """
    places = weighted_sample_indices(weights, [group.indices for group in images.groups])
    buckets = []
    for number, (group, shown) in enumerate(zip(images.groups, places, strict=True)):
        names = [images.names[index] for index in group.indices]
        posteriors = encoding.unencoded(group, number, names)
        weighed = None
        if group.masks is not None:
            factor = encoding.encoder.config.downsampling
            weighed = weights_of_variants(
                group, factor=factor, unmasked_weight=options.unmasked_weight, names=names
            )
        described = np.asarray(prompts, np.int32)[group.indices]
        told = sizes_told(group, encoding) if sizes else None
        flips = flips_of(options, images, group)
        buckets.append(Bucket(posteriors, described, shown, weighed, told, encoding.variants, flips))
    masked = options.alpha_mask or options.mask_dir is not None
    if masked and all(bucket.loss_weights is None for bucket in buckets):
        say("note: the masks change nothing: every part of every image counts the same")
    return tuple(buckets)


def weights_of_variants(
    group: ImageGroup, *, factor: int, unmasked_weight: float, names: Sequence[str]
) -> np.ndarray | None:
    """The loss weights of the variants of masked images, `[images, variants * 2, height, width]` float32.

    Arguments and errors are those of `loss_weights`.
    """
    masks = np.stack([each.masks for each in group.variants if each.masks is not None], axis=1)
    images, variants, height, width = masks.shape
    found = loss_weights(
        masks.reshape(images * variants, height, width),
        factor=factor,
        unmasked_weight=unmasked_weight,
        names=[name for name in names for _ in range(variants)],
    )
    return None if found is None else found.reshape(images, variants * 2, *found.shape[2:])


def flips_of(options: ImageOptions, images: TrainingImages, group: ImageGroup) -> np.ndarray | None:
    """The chances of mirroring the images of a group, `[images]` float32; None if all have the run's."""
    of_sources = options.of_each_source("flip_p")
    if set(of_sources) <= {options.flip_p}:
        return None
    return np.asarray([of_sources[images.sources[index]] for index in group.indices], np.float32)


def sizes_told(group: ImageGroup, encoding: Encoding) -> np.ndarray:
    """The micro-conditioning of the pictures of a group that are encoded, `[images, pictures, 6]` float32."""
    sides = list(encoding.sides)
    return np.concatenate([each.time_ids[:, sides] for each in group.variants], axis=1)


def latents_cache(options: ImageOptions) -> LatentCache | None:
    """What encoded images are kept in, with a warning if it is not to be trusted; None if that is so."""
    folder, warning = latents_folder(options)
    if warning:
        warn(warning)
    return None if folder is None else LatentCache(folder, round(options.latents_cache_limit * 2**30))


def latents_folder(options: ImageOptions) -> tuple[Path | None, str]:
    """Where encoded images are kept, and a warning, empty if there is none.

    A folder that a person names may be a team's, so it is used, whoever can write to it; the user's cache
    folder is not, where others can.
    """
    if options.latents_cache_dir is not None:
        folder = Path(os.path.expanduser(options.latents_cache_dir))
        distrust = private_folder(folder, ours=False) if folder.is_dir() or not folder.exists() else ""
        return folder, f"latents_cache_dir decides what is learned, and {distrust}" if distrust else ""
    distrust = why_not_default(FOLDER)
    if distrust:
        return None, f"encoded images are neither read nor kept: {distrust}"
    return default_cache_dir(), ""
