"""A whole run: from a configuration to learned rows and the files that hold them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ti_flax.config import RunConfig
from ti_flax.config.run_config import OPTIONS
from ti_flax.console.interrupt import Interrupt, listening
from ti_flax.console.messages import detail, say, shown_on, warn
from ti_flax.console.terminal import display_for
from ti_flax.console.versions import versions
from ti_flax.embedding.file_names import file_of_word
from ti_flax.errors import OutputError
from ti_flax.export.convert import other_forms
from ti_flax.export.upload import upload
from ti_flax.hosts import group as hosts
from ti_flax.hosts.devices import show_cores
from ti_flax.monitoring.evaluation import summary, with_best
from ti_flax.monitoring.report.page import PAGE
from ti_flax.monitoring.trackers import chosen_trackers
from ti_flax.run.advice import after_training, before_training
from ti_flax.run.done import is_finished, nothing_to_do, surely_the_same
from ti_flax.run.dry_run.show import dry_run
from ti_flax.run.fit import begin_compiling, fit
from ti_flax.run.inputs import TrainingInputs, read_inputs
from ti_flax.run.many.queue import train_concepts
from ti_flax.run.output_checks import refuse_files_of_words
from ti_flax.run.output_dir import (
    clear_output,
    export,
    opened_output,
    page_of_run,
    with_repository,
    write_facts,
)
from ti_flax.run.resume import Saved, agree_on_seed, saved_checkpoint, start_state
from ti_flax.run.step_config import make_step_config, resolve_num_steps
from ti_flax.training.compiled_programs import keep_compiled_programs, mended_programs
from ti_flax.training.devices import batch_devices, batches_at_once
from ti_flax.training.learning_rate import Schedule
from ti_flax.training.loop import Hook
from ti_flax.training.settings import read_optimizer_arguments
from ti_flax.training.state import StepConfig, TrainState, result_rows

# What a signal means once the last checkpoint is there.
AFTER_THE_UPDATES = (
    "stopped after the last update; --resume_from_checkpoint auto writes what the result still lacks"
)
GOES_ON = "stopped before the first update; nothing is lost, the same command goes on"


# Versions that decide the bits.
_PACKAGES = ("ti_flax", "jax", "jaxlib", "flax", "optax", "transformers", "numpy")
# What has to be the same on all hosts besides the options that change a run's bits.
_ALSO_THE_SAME = (
    "num_train_epochs",
    "mixed_precision",
    "attention",
    "gradient_checkpointing",
    "checkpointing_steps",
)


def train(config: RunConfig, *, hooks: Sequence[Hook] = ()) -> Path:
    """Trains a concept and writes its files; returns the output folder, or the sheet of a dry run.

    Args:
      config: everything the run is told.
      hooks: what else is to happen beside the updates, on the first host, after the run's own hooks.

    Raises:
      TiFlaxError: anything the user can put right.
      Stopped: a signal ended it early.
    """
    if config.output.dry_run:
        return dry_run(config)
    if config.training.deterministic:
        make_deterministic()
    if config.monitoring.quiet:  # before the libraries that draw bars of their own are imported
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    show_cores()
    display = display_for(config.monitoring.level)
    with (
        listening() as interrupt,
        hosts.joined(config.hosts, must_match(config), interrupt),
        hosts.silence_secondary_hosts(),
        shown_on(display),
        mended_programs(),
    ):
        return _train(config, interrupt, hooks)


def must_match(config: RunConfig) -> dict[str, str]:
    """What has to be the same on all hosts of a run, by name."""
    options = {
        name: str(value)
        for name, value in config.to_dict().items()
        if OPTIONS[name].rule.changes_bits or name in _ALSO_THE_SAME
    }
    return options | {name: version for name, version in versions().items() if name in _PACKAGES}


def _train(config: RunConfig, interrupt: Interrupt, hooks: Sequence[Hook]) -> Path:
    began = time.perf_counter()
    if config.output.resume_from_checkpoint is not None:
        interrupt.situation = GOES_ON
    keep_compiled_programs()
    with opened_output(config) as output_dir:
        if hosts.is_first():
            config = with_repository(config)  # before anything is cleared away for the run
        _train_into(output_dir, config, began, interrupt=interrupt, hooks=hooks)
    return output_dir


def _train_into(
    output_dir: Path, config: RunConfig, began: float, *, interrupt: Interrupt, hooks: Sequence[Hook]
) -> None:
    if config.concept_list.concepts is not None:
        train_concepts(config, output_dir, interrupt)
        return
    say(config.describe())
    detail(", ".join(f"{name} {version}" for name, version in versions().items()))
    read_optimizer_arguments(config.optimizer)  # what is wrong with them is said before anything is read
    if hosts.is_first():
        chosen_trackers(config.monitoring.report_to)
    saved = saved_checkpoint(config, output_dir) if hosts.is_first() else None
    if is_done(config, saved, output_dir):
        return
    # Prompts are drawn from the seed, so it is settled before anything is read.
    config = agree_on_seed(config, saved)
    inputs = read_inputs(config)
    hosts.check_same("images, prompts and model", inputs.fingerprint, patience=hosts.PREPARING)
    # Images decide how many steps an epoch has, so only now is the length of the run known.
    counted, config = config, resolve_num_steps(config, sum(inputs.images.weights))
    if config is not counted and is_done(config, saved, output_dir):
        return
    step_config, schedule = step_of(config, inputs)
    for line in before_training(config, inputs, schedule) if hosts.is_first() else ():
        say(f"note: {line}")
    if hosts.is_first():
        refuse_files_of_words(output_dir, inputs.concept.vectors, sdxl=inputs.model.is_sdxl)
    state = start_state(config, step_config, inputs, saved)
    total = config.training.total_steps
    if saved is not None and int(state.step) > total:
        say(nothing_to_do(config, saved.checkpoint.step, saved.folder, output_dir) or "")
    if int(state.step) > total:
        return
    learns, compiling = int(state.step) < total, None
    if learns:
        compiling = begin_compiling(config, step_config, inputs, state)
        inputs = inputs.encoded()
    if hosts.is_first():
        with interrupt.unbroken():
            if saved is None:
                clear_output(config, output_dir)
            write_facts(config, inputs, output_dir, steps=total, samples=step_config.global_batch)
    if learns:
        state = fit(
            config,
            step_config,
            schedule,
            inputs,
            state,
            output_dir,
            compiling=compiling,
            interrupt=interrupt,
            hooks=hooks,
        )
    if hosts.is_first():
        finish(config, step_config, inputs, state, output_dir, began, interrupt=interrupt)


def step_of(config: RunConfig, inputs: TrainingInputs) -> tuple[StepConfig, Schedule]:
    """The step's fixed parts on the devices of all hosts, and the learning rate of every update."""
    return make_step_config(
        config,
        inputs.model,
        inputs.concept.token_ids[0],
        added=inputs.added,
        special=inputs.tokenizers.special,
        devices=len(batch_devices(config.training.train_batch_size)),
        batches=batches_at_once(),
    )


def is_done(config: RunConfig, saved: Saved | None, output_dir: Path) -> bool:
    """Whether a resumed run has nothing left to do, which is then said; an upload is made up for."""
    told = None
    if saved is not None and surely_the_same(config, saved.checkpoint.config):
        told = nothing_to_do(config, saved.checkpoint.step, saved.folder, output_dir)
    if not hosts.from_first("whether there is anything to do", told is not None):
        return False
    if told is not None:
        say(told)
        if config.hub.push_to_hub and is_finished(config, output_dir):
            upload(config.hub, output_dir)
    return True


def finish(
    config: RunConfig,
    step_config: StepConfig,
    inputs: TrainingInputs,
    final: TrainState,
    output_dir: Path,
    began: float,
    *,
    interrupt: Interrupt,
) -> None:
    """Writes the result, says where it is and what the evaluations say, and uploads it if asked to."""
    rows, step = result_rows(step_config, final), int(final.step)
    if config.takes_best:
        rows, step = with_best(rows, output_dir, inputs.concept.vectors)
        say(f"the result is that of step {step}, the best of all evaluations")
    interrupt.situation = AFTER_THE_UPDATES
    export(
        config,
        inputs,
        rows,
        output_dir,
        samples=step_config.global_batch,
        steps=step,
        unbroken=interrupt.unbroken,
    )
    for line in summary(output_dir) if config.monitoring.eval_steps != 0 else ():
        say(line)
    for advice in after_training(config, inputs, rows):
        warn(advice)
    try:
        write_facts(config, inputs, output_dir, steps=step, samples=step_config.global_batch, finished=True)
    except OutputError as error:  # the result is written
        warn(str(error))
    page_of_run(output_dir)
    say(f"done in {time.perf_counter() - began:.0f} s: {output_dir}/learned_embeds.safetensors")
    words = [*inputs.concept.vectors]
    if words[1:]:
        say(f"each word by itself, as diffusers reads it: {', '.join(map(file_of_word, words))}")
    for line in other_forms(output_dir, words, sdxl=inputs.model.is_sdxl):
        say(line)
    say(f"all about it: {output_dir}/{PAGE}")
    if config.hub.push_to_hub:
        upload(config.hub, output_dir)


def make_deterministic() -> None:
    """Asks XLA for GPU kernels that give the same bits every time, before it looks for devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_deterministic_ops" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
