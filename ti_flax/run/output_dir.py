"""The output folder: opened before any work, filled at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import jax
import numpy as np

from ti_flax.config import RunConfig
from ti_flax.console.messages import stage, stage_times, warn
from ti_flax.console.versions import versions
from ti_flax.embedding.contents import FIRST, SECOND
from ti_flax.errors import TiFlaxError, unwritable
from ti_flax.export.model_card import start_in_words, word_start
from ti_flax.export.pipeline import save_pipeline
from ti_flax.export.upload import settle_repository
from ti_flax.files.atomic_folders import remove_folder, tidy
from ti_flax.files.written_files import LIST, delete_written, only_run
from ti_flax.hosts import group as hosts
from ti_flax.models.weights.model_source import ModelSource
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.report.page import PAGE, write_report
from ti_flax.run.inputs import TrainingInputs
from ti_flax.run.output_checks import refuse_output
from ti_flax.run.result import write_result
from ti_flax.training.checkpoint import checkpoint_steps
from ti_flax.training.settings import describe_rate


@contextlib.contextmanager
def opened_output(config: RunConfig) -> Iterator[Path]:
    """Makes the output folder for the first host, and keeps other runs out of it; others do nothing.

    Raises:
      OutputError: the folder cannot be made, another run is at work in it, or there are files in it that this
        run would replace.
      CheckpointError: there is no checkpoint of the name to resume from.
    """
    output_dir = Path(config.output.output_dir)
    if not hosts.is_first():
        yield output_dir
        return
    _check(config, output_dir)
    with contextlib.ExitStack() as held:
        held.callback(_remove_unused, output_dir, was_there=output_dir.exists())
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            if note := held.enter_context(only_run(output_dir)):
                warn(note)
            tidy(output_dir)
        except OSError as error:
            raise unwritable(output_dir, error) from error
        _check(config, output_dir)  # a run may just have ended there
        yield output_dir


def _check(config: RunConfig, output_dir: Path) -> None:
    try:
        refuse_output(config, output_dir)
    except OSError as error:
        raise unwritable(output_dir, error) from error


def _remove_unused(output_dir: Path, *, was_there: bool) -> None:
    """Removes a list without files, as of a run that was refused, and the folder that was made for it."""
    with contextlib.suppress(OSError):
        if [path.name for path in output_dir.iterdir()] == [LIST]:
            (output_dir / LIST).unlink()
            if not was_there:
                output_dir.rmdir()


def with_repository(config: RunConfig) -> RunConfig:
    """Fills in the full name of the repository that the result goes to, once the Hub has made it.

    Raises:
      OutputError: the Hub refuses.
    """
    if not config.hub.push_to_hub:
        return config
    made = settle_repository(config.hub, Path(config.output.output_dir))
    return config if made is None else config.replace(hub_model_id=made)


def clear_output(config: RunConfig, output_dir: Path) -> None:
    """Removes an earlier run's files for one that starts anew, when nothing can be wrong with it any more.

    Checkpoints go only if overwrite_output_dir says so; without them, the earlier run was stopped early.

    Raises:
      OutputError: they cannot be removed.
    """
    try:
        for step in checkpoint_steps(output_dir) if config.output.overwrite_output_dir else ():
            remove_folder(output_dir / f"checkpoint-{step}")
        delete_written(output_dir)
    except OSError as error:
        raise unwritable(output_dir, error) from error


def export(
    config: RunConfig,
    inputs: TrainingInputs,
    rows: Mapping[str, np.ndarray],
    output_dir: Path,
    *,
    samples: int,
    steps: int,
    batches: int | None = None,
    unbroken: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Writes the result: the embedding with its card and images, then the pipeline if it is wanted.

    Args:
      config: of the run.
      inputs: what it learned from.
      rows: `[added_tokens, width]` float32 by text encoder; the pipeline holds all that its tokenizer names,
        and learned_embeds the concept's own alone.
      output_dir: where to.
      samples: of an update.
      steps: after how many updates the rows were so.
      batches: that are computed at once; None: as many as here.
      unbroken: around what no signal is to break: the embedding, which takes a moment to write.

    Raises:
      OutputError: the folder cannot be written.
    """
    with unbroken():
        write_result(config, inputs, rows, output_dir, step=steps, samples=samples, batches=batches)
    if not config.output.only_save_embeds:
        with stage("writing the pipeline", done="wrote the pipeline"):
            save_pipeline(
                inputs.model.source or ModelSource(Path()),
                output_dir,
                tokenizers=inputs.tokenizers,
                rows=rows,
                first_added_id=inputs.concept.token_ids[0],
            )


def write_facts(
    config: RunConfig,
    inputs: TrainingInputs,
    output_dir: Path,
    *,
    steps: int,
    samples: int,
    batches: int | None = None,
    finished: bool = False,
) -> None:
    """Writes `run.json`, which with the run's other files makes its page.

    Args:
      config: of the run.
      inputs: what it learns from.
      output_dir: where to.
      steps: of the run, or made.
      samples: of an update.
      batches: that are computed at once; None: as many as here.
      finished: whether the result is written.

    Raises:
      OutputError: the folder cannot be written.
    """
    base, devices = config.model.pretrained_model_name_or_path, jax.devices()
    words = inputs.concept.vectors if len(inputs.concept.words) > 1 else {}
    starts = zip(words, map(word_start, config.concept.each), strict=False)
    previews, from_file = inputs.previews, config.monitoring.validation_prompt_file is not None
    height, width = previews.size
    facts = RunFacts(
        token=inputs.concept.name,
        kind=config.concept.learnable_property,
        vectors=len(inputs.concept.tokens),
        width=inputs.added.widths[FIRST],
        second_width=inputs.added.widths.get(SECOND, 0),
        base=base,
        single_file=Path(base).is_file(),
        start=start_in_words(config.concept),
        images=len(inputs.images.names),
        steps=steps,
        batch=samples,
        rate=describe_rate(config.optimizer, config.training, batches),
        devices=f"{len(devices)} x {devices[0].device_kind}",
        config=config.to_dict(),
        versions=versions(),
        times=stage_times(),
        finished=finished,
        words=words,
        starts=dict(starts),
        previews=list(previews.texts) if from_file else [],
        preview_size=f"{width}x{height}" if from_file else "",
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
