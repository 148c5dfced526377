"""Says when a run teaches or shows nothing: before the updates by its options, after them by the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ti_flax.config import RunConfig
from ti_flax.config.options import MOST_CHUNKS
from ti_flax.embedding.rows import rows_of_words
from ti_flax.export.model_card import word_start
from ti_flax.models.prompts.encode import cut_off_note, encode_each
from ti_flax.monitoring.evaluation import PATIENCE
from ti_flax.run.inputs import TrainingInputs
from ti_flax.run.preview_prompts import prompt_rules
from ti_flax.training.learning_rate import Schedule

# A change of the vectors, as a share of their length, that no image shows.
UNCHANGED = 0.01
# Of the side that SDXL was trained at; diffusers' guide takes 768 of 1024 pixels.
SMALLEST_SHARE = 0.75


def before_training(config: RunConfig, inputs: TrainingInputs, schedule: Schedule) -> list[str]:
    """Notes on what this run can only teach or show in vain, a sentence each."""
    return [
        *_rate_notes(config, schedule),
        *_prompt_notes(config, inputs),
        *_stopping_notes(config),
        *_resolution_notes(config, inputs),
    ]


def after_training(config: RunConfig, inputs: TrainingInputs, rows: Mapping[str, np.ndarray]) -> list[str]:
    """What to do about words that are still what they started as, a sentence each.

    Args:
      config: of the run.
      inputs: what it learned from.
      rows: `[added_tokens, width]` float32 by text encoder, the result.
    """
    vectors, rate, lines = inputs.concept.vectors, config.optimizer.learning_rate, []
    before, after = rows_of_words(inputs.added.start, vectors), rows_of_words(rows, vectors)
    for word, options in zip(vectors, config.concept.each, strict=True):
        change = max(relative_change(before[word][each], after[word][each]) for each in rows)
        if change < UNCHANGED:
            moved = "did not move" if change == 0 else f"moved by {100 * change:.2g}% of its length"
            lines.append(
                f"{word} is still what it started as, {word_start(options)} (it {moved}): raise "
                f"learning_rate, which was {rate}, or train for more steps"
            )
    return lines


def relative_change(start: np.ndarray, learned: np.ndarray) -> float:
    """The largest change of a vector, as a share of its length; both are `[vectors, width]`."""
    before, after = start.astype(np.float64), learned.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(before, axis=1), 1e-12)
    return float(np.max(np.linalg.norm(after - before, axis=1) / lengths))


def _rate_notes(config: RunConfig, schedule: Schedule) -> Iterator[str]:
    total = config.training.total_steps
    # Rates change smoothly or in long stretches: a few hundred steps tell of all.
    steps = np.unique(np.linspace(0, total - 1, min(total, 500)).astype(np.int32))
    if not np.any(np.asarray(schedule(steps))):
        yield "learning_rate is 0 at every step: nothing is learned"


def _resolution_notes(config: RunConfig, inputs: TrainingInputs) -> Iterator[str]:
    model, resolution = inputs.model, config.images.resolution
    side = model.configs["unet"].get("sample_size")
    if not model.is_sdxl or type(side) is not int:
        return
    trained = side * model.vae.config.downsampling
    if resolution < SMALLEST_SHARE * trained:
        yield (
            f"resolution {resolution} is far below the {trained} pixels that this SDXL model was trained at, "
            "and it draws small images badly: learn at a resolution that you would draw at"
        )


def _prompt_notes(config: RunConfig, inputs: TrainingInputs) -> Iterator[str]:
    for prompt in inputs.previews.each:
        if not inputs.concept.named_in(prompt.text):
            yield (
                f"{prompt.where} {prompt.text!r} does not name {inputs.concept.either}: "
                "its images cannot show what is learned"
            )
    yield from _length_notes(config, inputs)


def _length_notes(config: RunConfig, inputs: TrainingInputs) -> Iterator[str]:
    """A line on prompts of previews of which the text encoder does not see the end."""
    previews, tokenizer = inputs.previews.each, inputs.tokenizer
    names = {prompt.text: prompt.where for prompt in previews}
    for prompt in previews:
        names.setdefault(prompt.negative, prompt.negative_where)
    encoded = encode_each(tokenizer, [*names], prompt_rules(config)) if names else []
    if note := cut_off_note(tokenizer, names, encoded, "max_token_length", most=MOST_CHUNKS):
        yield note


def _stopping_notes(config: RunConfig) -> Iterator[str]:
    monitoring, total = config.monitoring, config.training.total_steps
    patience = monitoring.early_stopping_patience or PATIENCE
    if monitoring.early_stopping and monitoring.eval_steps and monitoring.eval_steps * patience >= total:
        yield (
            f"early_stopping cannot end this run: {patience} evaluations, one every "
            f"{monitoring.eval_steps} steps, take all of its {total} steps"
        )
