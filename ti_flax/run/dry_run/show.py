"""A whole dry run: examined, shown, and ended before anything is compiled."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import jax

from ti_flax.config import RunConfig
from ti_flax.config.concept_list import ConceptListError, ListedConcept
from ti_flax.config.conditions import is_given
from ti_flax.config.parse import notes as notes_on_options
from ti_flax.config.run_config import OPTIONS
from ti_flax.console.messages import shown_on
from ti_flax.errors import TiFlaxError, printable
from ti_flax.hosts.devices import Expected, expected_devices, show_cores
from ti_flax.run.dry_run.examination import Kept, check_folder, examined
from ti_flax.run.dry_run.model import ModelHere, model_without_weights
from ti_flax.run.dry_run.report import Concept, Lines, Room, in_short, of_many, of_one, printed
from ti_flax.run.dry_run.sheet import MOST_ROWS, Rows, rows_of, write_sheet
from ti_flax.run.many.queue import check_concepts, done_before, listed_concepts, refuse_named_checkpoint
from ti_flax.run.many.teaching import lengthened_rows
from ti_flax.run.many.turns import BATCHES

_ENDS = "This was a dry run: nothing is trained. The same command without dry_run trains."


def dry_run(config: RunConfig, notes: Sequence[str] | None = None, *, alone: bool = False) -> Path:
    """Prints what a run would do and need; returns the sheet of its images, the one file that it writes.

    Args:
      config: of the run.
      notes: on its options; None: they are worked out here, of options that differ from their defaults.
      alone: whether this process does nothing else, so that no other device than the CPU is started in it.

    Raises:
      TiFlaxError: what the run would find wrong before it compiles.
    """
    expected = expected_devices()
    show_cores()
    if alone:
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        jax.config.update("jax_platforms", "cpu")
    if notes is None:
        values = config.values()
        notes = notes_on_options(config, [name for name in OPTIONS if is_given(OPTIONS[name], values)])
    notes = [*notes, *_not_asked(config)]
    check_folder(config)
    many = config.concept_list.concepts is not None
    lines, sheet = (_many if many else _one)(config, expected, notes)
    print(printable(printed(lines)))
    print(_ENDS)
    return sheet


def _not_asked(config: RunConfig) -> list[str]:
    """What a dry run does not find out."""
    hub, hosts = config.hub, config.hosts
    said = []
    if hub.push_to_hub:
        name = hub.hub_model_id or Path(config.output.output_dir).resolve().name
        said.append(
            f"the Hub is not asked whether {name} can be written: a run asks before it reads anything"
        )
    if hosts.multi_host:
        said.append("this is one host alone: an update of all hosts has as many more samples")
    return said


def _one(config: RunConfig, expected: Expected, notes: Sequence[str]) -> tuple[Lines, Path]:
    here, kept = _model(config, expected)
    run = examined(config, here.model, expected)
    rows = rows_of("images", run.inputs.images, MOST_ROWS)
    sheet = write_sheet(rows, Path(config.output.output_dir))
    return of_one(run, here, expected, sheet, [*notes, *kept.notes]), sheet


def _many(config: RunConfig, expected: Expected, notes: Sequence[str]) -> tuple[Lines, Path]:
    refuse_named_checkpoint(config)
    kept = Kept()
    with shown_on(kept):
        concepts = listed_concepts(config)
        vectors, _ = check_concepts(concepts, done_before(concepts))
    here, more = _model(config, expected)
    found, rows = _examined_all(concepts, here, expected, vectors=vectors)
    sheet = write_sheet(rows, Path(config.output.output_dir))
    return of_many(config, found, here, expected, sheet, [*notes, *kept.notes, *more.notes]), sheet


def _model(config: RunConfig, expected: Expected) -> tuple[ModelHere, Kept]:
    kept = Kept()
    with shown_on(kept):
        return model_without_weights(config, expected.platform), kept


def _examined_all(
    concepts: Sequence[ListedConcept], here: ModelHere, expected: Expected, *, vectors: int
) -> tuple[dict[str, Concept], Rows]:
    """What is to be said of each concept, by name, and rows of images of the first ones.

    Args:
      concepts: of the list.
      here: the model.
      expected: the devices of this machine.
      vectors: the most of a concept.

    Raises:
      ConceptListError: the faults of all of them, a line each.
    """
    found: dict[str, Concept] = {}
    rows: Rows = []
    faults = []
    share = max(1, MOST_ROWS // len(concepts))
    for each in concepts:
        try:
            run = examined(each.config, here.model, expected, batches=BATCHES)
            lengthened_rows(run.inputs.added, vectors)
            found[each.name] = Concept(in_short(run), Room.of(run), run.notes)
            if len(rows) < MOST_ROWS:
                rows += rows_of(each.name, run.inputs.images, share)
        except TiFlaxError as error:
            faults.append(f"concept {each.name} ({each.where}): {error}")
    if faults:
        raise ConceptListError(faults)
    return found, rows
