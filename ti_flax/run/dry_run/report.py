"""What a dry run prints: what would be learned from, how long it would take, and what it would need."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ti_flax.config import RunConfig
from ti_flax.config.options import ImageOptions
from ti_flax.config.options.word import WordOptions
from ti_flax.data.encoding import in_units
from ti_flax.data.images.groups import memory_of_machine
from ti_flax.hosts.devices import Expected
from ti_flax.models.tokenizer import prompts_cut_off, split_text
from ti_flax.run.dry_run.examination import Examined, nearest_there
from ti_flax.run.dry_run.model import ModelHere
from ti_flax.run.inputs import TrainingInputs

_LABEL, _WIDTH = 12, 100
# Prompts and names of files in a list.
_SHOWN = 5
_FLOAT32 = 4

Lines = Iterator[tuple[str, str]]


def printed(lines: Iterable[tuple[str, str]]) -> str:
    """Labels and texts in two columns; a label that comes again, or an empty one, is left out."""
    shown, before = [], ""
    for label, text in lines:
        first = f"{'' if label == before else label:<{_LABEL}}"
        shown += textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=first,
            subsequent_indent=" " * _LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )
        before = label
    return "\n".join(shown)


@dataclass(frozen=True)
class Concept:
    """What is kept of one concept of many, in place of its images.

    Attributes:
      line: the concept in short.
      room: that it takes.
      notes: lines that its run would print.
    """

    line: str
    room: Room
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Room:
    """What the images and the result of a run take.

    Attributes:
      samples: of an update.
      encoded: bytes of its encoded images.
      pixels: bytes of its images before that.
      written: bytes of its learned_embeds files and checkpoints.
    """

    samples: int
    encoded: int
    pixels: int
    written: int

    @classmethod
    def of(cls, run: Examined) -> Room:
        """The room of one concept."""
        pixels = sum(group.pixel_bytes for group in run.inputs.images.groups)
        return cls(run.samples, encoded_bytes(run), pixels, written_bytes(run))

    @classmethod
    def together(cls, rooms: Sequence[Room]) -> Room:
        """That of several, of which each in turn has its images in memory."""
        return cls(
            max(room.samples for room in rooms),
            sum(room.encoded for room in rooms),
            max(room.pixels for room in rooms),
            sum(room.written for room in rooms),
        )


def of_one(run: Examined, here: ModelHere, expected: Expected, sheet: Path, notes: Sequence[str]) -> Lines:
    """The lines of a run of one concept."""
    yield from words(run.config, run.inputs)
    yield "images", images(run)
    yield "images", f"as training sees them: {sheet}"
    yield from prompts(run.inputs)
    yield from length(run)
    yield from needs(run.config, Room.of(run), here, expected)
    yield from downloads(here)
    yield from ends([*notes, *run.notes])


def of_many(
    config: RunConfig,
    concepts: dict[str, Concept],
    here: ModelHere,
    expected: Expected,
    sheet: Path,
    notes: Sequence[str],
) -> Lines:
    """The lines of a run of many concepts: one for each, then what they need together."""
    yield "concepts", f"{len(concepts)}; images as training sees them: {sheet}"
    for name, concept in concepts.items():
        yield "concepts", f"{name}: {concept.line}"
    at_once = config.concept_list.concepts_at_once
    yield "at once", f"{at_once}" if at_once else "as many as the compiler finds room for"
    room = Room.together([concept.room for concept in concepts.values()])
    yield from needs(config, room, here, expected)
    yield from downloads(here)
    told = [f"{name}: {note}" for name, concept in concepts.items() for note in concept.notes]
    yield from ends([*notes, *told])


def in_short(run: Examined) -> str:
    """A concept in a line."""
    config, inputs = run.config, run.inputs
    lengths = token_counts(inputs)
    cut = len(cut_off(inputs))
    parts = [
        f"{word.placeholder_token}, {vectors} from {start}"
        for word, vectors, start in zip(
            config.concept.each, vector_counts(inputs), inputs.origins, strict=True
        )
    ]
    counted = _counted(len(inputs.images.names), "image")
    many = f"{len(lengths)} prompts of up to {max(lengths.values())} tokens" + (
        f", {cut} cut off" if cut else ""
    )
    return "; ".join([*parts, counted, many, run.done or f"{updates_of(run)} x {run.samples} samples"])


def words(config: RunConfig, inputs: TrainingInputs) -> Lines:
    """Each word, how many tokens it has, and what the tokenizer makes of its start."""
    for word, each, count in zip(
        inputs.concept.words, config.concept.each, vector_counts(inputs), strict=True
    ):
        ids = f"{word.token_ids[0]}" + (f" to {word.token_ids[-1]}" if count != "1 vector" else "")
        yield "word", f"{each.placeholder_token}: {count}, token {ids}; {start_of(each, inputs)}"
    for other in inputs.frozen_words:
        yield "word", f"{other.placeholder_token}: {len(other.token_ids)} loaded, stays as it is"


def vector_counts(inputs: TrainingInputs) -> list[str]:
    """How many vectors each word has, in words."""
    return [_counted(len(word.token_ids), "vector") for word in inputs.concept.words]


def start_of(word: WordOptions, inputs: TrainingInputs) -> str:
    """What a word starts as; of known words, the tokens that they are."""
    if word.init_embeds is not None or word.initializer_mode == "random":
        return f"starts as {word.start}"
    text = word.initializer_token or ""
    tokens = split_text(inputs.tokenizer, text)
    ids = inputs.tokenizer.convert_tokens_to_ids(tokens)
    shown = ", ".join(f"{token} ({number})" for token, number in zip(tokens, ids, strict=True))
    return f"starts as {word.start}, which is {_counted(len(tokens), 'token')}: {shown}"


def images(run: Examined) -> str:
    """How many images there are, and their shapes."""
    inputs, options = run.inputs, run.config.images
    groups = inputs.images.groups
    sizes = [f"{group.pixels.shape[2]} x {group.pixels.shape[1]}" for group in groups]
    shapes = ", ".join(f"{len(group.indices)} of {size}" for group, size in zip(groups, sizes, strict=True))
    shapes = shapes if groups[1:] else f"{sizes[0]}"
    fits = {True: "central square", False: "squeezed into squares"}
    crops = dict.fromkeys(options.of_each_source("center_crop"))
    fit = " or ".join(fits[crop] for crop in crops) if not options.enable_bucket else "whole shapes cropped"
    parts = [f"{_counted(len(inputs.images.names), 'image')}: {shapes} pixels, {fit}"]
    flips = dict.fromkeys(options.of_each_source("flip_p"))
    chances = " or ".join(f"{each:g}" for each in flips)
    parts += [f"mirrored with probability {chances}"] if any(flips) else []
    parts += [jitter(options)] if options.variants > 1 else []
    masked = sum(len(group.masks) for group in inputs.images.groups if group.masks is not None)
    parts += [f"masked ({masked - len(inputs.images.without_mask)} masks)"] if masked else []
    parts += [f"{len(inputs.images.passed_over)} other files passed over"] * bool(inputs.images.passed_over)
    classes = inputs.examples.class_buckets
    parts += [f"beside {_counted(len(classes[0].posteriors), 'class image')}"] if classes else []
    return "; ".join(parts)


def jitter(options: ImageOptions) -> str:
    """What the variants of an image have."""
    crop = f"crops by up to {options.crop_jitter:g} of a side"
    names = ("brightness", "contrast", "saturation", "hue")
    strengths = zip(names, options.strengths, strict=True)
    colours = ", ".join(f"{name} by up to {most:g}" for name, most in strengths if most)
    drawn = " and ".join([crop] * bool(options.crop_jitter) + [colours] * bool(colours))
    return f"{options.variants} variants of each, the image as it is and {options.variants - 1} with {drawn}"


def prompts(inputs: TrainingInputs) -> Lines:
    """Examples of prompts with their tokens, the longest one, and those of which the end is cut off."""
    lengths = token_counts(inputs)
    room = inputs.examples.token_ids.shape[-1]
    yield "prompts", f"{inputs.prompts.description}; {room} tokens have room, begin and end included"
    every = max(1, len(lengths) // (_SHOWN - 1))
    shown = list(lengths)[::every][: _SHOWN - 1]
    longest = max(lengths, key=lambda prompt: lengths[prompt])
    for prompt in dict.fromkeys([*shown, longest]):
        last = " (the longest)" if prompt == longest else ""
        yield (
            "prompts",
            f"{lengths[prompt]:>3} tokens  {_beginning(inputs.concept.with_names(prompt))!r}{last}",
        )
    cut = cut_off(inputs)
    if cut:
        yield "cut off", f"{len(cut)} of {len(lengths)} prompts are longer, and lose their ends:"
    for prompt in cut[:_SHOWN]:
        origin = inputs.prompts.origins.get(prompt, "")
        yield (
            "cut off",
            f"{lengths[prompt]:>3} tokens  {_beginning(prompt)!r}" + f" of {origin}" * bool(origin),
        )
    if len(cut) > _SHOWN:
        yield "cut off", f"and {len(cut) - _SHOWN} more"


def _beginning(text: str) -> str:
    return text if len(text) <= 70 else f"{text[:67]}..."


def token_counts(inputs: TrainingInputs) -> dict[str, int]:
    """The tokens of each prompt, begin and end included, whatever has room."""
    distinct = list(dict.fromkeys(prompt for row in inputs.prompts.prompts for prompt in row))
    encoded = inputs.tokenizer(distinct, verbose=False)["input_ids"]
    return {prompt: len(ids) for prompt, ids in zip(distinct, encoded, strict=True)}


def cut_off(inputs: TrainingInputs) -> list[str]:
    """The prompts of which the text encoder does not see the end."""
    flat = [prompt for row in inputs.prompts.prompts for prompt in row]
    ids = inputs.examples.token_ids
    rows = dict(zip(flat, ids.reshape(-1, ids.shape[-1]), strict=True))
    return prompts_cut_off(inputs.tokenizer, [*rows], np.stack([*rows.values()]))


def updates_of(run: Examined) -> str:
    """How many updates there are, in words."""
    training = run.config.training
    return (
        f"at most {training.total_steps} updates"
        if training.until_done
        else f"{training.total_steps} updates"
    )


def length(run: Examined) -> Lines:
    """Updates, samples and epochs, and what is written between them."""
    if run.done is not None:
        yield "run", run.done
        return
    config, total = run.config, run.config.training.total_steps
    epoch = sum(run.inputs.images.weights)
    seen = total * run.samples
    yield (
        "run",
        f"{updates_of(run)} x {run.samples} samples = {seen} samples, {seen / epoch:.3g} epochs of {epoch}; "
        f"an image is shown about {seen / len(run.inputs.images.names):.0f} times"
        + (f"; goes on from step {run.step}" if run.step else ""),
    )
    output, monitoring = config.output, config.monitoring
    kept = output.checkpoints_total_limit
    made = math.ceil(total / output.checkpointing_steps)
    told = [f"{_counted(made, 'checkpoint')}{f', the last {kept} kept' if kept and kept < made else ''}"]
    told.append(f"{_counted(total // output.save_steps, 'learned_embeds-steps file')}")
    if monitoring.draws_previews:
        every = config.validation_interval(epoch)
        drawn = len(run.inputs.previews.each) * monitoring.num_validation_images
        count = _counted(1 + math.ceil(total / every), "preview")
        told.append(f"{count} of {_counted(drawn, 'image')}, one every {every} updates")
    told.append(
        "no evaluations"
        if monitoring.eval_steps == 0
        else "evaluations"
        + (
            f" every {monitoring.eval_steps} updates"
            if monitoring.eval_steps
            else f", about a {'quarter' if config.training.until_done else 'twentieth'} of the time"
        )
    )
    yield "run", "; ".join(told)


def needs(config: RunConfig, room: Room, here: ModelHere, expected: Expected) -> Lines:
    """Memory and disk, as far as they are known without the compiler."""
    frozen = here.parameter_bytes(*here.model.text_encoders, "unet")
    one = {"cpu": "core", "gpu": "GPU", "tpu": "TPU chip"}[expected.platform]
    where = "the CPU" if expected.platform == "cpu" else f"each {one}"
    yield "devices", f"{_counted(expected.count, one)}; {room.samples} samples in an update"
    yield (
        "memory",
        f"{in_units(frozen)} of parameters in {config.model.compute_dtype} on {where}, and beside them what "
        "an update computes, which the compiler alone knows (docs/tpu.md has figures)",
    )
    held = frozen + here.parameter_bytes("vae") + room.pixels
    yield (
        "memory",
        f"of this machine's {in_units(memory_of_machine())}: {in_units(held)} for model and images, "
        f"{in_units(room.encoded)} for encoded images",
    )
    yield from disk(config, room, here)


def disk(config: RunConfig, room: Room, here: ModelHere) -> Lines:
    """What would be written where, and the space that is free."""
    many = config.concept_list.concepts is not None
    whole = config.concept_list.save_joint_pipeline if many else not config.output.only_save_embeds
    pipeline = here.pipeline_bytes() if whole else 0
    place = Path(config.output.output_dir)
    free = shutil.disk_usage(nearest_there(place)).free
    what = f"{in_units(pipeline)} for the whole pipeline and " if pipeline else ""
    without = " (only_save_embeds leaves the pipeline out)" if pipeline and not many else ""
    lacking = ", WHICH IS NOT ENOUGH" if pipeline + room.written > free else ""
    yield (
        "disk",
        f"{place}: {what}{in_units(room.written)} for vectors and checkpoints{without}; "
        f"{in_units(free)} free{lacking}",
    )
    yield "disk", f"cache of encoded images: {in_units(room.encoded)}, which are there for the next run"


def encoded_bytes(run: Examined) -> int:
    """Bytes of the encoded images of a run."""
    examples = run.inputs.examples
    buckets = (*examples.buckets, *(examples.class_buckets or ()))
    return sum(math.prod(bucket.posteriors.shape) * _FLOAT32 for bucket in buckets)


def written_bytes(run: Examined) -> int:
    """Bytes of learned_embeds files and checkpoints; one of these has about four arrays of the rows' size."""
    added, output = run.inputs.added, run.config.output
    rows = sum(array.nbytes for array in added.start.values())
    total = run.config.training.total_steps
    made = math.ceil(total / output.checkpointing_steps)
    kept = min(made, output.checkpoints_total_limit or made)
    return rows * (4 * kept + total // output.save_steps + 2)


def downloads(here: ModelHere) -> Lines:
    """What is still to be downloaded of the model, and where to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if not here.missing:
        yield "downloads", "nothing of the model, which is here"
    for each in here.missing:
        sizes = [*each.files.values()]
        if not sizes:
            yield "downloads", f"nothing of {each.repository}, which is here whole"
            continue
        size = "a size that the Hub does not say"
        if None not in sizes:
            size = in_units(sum(size or 0 for size in sizes))
        files = f"{_counted(len(sizes), 'file')}: {', '.join(each.files)}"
        yield "downloads", f"{size} of {each.repository} into {HF_HUB_CACHE}, {files}"


def ends(notes: Sequence[str]) -> Lines:
    """Options without effect, and what else a run would note."""
    idle = [note for note in notes if "does nothing" in note or "do nothing" in note]
    for note in dict.fromkeys(idle):
        yield "no effect", note
    for note in dict.fromkeys(note for note in notes if note not in idle):
        yield "notes", note


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
