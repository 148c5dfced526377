"""The output folder: opened before any work, filled at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import jax
import numpy as np

from ti_flax.checkpoint import NEWEST, checkpoint_steps, find_checkpoint
from ti_flax.config import RunConfig
from ti_flax.errors import OutputError, TiFlaxError, unwritable
from ti_flax.export.model_card import start_in_words
from ti_flax.export.pipeline import save_pipeline
from ti_flax.materials import Materials
from ti_flax.messages import stage, stage_times, warn
from ti_flax.models.model_source import ModelSource
from ti_flax.report.facts import RunFacts
from ti_flax.report.page import PAGE, write_report
from ti_flax.results import write_result
from ti_flax.updating import describe_rate
from ti_flax.versions import versions
from ti_flax.whole_folders import remove_folder, tidy

# What an earlier run left that would be taken for this one's.
_ABOUT_THE_RUN = ("contact_sheet.png", "report.html", "run.json", "signals.csv")


def open_output(config: RunConfig) -> Path:
    """Makes the output folder, and refuses one that holds what this run would overwrite.

    Raises:
      OutputError: the folder cannot be made, or a run is in it already.
      CheckpointError: there is no checkpoint of the name to resume from.
    """
    output_dir = Path(config.output.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / ".writable"
        probe.touch()
        probe.unlink()
        tidy(output_dir)
    except OSError as error:
        raise unwritable(output_dir, error) from error
    finished = (output_dir / "learned_embeds.safetensors").exists()
    steps = checkpoint_steps(output_dir)
    resumed = config.output.resume_from_checkpoint
    if resumed not in (None, *NEWEST):
        find_checkpoint(output_dir, resumed)  # a wrong name is said at once
        return output_dir
    goes_on = resumed is not None and bool(steps)
    if goes_on or config.output.overwrite_output_dir or not (finished or steps):
        return output_dir
    raise OutputError(
        f"output_dir {output_dir}",
        expected="a folder without a run in it",
        found="a finished run" if finished else f"an unfinished run, checkpoint-{steps[-1]}",
        remedy=("Give resume_from_checkpoint auto to go on, " if steps else "Give ")
        + "overwrite_output_dir to start again, or another output_dir.",
    )


def clear_output(config: RunConfig, output_dir: Path) -> None:
    """Removes an earlier run's files, if told to; called when nothing can be wrong any more with the new one.

    Raises:
      OutputError: they cannot be removed.
    """
    if not config.output.overwrite_output_dir:
        return
    try:
        _remove_run(output_dir)
    except OSError as error:
        raise unwritable(output_dir, error) from error


def _remove_run(output_dir: Path) -> None:
    for step in checkpoint_steps(output_dir):
        remove_folder(output_dir / f"checkpoint-{step}")
    for pattern in ("learned_embeds*", "validation/step-*.png", "*_images/*.jpeg", *_ABOUT_THE_RUN):
        for path in output_dir.glob(pattern):
            path.unlink()


def export(
    config: RunConfig,
    materials: Materials,
    rows: np.ndarray,
    output_dir: Path,
    *,
    samples: int,
    steps: int,
    unbroken: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Writes the result: the embedding with its card and pictures, then the pipeline if it is wanted.

    Args:
      config: of the run.
      materials: what it learned from.
      rows: `[added_tokens, width]` float32; the pipeline holds all that its tokenizer names, and
        learned_embeds the concept's own alone.
      output_dir: where to.
      samples: of an update.
      steps: after how many updates the rows were so.
      unbroken: around what no signal is to break: the embedding, which takes a moment to write.

    Raises:
      OutputError: the folder cannot be written.
    """
    with unbroken():
        write_result(config, materials, rows, output_dir, step=steps, samples=samples)
    if not config.output.only_save_embeds:
        with stage("writing the pipeline", done="wrote the pipeline"):
            save_pipeline(
                materials.model.source or ModelSource(Path()),
                output_dir,
                tokenizer=materials.tokenizer,
                rows=rows,
                first_added_id=materials.concept.token_ids[0],
            )


def write_facts(
    config: RunConfig,
    materials: Materials,
    output_dir: Path,
    *,
    steps: int,
    samples: int,
    finished: bool = False,
) -> None:
    """Writes `run.json`, which with the run's other files makes its page.

    Args:
      config: of the run.
      materials: what it learns from.
      output_dir: where to.
      steps: of the run, or made.
      samples: of an update.
      finished: whether the result is written.

    Raises:
      OutputError: the folder cannot be written.
    """
    base, devices = config.model.pretrained_model_name_or_path, jax.devices()
    facts = RunFacts(
        token=materials.concept.placeholder_token,
        kind=config.concept.learnable_property,
        vectors=len(materials.concept.tokens),
        width=materials.added.start.shape[1],
        base=base,
        single_file=Path(base).is_file(),
        start=start_in_words(config.concept),
        images=len(materials.images.names),
        steps=steps,
        batch=samples,
        rate=describe_rate(config),
        devices=f"{len(devices)} x {devices[0].device_kind}",
        config=config.to_dict(),
        versions=versions(),
        times=stage_times(),
        finished=finished,
    )
    try:
        facts.write(output_dir)
    except OSError as error:
        raise unwritable(output_dir, error) from error


def page_of_run(output_dir: Path) -> None:
    """Writes `report.html`; a failure is said and does not lose the run."""
    try:
        write_report(output_dir)
    except (OSError, TiFlaxError) as error:
        warn(f"{output_dir / PAGE} is not written: {error}")
