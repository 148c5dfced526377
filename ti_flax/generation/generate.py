"""Images from a base model and embeddings: as files, as `ti-flax generate` writes them, or in memory."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ti_flax.config.options import CHUNK_TOKENS, ModelOptions
from ti_flax.config.values import nearest_multiples
from ti_flax.console.messages import say
from ti_flax.embedding.initialization import FrozenEmbedding, read_frozen_embeddings
from ti_flax.errors import ConfigError, WeightsError
from ti_flax.files.regular import file_digest
from ti_flax.generation.generator import ImageGenerator, on_all
from ti_flax.generation.image_grid import contact_sheet, image_grid_of
from ti_flax.generation.png_metadata import (
    ImageSpec,
    Provenance,
    grid_path,
    image_file_name,
    image_texts,
    next_number,
    save_png,
)
from ti_flax.generation.prompt_file import PromptLine, read_prompt_file
from ti_flax.generation.prompt_tokens import EMBEDS, TokenizedPrompts, tokenize_prompts
from ti_flax.generation.samplers import SAMPLERS
from ti_flax.hosts.devices import start_devices
from ti_flax.models.base_model import MODEL_PARTS, base_tokenizers, find_base_model, say_notes
from ti_flax.models.prompts.encode import PromptRules
from ti_flax.models.stable_diffusion import FlaxStableDiffusion, load_stable_diffusion
from ti_flax.models.weights.model_source import ModelSource

# What a key is made of has 64 bits; further seeds count up from this.
_LARGEST_SEED = 2**62
_LONGEST_SIDE = 16384
_MOST = 10_000


@dataclasses.dataclass(frozen=True)
class GenerateRequest:
    """What a person asks for; the names are those of the script's options.

    Attributes:
      model: which base model, and how it is read.
      prompts: texts.
      prompt_files: files of prompts.
      negative_prompt: for prompts without one of their own.
      learned_embeds: files, or `TOKEN=FILE`.
      placeholder_token: the word of the only file.
      compare: draws every prompt without the embeddings as well.
      num_images: images of each prompt.
      num_inference_steps: denoising steps, for prompts that do not say.
      guidance_scale: likewise; 1 is no guidance.
      sampler: likewise.
      seed: likewise, of the first image.
      resolution: side in pixels, for prompts that do not say; None is the model's own.
      max_token_length: tokens of a prompt, in chunks of 75; None is as many as it has.
      prompt_weights: whether brackets weigh words, as in the Web UI.
      batch_size: images drawn at once on a device; None is a prompt's share of a device.
      output: where the grid goes; None is a new name.
      output_dir: folder of single images; None writes none.
      overwrite: whether the grid may replace a file.
    """

    model: ModelOptions
    prompts: Sequence[str] = ()
    prompt_files: Sequence[Path] = ()
    negative_prompt: str = ""
    learned_embeds: Sequence[str] = ()
    placeholder_token: str | None = None
    compare: bool = False
    num_images: int = 4
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    sampler: str = "dpmsolver++"
    seed: int = 0
    resolution: int | None = None
    max_token_length: int | None = 75
    prompt_weights: bool = False
    batch_size: int | None = None
    output: Path | None = None
    output_dir: Path | None = None
    overwrite: bool = False


def generate(
    model: str | Path | ModelOptions,
    prompts: str | Sequence[str],
    *,
    learned_embeds: Sequence[str | Path] = (),
    num_images: int = 1,
    **options: Any,
) -> list[Image.Image]:
    """Generates images and returns them, those of the first prompt first; writes no file.

    Args:
      model: Hub id, folder or file of the base model, or all there is to say about it.
      prompts: one or more.
      learned_embeds: embedding files of any form, or `TOKEN=FILE`.
      num_images: for each prompt.
      options: `negative_prompt`, `num_inference_steps`, `guidance_scale`, `sampler`, `seed`, `resolution`,
        `max_token_length`, `prompt_weights`, `batch_size` of `GenerateRequest`.

    Raises:
      TiFlaxError: something that was asked for cannot be had.
    """
    if not isinstance(model, ModelOptions):
        model = ModelOptions(pretrained_model_name_or_path=str(model))
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    embeds = [str(each) for each in learned_embeds]
    request = GenerateRequest(model, prompts, learned_embeds=embeds, num_images=num_images, **options)
    _, images, _ = _drawn(request)
    return [Image.fromarray(image) for row in images for image in row]


def generate_files(request: GenerateRequest) -> str:
    """Generates images, writes them, and says in a sentence what was written.

    Raises:
      TiFlaxError: something that was asked for cannot be had.
    """
    grid = grid_path(request.output, request.output_dir, overwrite=request.overwrite)
    rows, images, provenance = _drawn(request)
    if request.output_dir is not None:
        save_each(request.output_dir, rows, images, provenance)
    save_grid(grid, rows, images, provenance, compare=request.compare, overwrite=request.overwrite)
    return _said(grid, request, rows)


def _drawn(request: GenerateRequest) -> tuple[list[list[ImageSpec]], list[list[np.ndarray]], Provenance]:
    """What each prompt's images are, the images `[height, width, 3]` uint8, and what they were made with."""
    lines = _prompts(request)
    embeddings = _embeddings(request)
    start_devices()
    base = find_base_model(request.model, components=MODEL_PARTS)
    tokenizers = base_tokenizers(base, request.model.tokenizer_name)
    say_notes(base)
    dtype = jnp.float32 if request.model.mixed_precision == "no" else jnp.bfloat16
    # What does not fit is found before the weights are read.
    described = load_stable_diffusion(base, dtype=dtype, components=())
    side = request.resolution or _side(described)
    rows = [_specs(line, request, side, described.vae.config.downsampling) for line in lines]
    specs = [spec for row in rows for spec in row]
    prompts = tokenize_prompts(tokenizers, embeddings, specs, described.widths, _prompt_rules(request))
    provenance = _provenance(base, request, embeddings)
    devices = jax.local_devices()
    at_once = len(devices) * (request.batch_size or math.ceil(request.num_images / len(devices)))
    images = draw(load_stable_diffusion(base, dtype=dtype), prompts, rows, devices=devices, at_once=at_once)
    return rows, images, provenance


def _prompts(request: GenerateRequest) -> list[PromptLine]:
    """Every prompt there is, after the numbers beside them have been checked."""
    for name in ("num_images", "num_inference_steps", "batch_size"):
        if (value := getattr(request, name)) is not None and not 1 <= value <= _MOST:
            raise ConfigError(f"--{name}", expected=f"1 or more, up to {_MOST}", found=str(value))
    if request.compare and not request.learned_embeds:
        raise ConfigError("--compare", expected=f"{EMBEDS} to leave out and put in", found="none")
    lines = [PromptLine(prompt) for prompt in request.prompts]
    lines += [line for file in request.prompt_files for line in read_prompt_file(file)]
    if not lines:
        raise ConfigError("--prompt", expected="a prompt, or --prompt_file", found="neither")
    for line in lines:
        if line.sampler is not None and line.sampler not in SAMPLERS:
            raise ConfigError(
                f"prompt {line.prompt!r}, --ss", expected=" or ".join(SAMPLERS), found=line.sampler
            )
    return lines


def _prompt_rules(request: GenerateRequest) -> PromptRules:
    most = request.max_token_length
    if most is not None and not (CHUNK_TOKENS <= most <= _MOST and most % CHUNK_TOKENS == 0):
        expected = f"a multiple of {CHUNK_TOKENS}, or any"
        raise ConfigError("--max_token_length", expected=expected, found=str(most))
    return PromptRules(None if most is None else most // CHUNK_TOKENS, request.prompt_weights)


def _embeddings(request: GenerateRequest) -> list[FrozenEmbedding]:
    """The embeddings asked for, each with the word it goes by."""
    embeddings = read_frozen_embeddings(request.learned_embeds, EMBEDS)
    if request.placeholder_token is None:
        return embeddings
    if len(embeddings) != 1:
        raise ConfigError(
            "--placeholder_token",
            expected=f"one {EMBEDS} to name",
            found=str(len(embeddings)),
            remedy=f"Name each of several as {EMBEDS} TOKEN=FILE.",
        )
    (embedding,) = embeddings
    if embedding.token not in (embedding.file.token, embedding.path.stem):
        raise ConfigError(
            "--placeholder_token", expected=f"to be left out beside {EMBEDS} TOKEN=FILE", found="both"
        )
    return [dataclasses.replace(embedding, token=request.placeholder_token)]


def _side(model: FlaxStableDiffusion) -> int:
    side = model.configs["unet"].get("sample_size")
    if type(side) is not int or side < 1:
        raise WeightsError(
            "unet/config.json, field sample_size",
            expected="the side of the model's images in latents",
            found=repr(side),
            remedy="Set --resolution.",
        )
    return side * model.vae.config.downsampling


def _specs(line: PromptLine, request: GenerateRequest, side: int, multiple: int) -> list[ImageSpec]:
    """The images of a prompt: all with the embeddings, then, to compare, all without."""
    size = (line.height or request.resolution or side, line.width or request.resolution or side)
    for found in size:
        if not 1 <= found <= _LONGEST_SIDE or found % multiple:
            where = "--resolution" if line.height is line.width is None else f"prompt {line.prompt!r}"
            expected = f"sides that are a multiple of {multiple}, up to {_LONGEST_SIDE}"
            inside = min(max(found, 1), _LONGEST_SIDE)
            remedy = nearest_multiples(inside, multiple, lambda side: 1 <= side <= _LONGEST_SIDE)
            raise ConfigError(where, expected=expected, found=str(found), remedy=remedy)
    if line.steps is not None and not 1 <= line.steps <= _MOST:
        raise ConfigError(
            f"prompt {line.prompt!r}, --s", expected=f"1 or more, up to {_MOST}", found=str(line.steps)
        )
    seed = request.seed if line.seed is None else line.seed
    if abs(seed) > _LARGEST_SEED:
        where = "--seed" if line.seed is None else f"prompt {line.prompt!r}, --d"
        raise ConfigError(where, expected=f"a number up to {_LARGEST_SEED}", found=str(seed))
    negative = request.negative_prompt if line.negative_prompt is None else line.negative_prompt
    return [
        ImageSpec(
            line.prompt,
            negative,
            seed + place,
            size,
            line.steps or request.num_inference_steps,
            line.sampler or request.sampler,
            request.guidance_scale if line.guidance_scale is None else line.guidance_scale,
            learned,
        )
        for learned in ((True, False) if request.compare else (True,))
        for place in range(request.num_images)
    ]


def draw(
    model: FlaxStableDiffusion,
    prompts: TokenizedPrompts,
    rows: Sequence[Sequence[ImageSpec]],
    *,
    devices: Sequence[Any],
    at_once: int,
) -> list[list[np.ndarray]]:
    """Draws images, batches of those with the same settings shared out among devices.

    Args:
      model: with parameters.
      prompts: what prompts mean.
      rows: the images of each prompt.
      devices: to draw on.
      at_once: images in a batch, on all devices together.

    Returns:
      `[height, width, 3]` uint8 for each of them.
    """
    params = on_all(model.params, devices) if len(devices) > 1 else jax.device_put(model.params, devices[0])
    groups: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    for row, specs in enumerate(rows):
        for place, spec in enumerate(specs):
            settings = spec.steps, spec.sampler, spec.size, spec.guidance_scale, prompts.tokens(spec)
            groups[settings].append((row, place))
    drawn: list[list[Any]] = [[None] * len(specs) for specs in rows]
    generators: dict[tuple[int, str], ImageGenerator] = {}
    done, total = 0, sum(len(specs) for specs in rows)
    fixed = {"first_added_id": prompts.first_added_id, "special": prompts.special, "devices": devices}
    for (steps, sampler, size, guidance_scale, _), places in groups.items():
        if (steps, sampler) not in generators:
            generators[steps, sampler] = ImageGenerator(model, steps=steps, sampler=sampler, **fixed)
        # All batches have one size, so that there is one compilation; what is too much is drawn for nothing.
        count = min(at_once, len(places))
        for start in range(0, len(places), count):
            batch = places[start : start + count]
            specs = [rows[row][place] for row, place in batch]
            specs += [specs[-1]] * (count - len(specs))
            given, negatives = prompts.of(specs)
            images = generators[steps, sampler].generate(
                params,
                prompts.rows,
                prompt_ids=given.ids,
                negative_ids=negatives.ids,
                prompt_weights=given.weights,
                negative_weights=negatives.weights,
                seeds=[spec.seed for spec in specs],
                size=size,
                guidance_scale=guidance_scale,
            )
            for (row, place), image in zip(batch, images, strict=False):
                drawn[row][place] = image
            done += len(batch)
            if total > at_once:
                say(f"{done} of {total} images")
    return drawn


def _provenance(
    base: ModelSource, request: GenerateRequest, embeddings: Sequence[FrozenEmbedding]
) -> Provenance:
    name = Path(request.model.pretrained_model_name_or_path).name
    listed = [
        (embedding.token, path.name, file_digest(path)[1])
        for embedding in embeddings
        for path in embedding.file.files
    ]
    stem = Path(name).stem if base.file is not None else name
    return Provenance(stem, request.model.clip_skip, listed)


def save_each(
    folder: Path,
    rows: Sequence[Sequence[ImageSpec]],
    images: Sequence[Sequence[np.ndarray]],
    provenance: Provenance,
) -> None:
    """Writes every image by itself, numbered on from those that are in the folder."""
    number = next_number(folder)
    for specs, drawn in zip(rows, images, strict=True):
        # An image without the embeddings has the number of its like with them.
        count = sum(spec.learned for spec in specs)
        for place, (spec, image) in enumerate(zip(specs, drawn, strict=True)):
            path = folder / image_file_name(number + place % count, spec)
            save_png(Image.fromarray(image), path, image_texts(spec, provenance))
        number += count


def save_grid(
    path: Path,
    rows: Sequence[Sequence[ImageSpec]],
    images: Sequence[Sequence[np.ndarray]],
    provenance: Provenance,
    *,
    compare: bool,
    overwrite: bool,
) -> None:
    """Writes all images as one: a row each prompt, and to compare two, under labels.

    Args:
      path: of the file.
      rows: what was drawn for each prompt.
      images: likewise.
      provenance: what with.
      compare: whether the rows have images without embeddings in their second half.
      overwrite: whether a file may be replaced.
    """
    shapes = [image.shape for drawn in images for image in drawn]
    height, width = (max(shape[axis] for shape in shapes) for axis in (0, 1))
    stacked = [np.stack([_padded(image, height, width) for image in drawn]) for drawn in images]
    if not compare:
        grid = image_grid_of(np.concatenate(stacked), columns=len(stacked[0]))
    else:
        labelled = []
        for specs, row in zip(rows, stacked, strict=True):
            half = len(specs) // 2
            labelled.append((f"with: {specs[0].prompt}", row[:half]))
            labelled.append((f"without: {specs[0].prompt}", row[half:]))
        grid = contact_sheet(labelled)
    save_png(grid, path, image_texts(rows[0][0], provenance), overwrite=overwrite)


def _padded(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image on white, at the left top."""
    missing = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
    return np.pad(image, missing, constant_values=255)


def _said(grid: Path, request: GenerateRequest, rows: Sequence[Sequence[ImageSpec]]) -> str:
    sizes = list(dict.fromkeys(f"{spec.size[1]} x {spec.size[0]}" for row in rows for spec in row))
    compared = ", with and without the embeddings" if request.compare else ""
    counted = f"{len(rows)} x {request.num_images} images of {' and '.join(sizes)}{compared}"
    each = "" if request.output_dir is None else f"; single images are in {request.output_dir}"
    return f"{grid}: {counted}{each}"
