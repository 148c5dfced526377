"""Chooses what happens beside the updates of a run, and in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.config import RunConfig
from ti_flax.config.options import DIRECTIONAL, MonitoringOptions
from ti_flax.console.messages import Stage, say
from ti_flax.embedding.rows import rows_of_words
from ti_flax.embedding.vocabulary import Vocabulary, known_vocabularies
from ti_flax.export.upload import ShareCheckpoints
from ti_flax.generation.drawing import Drawing, DrawnPrompts
from ti_flax.generation.generator import ImageGenerator, PromptTokens
from ti_flax.hosts.compilation import Compilation
from ti_flax.models.prompts.encode import PromptRules, encode_each, same_length
from ti_flax.models.tokenizer import encode_prompts
from ti_flax.monitoring import hooks
from ti_flax.monitoring.asked_samples import AskedSamples, DrawAsked
from ti_flax.monitoring.evaluation import PATIENCE, Evaluate, Patience
from ti_flax.monitoring.previews import Preview
from ti_flax.monitoring.progress import Progress
from ti_flax.monitoring.prompt_sensitivity import PROMPTS as SENSITIVITY_PROMPTS
from ti_flax.monitoring.prompt_sensitivity import PromptSensitivity
from ti_flax.monitoring.sample_request import SampleRequest
from ti_flax.monitoring.trackers import RunInfo, Tracker, chosen_trackers, open_trackers
from ti_flax.monitoring.validation import (
    Validation,
    eval_set,
    evaluation_interval,
    examples_looked_at,
    samples_for,
)
from ti_flax.run.inputs import TrainingInputs, images_beside_previews, token_tables
from ti_flax.run.preview_prompts import first_seed, prompt_rules
from ti_flax.run.result import result_so_far
from ti_flax.training.checkpoint import evaluated_before
from ti_flax.training.devices import local_copies, replicate
from ti_flax.training.learning_rate import Schedule, rate_of_step
from ti_flax.training.loop import Hook
from ti_flax.training.state import StepConfig, Taught, result_rows


@dataclass(frozen=True)
class Common:
    """What the concepts of a run have in common beside the updates; the first that needs it makes it.

    Attributes:
      programs: compiled or begun, by what they are for and the shapes of their arguments.
      made: other things, by name.
    """

    programs: dict[Any, Compilation] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The thing of a name; the first call makes it."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]


@dataclass(frozen=True)
class Beside:
    """What the hooks of a run need of it.

    Attributes:
      config: of the run.
      step_config: the step's fixed parts.
      inputs: what it learns from.
      frozen: replicated arrays: the parts of the model but the VAE.
      taught: of the concept, on the host.
      devices: of this process, on which they lie.
      output_dir: where files go.
      after: the program of the update, which is needed before those of the hooks.
      common: what is there already.
    """

    config: RunConfig
    step_config: StepConfig
    inputs: TrainingInputs
    frozen: dict[str, Any]
    taught: Taught
    devices: Sequence[Any]
    output_dir: Path
    after: Compilation
    common: Common = field(default_factory=Common)


def make_hooks(run: Beside, schedule: Schedule, start: int, progress: Hook | None = None) -> list[Hook]:
    """What happens beside the updates, in the order in which it happens.

    Args:
      run: what they need.
      schedule: learning rate of every update.
      start: updates that were made before.
      progress: shows how far they are; None: one of its own.
    """
    config, step_config, inputs, output_dir = run.config, run.step_config, run.inputs, run.output_dir
    total, samples = config.training.total_steps, step_config.global_batch
    learning_rate = rate_of_step(schedule, total)
    trackers = find_trackers(config, output_dir, start)
    metrics = hooks.Metrics(
        output_dir / "metrics.csv",
        start=start,
        samples=samples,
        learning_rate=learning_rate,
        log_every=config.monitoring.log_every,
        trackers=trackers,
    )
    made = [number_check(config, learning_rate, output_dir), hooks.NonFatalHook("metrics.csv", metrics)]
    if config.monitoring.profile is not None:
        made.append(hooks.NonFatalHook("the trace", hooks.Profile(Path(config.monitoring.profile))))
    result = partial(result_rows, step_config)
    evaluate = evaluations(run, trackers, learning_rate) if config.monitoring.eval_steps != 0 else None
    if evaluate is not None:
        made.append(hooks.NonFatalHook("the evaluation", evaluate))
    made += saving_hooks(config, inputs, output_dir, result, evaluate)
    asked = AskedSamples(output_dir)
    if inputs.previews.each:
        every = config.validation_interval(sum(inputs.images.weights))
        draw = previewer(run)
        preview = Preview(
            output_dir,
            every=every,
            draw=draw,
            prompts=inputs.previews.texts,
            images=config.monitoring.num_validation_images,
            training=inputs.images.shown(images_beside_previews(config), inputs.previews.size),
            start_rows=inputs.added.start,
            result=result,
            trackers=trackers,
            ready=draw.ready,
        )
        made.append(hooks.NonFatalHook("the preview", preview))
        asked = AskedSamples(output_dir, draw=asked_prompts(run, draw), ready=draw.ready, result=result)
    made.append(hooks.NonFatalHook("the sample asked for", asked))
    if config.hub.push_to_hub and config.hub.hub_strategy != "end":
        share = ShareCheckpoints(
            config.hub,
            output_dir,
            every=config.output.checkpointing_steps,
            last_step=total,
            fill=result_so_far(config, step_config, inputs, output_dir),
        )
        made.append(hooks.NonFatalHook("the upload", share))
    if progress is None:
        progress = Progress(start, total, samples=samples, learning_rate=learning_rate)
    return [progress, *made]


def number_check(config: RunConfig, learning_rate: Callable[[int], float], output_dir: Path) -> Hook:
    """What happens to updates that are not finite."""
    if config.training.on_nonfinite == "stop":
        return hooks.StopWhenNotFinite(learning_rate, output_dir)
    limit = config.training.max_nonfinite_steps or hooks.MOST_SKIPPED_IN_A_ROW
    return hooks.SkipNotFinite(learning_rate, output_dir, limit=limit)


def saving_hooks(
    config: RunConfig,
    inputs: TrainingInputs,
    output_dir: Path,
    result: hooks.Result,
    evaluate: Evaluate | None,
) -> list[Hook]:
    """learned_embeds and checkpoints, each at its own interval."""
    output, vectors = config.output, inputs.concept.vectors
    return [
        hooks.SaveEmbeds(
            output_dir,
            every=output.save_steps,
            result=lambda state: rows_of_words(result(state), vectors),
        ),
        hooks.SaveCheckpoint(
            output_dir,
            every=output.checkpointing_steps,
            total_limit=output.checkpoints_total_limit,
            config=config.to_dict(),
            fingerprint=inputs.fingerprint,
            evaluated=lambda: None if evaluate is None else evaluate.evaluated,
        ),
    ]


def find_trackers(config: RunConfig, output_dir: Path, start: int) -> list[Tracker]:
    """The trackers that are asked for, opened, after so many updates of an earlier run."""
    names = chosen_trackers(config.monitoring.report_to)
    if "tensorboard" in config.monitoring.report_to and "tensorboard" not in names:
        say("note: curves are in metrics.csv alone; `pip install tensorboardX` adds TensorBoard's")
    folder = output_dir / config.monitoring.logging_dir
    at_first = (config.monitoring.eval_steps != 0, config.monitoring.draws_previews)
    awaited = 0 if start else sum(at_first)
    return open_trackers(names, RunInfo(output_dir.resolve().name, folder, config.to_dict()), awaited=awaited)


def evaluations(run: Beside, trackers: Sequence[Tracker], learning_rate: Callable[[int], float]) -> Evaluate:
    """The hook that evaluates the rows; begins to compile what it needs, and says how often and on what."""
    config, step_config, inputs = run.config, run.step_config, run.inputs
    monitoring, total = config.monitoring, config.training.total_steps
    batch_size = config.training.train_batch_size
    sharing = batch_size // step_config.batch_size  # cores of a CPU
    update_samples = batch_size * step_config.accumulation
    chosen = eval_set(
        inputs.examples.buckets,
        step_config.draw_rules.timesteps,
        flip_p=step_config.flip_p,
        samples=monitoring.max_eval_samples
        or samples_for(0 if config.training.until_done else total, update_samples),
        batch_size=step_config.batch_size,
        devices=len(run.devices),
    )
    sensitivity = sensitivity_of(run)
    every = monitoring.eval_steps or evaluation_interval(
        total=None if config.training.until_done else total,
        passes=(chosen.passes + sensitivity.passes) * sharing,
        update_samples=update_samples,
    )
    say(f"validation loss of {len(chosen.weights)} samples, every {every} steps")
    examples, chosen = examples_looked_at(inputs.examples, chosen, run.devices)
    validation = Validation(
        step_config,
        run.frozen,
        examples,
        run.taught,
        chosen,
        devices=run.devices,
        after=run.after,
        programs=run.common.programs,
    )
    return Evaluate(
        run.output_dir,
        inputs.concept.vectors,
        every=every,
        last_step=total,
        loss=validation,
        sensitivity=sensitivity,
        ready=lambda: validation.ready() and sensitivity.ready(),
        result=partial(result_rows, step_config),
        start_rows=inputs.added.start,
        vocabularies=run.common.once("vocabularies", lambda: known_words(inputs)),
        patience=patience_of(monitoring),
        until_done=config.training.until_done,
        path=turned_between(config, learning_rate),
        evaluated_before=partial(evaluated_before, run.output_dir),
        trackers=trackers,
    )


def turned_between(
    config: RunConfig, learning_rate: Callable[[int], float]
) -> Callable[[int, int], float] | None:
    """From two numbers of steps to the angle by which each vector turns between them, in radians.

    None where that is not fixed: with another optimizer, or where updates may leave out a word of several.

    Args:
      config: of the run.
      learning_rate: of an update, by its index from 0.
    """
    if config.optimizer.optimizer != DIRECTIONAL or len(config.concept.words) > 1:
        return None
    return lambda start, end: math.fsum(map(learning_rate, range(start, end)))


def sensitivity_of(run: Beside) -> PromptSensitivity:
    """What measures whether each word lets the rest of a prompt be heard; begins to compile it."""
    config, inputs = run.config, run.inputs
    kind = config.concept.learnable_property
    prompts = config.monitoring.sensitivity_prompts or SENSITIVITY_PROMPTS[kind]
    of_words = [[prompt.replace("{}", word.text) for prompt in prompts] for word in inputs.concept.words]
    return PromptSensitivity(
        run.step_config,
        run.frozen,
        np.stack(
            [encode_prompts(inputs.tokenizer, texts, chunks=config.prompts.chunks) for texts in of_words]
        ),
        side=config.images.resolution,
        devices=run.devices,
        after=run.after,
        programs=run.common.programs,
    )


def patience_of(options: MonitoringOptions) -> Patience | None:
    """When a run that no longer improves is stopped; None: never."""
    if not options.early_stopping:
        return None
    return Patience(options.early_stopping_patience or PATIENCE, options.early_stopping_threshold or 0.0)


def known_words(inputs: TrainingInputs) -> dict[str, Vocabulary]:
    """The words of the tokenizer before anything was added to it, and their vectors, by text encoder."""
    known = inputs.concept.token_ids[0]
    return known_vocabularies(inputs.tokenizer, token_tables(inputs.model), known)


def asked_prompts(run: Beside, draw: Drawing) -> DrawAsked:
    """What draws prompts that somebody asks for during the run; `{}` in them stands for the word."""

    def drawn(request: SampleRequest, rows: Mapping[str, np.ndarray], shown: Stage) -> np.ndarray:
        config, tokenizer = run.config, run.inputs.tokenizer
        texts = [config.with_words(each) for each in request.prompts]
        negatives = [config.validation_negative_prompt] * len(texts)

        def encoded(texts: Sequence[str], tokens: int) -> PromptTokens:
            # Its program takes no longer ones than those of the previews are.
            chunks = tokens // tokenizer.model_max_length
            rules = PromptRules(chunks, config.monitoring.prompt_weights)
            return PromptTokens(*same_length(tokenizer, encode_each(tokenizer, texts, rules), tokens))

        positive, negative = map(encoded, (texts, negatives), draw.tokens)
        seeds = [first_seed(config)] * len(texts)
        return draw.draw(DrawnPrompts(positive, negative, seeds), request.images, rows, shown)

    return drawn


def previewer(run: Beside) -> Drawing:
    """What draws the prompts of the previews with given rows, each with the same fixed seeds."""
    previews, config = run.inputs.previews, run.step_config
    options = previews.options
    steps, sampler, count = (
        options.validation_num_inference_steps,
        options.validation_sampler,
        options.num_validation_images,
    )
    devices, model = run.devices[:count], run.inputs.model
    params = local_copies(run.frozen, devices)
    vae = run.common.once("vae", lambda: replicate(model.params["vae"], devices))
    making = partial(
        ImageGenerator,
        model,
        first_added_id=config.first_added_id,
        steps=steps,
        sampler=sampler,
        special=config.special,
        devices=devices,
        copies=True,
    )
    return Drawing(
        run.common.once(f"what draws in {steps} steps of {sampler}", making),
        {**params, "vae": vae},
        prompts=drawn_prompts(run.config, run.inputs),
        images=count,
        size=previews.size,
        guidance_scale=options.validation_guidance_scale,
        devices=devices,
        added=run.inputs.added.start,
        after=run.after,
        programs=run.common.programs,
    )


def drawn_prompts(config: RunConfig, inputs: TrainingInputs) -> DrawnPrompts:
    """The prompts of the previews, all with as many chunks as the longest needs, and so their negatives."""
    each, tokenizer, rules = inputs.previews.each, inputs.tokenizer, prompt_rules(config)
    positive, negative = (
        PromptTokens(*same_length(tokenizer, encode_each(tokenizer, texts, rules)))
        for texts in ([prompt.text for prompt in each], [prompt.negative for prompt in each])
    )
    return DrawnPrompts(positive, negative, [prompt.seed for prompt in each])
