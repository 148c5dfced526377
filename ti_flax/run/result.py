"""The files of a result: the embedding, what the concepts library wants to know of it, card and images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.config import RunConfig
from ti_flax.config.options import MonitoringOptions
from ti_flax.config.run_config import GROUPS
from ti_flax.config.values import options_of
from ti_flax.embedding.contents import FIRST, SECOND
from ti_flax.embedding.learned_embeds import learned_embeds_files, write_learned_embeds
from ti_flax.embedding.rows import before, rows_of_words
from ti_flax.errors import unwritable
from ti_flax.export.card_images import MOST_CONCEPT_IMAGES, write_concept_images, write_example_images
from ti_flax.export.hub_files import result_files
from ti_flax.export.model_card import CardFacts, start_in_words, word_start, write_model_card
from ti_flax.files.atomic import write_text
from ti_flax.files.folder_files import copy_file
from ti_flax.files.written_files import record
from ti_flax.run.inputs import TrainingInputs
from ti_flax.training.settings import describe_rate
from ti_flax.training.state import StepConfig, TrainState, result_rows

# The groups of options that say how the concept was learned.
_SETTINGS = ("model", "concept", "images", "prompts", "training", "optimizer", "loss")
# Those that say how the images on its card were drawn.
_PREVIEW_SETTINGS = (
    "validation_negative_prompt",
    "validation_size",
    "validation_seed",
    "validation_sampler",
    "validation_num_inference_steps",
    "validation_guidance_scale",
    "prompt_weights",
)
_NAMES = ("token_identifier.txt", "type_of_concept.txt")


def write_result(
    config: RunConfig,
    inputs: TrainingInputs,
    rows: Mapping[str, np.ndarray],
    folder: Path,
    *,
    step: int,
    samples: int,
    batches: int | None = None,
    goes_on: bool = False,
) -> None:
    """Writes the embedding in both formats with its card and images.

    Args:
      config: of the run.
      inputs: what it learned from.
      rows: `[added_tokens, width]` float32 by text encoder; the concept's own come first and are what is
        written.
      folder: where to; previews and contact sheet in it are shown by the card.
      step: updates made.
      samples: of an update.
      batches: that are computed at once; None: as many as here.
      goes_on: whether more updates follow, which the card then says.

    Raises:
      OutputError: the folder cannot be written.
    """
    words, prompts = inputs.concept.vectors, inputs.previews.texts
    shows = config.hub.hub_concept_images
    images = inputs.images.first(MOST_CONCEPT_IMAGES) if shows else []
    concept_images = write_concept_images(folder, images)
    preview = folder / "validation" / f"step-{step}.png"
    examples = write_example_images(folder, preview, prompts, inputs.previews.size)
    facts = CardFacts(
        **of_configuration(config, inputs.previews.options),
        images=len(inputs.images.names),
        width=inputs.added.widths[FIRST],
        second_width=inputs.added.widths.get(SECOND, 0),
        step=step,
        total=config.training.total_steps if goes_on else None,
        batch=samples,
        rate=describe_rate(config.optimizer, config.training, batches),
        concept_images=concept_images,
        examples=prompts[:examples],
        sheet=shows and (folder / "contact_sheet.png").is_file(),
    )
    write_model_card(folder, inputs.concept, facts)
    try:
        record(folder, *_NAMES, *learned_embeds_files([*words], sdxl=len(before(rows)) > 1))
        write_text(folder / "token_identifier.txt", "\n".join(words))
        write_text(folder / "type_of_concept.txt", config.concept.learnable_property)
    except OSError as error:
        raise unwritable(folder, error) from error
    # Last, because learned_embeds.safetensors is what marks a run as finished.
    write_learned_embeds(folder, rows_of_words(rows, words))


def of_configuration(config: RunConfig, previews: MonitoringOptions) -> dict[str, Any]:
    """What a card takes from the configuration, by the names of `CardFacts`.

    Args:
      config: of the run.
      previews: the options that its previews were drawn with.
    """
    return {
        "base": config.model.pretrained_model_name_or_path,
        "kind": config.concept.learnable_property,
        "start": start_in_words(config.concept),
        "starts": tuple(word_start(each) for each in config.concept.each),
        "clip_skip": config.model.clip_skip,
        "repository": config.hub.hub_model_id if config.hub.push_to_hub else None,
        "license": config.hub.hub_license,
        "settings": _settings(config, previews),
    }


def _settings(config: RunConfig, previews: MonitoringOptions) -> dict[str, object]:
    """The options of the learning that are not at their defaults, and of the images on the card.

    Paths stay on this machine.
    """
    config = dataclasses.replace(config, monitoring=previews)
    values = config.to_dict()
    return {
        option.name: values[option.name]
        for group in (*_SETTINGS, "monitoring")
        for option in options_of(GROUPS[group])
        if not (option.rule.path or option.rule.secret)
        if group != "monitoring" or (previews.draws_previews and option.name in _PREVIEW_SETTINGS)
        if getattr(getattr(config, group), option.name) != option.default
    }


def result_so_far(
    config: RunConfig, step_config: StepConfig, inputs: TrainingInputs, output_dir: Path
) -> Callable[[Path, int, TrainState], None]:
    """What writes the result of a state into a folder, beside copies of the run's curves and previews."""

    def fill(folder: Path, step: int, state: TrainState) -> None:
        for name in result_files(output_dir):
            if name.startswith(("metrics", "signals", "validation/")):
                copy_file(output_dir / name, folder / name, output_dir)
        rows = result_rows(step_config, state)
        write_result(config, inputs, rows, folder, step=step, samples=step_config.global_batch, goes_on=True)

    return fill
