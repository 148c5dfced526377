"""A whole run: from a configuration to learned rows and the files that hold them."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ti_flax.config import RunConfig
from ti_flax.config.run_config import OPTIONS
from ti_flax.config.values import LARGEST_INT
from ti_flax.console.interrupt import Interrupt, listening
from ti_flax.console.messages import detail, say, shown_on, stage, warn
from ti_flax.console.terminal import display_for
from ti_flax.console.versions import versions
from ti_flax.embedding.rows import AddedRows
from ti_flax.errors import ConfigError, OutputError
from ti_flax.export.upload import settle_repository, upload
from ti_flax.hosts import group as hosts
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.stable_diffusion import FlaxStableDiffusion
from ti_flax.monitoring.evaluation import summary, with_best
from ti_flax.monitoring.host_agreement import AgreeOnState, check_state
from ti_flax.monitoring.report.page import PAGE
from ti_flax.monitoring.trackers import chosen_trackers
from ti_flax.run.done import is_finished, nothing_to_do, surely_the_same
from ti_flax.run.hooks import make_hooks
from ti_flax.run.inputs import TrainingInputs, load_inputs
from ti_flax.run.output_dir import clear_output, export, opened_output, page_of_run, write_facts
from ti_flax.run.resume import Saved, agree_on_seed, saved_checkpoint, start_state
from ti_flax.training import optimizer as optim
from ti_flax.training.compiled_programs import keep_compiled_programs, mended_programs
from ti_flax.training.devices import pmapped, replicate
from ti_flax.training.learning_rate import Schedule
from ti_flax.training.loop import Hook, begin, run_steps
from ti_flax.training.noise import NoiseRules
from ti_flax.training.objective import Objective
from ti_flax.training.settings import (
    make_schedule,
    read_optimizer_arguments,
    row_rules,
    update_samples,
)
from ti_flax.training.step import KEY_IMPLEMENTATION, StepConfig, TrainState, make_chunk, result_rows
from ti_flax.training.timesteps import TimestepRules

# The most updates one call of the device program makes, and so the length of its measures.
CHUNK_CAPACITY = 500
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
    """Trains a concept and writes its files; returns the output folder.

    Args:
      config: everything the run is told.
      hooks: what else is to happen beside the updates, on the first host, after the run's own hooks.

    Raises:
      TiFlaxError: anything the user can put right.
      Stopped: a signal ended it early.
    """
    if config.training.deterministic:
        make_deterministic()
    if config.monitoring.quiet:  # before the libraries that draw bars of their own are imported
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
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
    materials = load_inputs(config)
    hosts.check_same("images, prompts and model", materials.fingerprint, patience=hosts.PREPARING)
    # Images decide how many steps an epoch has, so only now is the length of the run known.
    counted, config = config, resolve_num_steps(config, sum(materials.images.weights))
    if config is not counted and is_done(config, saved, output_dir):
        return
    task, schedule = make_step_config(
        config,
        materials.model,
        materials.concept.token_ids[0],
        added=materials.added,
        devices=jax.device_count(),
    )
    state = start_state(config, task, materials, saved)
    total = config.training.max_train_steps or 0
    if saved is not None and int(state.step) > total:
        say(nothing_to_do(config, saved.checkpoint.step, saved.folder, output_dir) or "")
    if int(state.step) > total:
        return
    if hosts.is_first():
        with interrupt.unbroken():
            if saved is None:
                clear_output(config, output_dir)
            write_facts(config, materials, output_dir, steps=total, samples=task.global_batch)
    if int(state.step) < total:
        state = fit(config, task, schedule, materials, state, output_dir, interrupt=interrupt, hooks=hooks)
    if hosts.is_first():
        finish(config, task, materials, state, output_dir, began, interrupt=interrupt)


def with_repository(config: RunConfig) -> RunConfig:
    """Fills in the full name of the repository that the result goes to, once the Hub has made it.

    Raises:
      OutputError: the Hub refuses.
    """
    if not config.hub.push_to_hub:
        return config
    made = settle_repository(config.hub, Path(config.output.output_dir))
    return config if made is None else config.replace(hub_model_id=made)


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
    task: StepConfig,
    materials: TrainingInputs,
    final: TrainState,
    output_dir: Path,
    began: float,
    *,
    interrupt: Interrupt,
) -> None:
    """Writes the result, says where it is and what the evaluations say, and uploads it if asked to."""
    rows, step = result_rows(task, final), int(final.step)
    if config.monitoring.load_best_model_at_end:
        rows, step = with_best(rows, output_dir)
        say(f"the result is that of step {step}, which has the smallest validation loss")
    interrupt.situation = AFTER_THE_UPDATES
    export(
        config,
        materials,
        rows,
        output_dir,
        samples=task.global_batch,
        steps=step,
        unbroken=interrupt.unbroken,
    )
    for line in summary(output_dir) if config.monitoring.eval_steps != 0 else ():
        say(line)
    try:
        write_facts(config, materials, output_dir, steps=step, samples=task.global_batch, finished=True)
    except OutputError as error:  # the result is written
        warn(str(error))
    page_of_run(output_dir)
    say(f"done in {time.perf_counter() - began:.0f} s: {output_dir}/learned_embeds.safetensors")
    say(f"all about it: {output_dir}/{PAGE}")
    if config.hub.push_to_hub:
        upload(config.hub, output_dir)


def make_deterministic() -> None:
    """Asks XLA for GPU kernels that give the same bits every time, before it looks for devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_deterministic_ops" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def resolve_num_steps(config: RunConfig, epoch_samples: int) -> RunConfig:
    """Fills in the number of steps where the configuration counts epochs of so many shown images.

    Raises:
      ConfigError: they are more than a step counter holds.
    """
    if config.training.max_train_steps is not None:
        return config
    epochs = config.training.num_train_epochs
    steps = math.ceil(epoch_samples / update_samples(config.training)) * epochs
    if steps > LARGEST_INT:
        raise ConfigError(
            "num_train_epochs",
            expected=f"at most {LARGEST_INT} steps in all",
            found=f"{steps}, in {epochs} epochs of {epoch_samples} shown images",
            remedy="Lower num_train_epochs or repeats, or set max_train_steps.",
        )
    return config.replace(max_train_steps=steps)


def make_step_config(
    config: RunConfig, model: FlaxStableDiffusion, first_added_id: int, *, added: AddedRows, devices: int
) -> tuple[StepConfig, Schedule]:
    """Builds the step's fixed parts, for so many devices, and the learning-rate schedule."""
    training, options = config.training, config.optimizer
    schedule = make_schedule(config.optimizer, config.training, devices)
    optimizer = optim.make_optimizer(
        options.optimizer,
        schedule,
        arguments=read_optimizer_arguments(options),
        max_grad_norm=options.max_grad_norm,
        clip_value=options.grad_clip_value,
    )
    unet = model.unet.clone(gradient_checkpointing=training.gradient_checkpointing)
    noise_schedule = NoiseSchedule.from_config(model.configs["scheduler"])
    task = StepConfig(
        model=dataclasses.replace(model, unet=unet),
        schedule=noise_schedule,
        optimizer=optim.mask_rows(optimizer, added.trainable),
        trainable=added.trainable,
        first_added_id=first_added_id,
        batch_size=training.train_batch_size,
        accumulation=training.gradient_accumulation_steps,
        device_count=devices,
        flip_p=config.images.flip_p,
        objective=Objective.from_options(config.loss, noise_schedule),
        noise=NoiseRules.from_options(config.loss),
        timesteps=TimestepRules.from_options(config.loss, noise_schedule.num_train_timesteps),
        rules=row_rules(config.optimizer, added),
        skip_nonfinite=training.on_nonfinite == "skip",
    )
    return task, schedule


def fit(
    config: RunConfig,
    task: StepConfig,
    schedule: Schedule,
    materials: TrainingInputs,
    state: TrainState,
    output_dir: Path,
    *,
    interrupt: Interrupt,
    hooks: Sequence[Hook] = (),
) -> TrainState:
    """Puts everything on the devices, compiles, and runs the updates; returns the last state."""
    devices = jax.devices()
    total = config.training.max_train_steps or 0
    start = int(state.step)
    frozen = replicate(
        {
            "text_encoder": task.model.params["text_encoder"],
            "unet": task.model.params["unet"],
            "examples": materials.examples,
        },
        devices,
    )
    key = jax.random.key_data(jax.random.key(config.training.seed or 0, impl=KEY_IMPLEMENTATION))
    arguments = (frozen, replicate(np.asarray(key), devices))
    capacity = min(CHUNK_CAPACITY, total)
    placed = replicate(state, devices)
    with stage(f"compiling for {len(devices)} x {devices[0].device_kind}", done="compiled"):
        program = pmapped(make_chunk(task, capacity), devices)
        program = program.lower(placed, *arguments, replicate(np.int32(1), devices)).compile()
    monitoring: list[Hook] = [AgreeOnState(every=config.output.checkpointing_steps, last_step=total)]
    if hosts.is_first():
        monitoring += [*make_hooks(config, task, schedule, materials, frozen, output_dir, start), *hooks]
    else:
        task.model.params.clear()  # the devices have what is needed
    finished = False
    try:
        begin(placed, monitoring)
        with interrupt.updates():
            last = run_steps(
                program,
                placed,
                arguments,
                total_steps=total,
                capacity=capacity,
                devices=devices,
                hooks=monitoring,
                steps_per_call=config.training.steps_per_call,
                asked=lambda: interrupt.asked,
                agree=hosts.agree_on_steps,
            )
        finished = int(last.step) == total
        if not finished:
            check_state(int(last.step), last)
        return last
    finally:
        for hook in monitoring:
            hook.close(finished)
