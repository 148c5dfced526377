"""Chooses what happens beside the updates of a run, and in which order."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ti_flax import hooks
from ti_flax.config import RunConfig
from ti_flax.learning_rate import Schedule
from ti_flax.loop import Hook
from ti_flax.materials import Materials
from ti_flax.messages import say
from ti_flax.pictures import Painter
from ti_flax.progress import Progress
from ti_flax.results import result_so_far
from ti_flax.sharing import ShareCheckpoints
from ti_flax.step import Task, result_rows
from ti_flax.tokens import encode_prompts


def make_hooks(
    config: RunConfig,
    task: Task,
    schedule: Schedule,
    materials: Materials,
    frozen: dict[str, Any],
    output_dir: Path,
    start: int,
) -> tuple[list[Hook], Progress]:
    """What happens beside the updates, in the order in which it happens; the progress bar is also apart."""
    total, samples = config.training.max_train_steps or 0, task.global_batch
    rates = np.asarray(schedule(np.arange(total)))

    def learning_rate(step: int) -> float:
        return float(rates[step])

    writer = tensorboard_writer(config, output_dir)
    made: list[Hook] = [
        hooks.StopWhenNotFinite(learning_rate, output_dir),
        hooks.Metrics(output_dir / "metrics.csv", start=start, samples=samples, learning_rate=learning_rate),
    ]
    if writer is not None:
        made.append(hooks.TensorBoard(writer, learning_rate))
    if config.watching.profile is not None:
        made.append(hooks.Profile(Path(config.watching.profile)))
    result = partial(result_rows, task)
    made += saving_hooks(config, materials, output_dir, result)
    if config.watching.validation_prompt is not None:
        every = config.validation_interval(sum(materials.images.weights))
        draw = previewer(config, task, materials, frozen)
        made.append(hooks.Preview(output_dir, every=every, draw=draw, result=result, writer=writer))
        made.append(
            hooks.Sheet(
                output_dir,
                last_step=total,
                draw=draw,
                prompts=config.watching.validation_prompt,
                start_rows=materials.added.start,
                result=result,
                training=materials.images.shown(
                    max(config.watching.num_validation_images, 5), config.images.resolution
                ),
            )
        )
    if config.hub.push_to_hub and config.hub.hub_strategy != "end":
        made.append(
            ShareCheckpoints(
                config.hub,
                output_dir,
                every=config.output.checkpointing_steps,
                last_step=total,
                fill=result_so_far(config, task, materials, output_dir),
            )
        )
    progress = Progress(start, total, samples=samples, learning_rate=learning_rate)
    return [progress, *made], progress


def saving_hooks(
    config: RunConfig, materials: Materials, output_dir: Path, result: hooks.Result
) -> list[Hook]:
    """learned_embeds and checkpoints, each at its own interval."""
    output, vectors = config.output, len(materials.concept.tokens)
    return [
        hooks.SaveEmbeds(
            output_dir,
            materials.concept.placeholder_token,
            every=output.save_steps,
            result=lambda state: result(state)[:vectors],
        ),
        hooks.SaveCheckpoint(
            output_dir,
            every=output.checkpointing_steps,
            total_limit=output.checkpoints_total_limit,
            config=config.to_dict(),
            fingerprint=materials.fingerprint,
        ),
    ]


def tensorboard_writer(config: RunConfig, output_dir: Path) -> Any:
    """A TensorBoard event writer if it is asked for and tensorboardX is there, else None."""
    if config.watching.report_to != "tensorboard":
        return None
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        say("note: curves are in metrics.csv alone; `pip install tensorboardX` adds TensorBoard's")
        return None
    return SummaryWriter(str(output_dir / config.watching.logging_dir))


def previewer(config: RunConfig, task: Task, materials: Materials, frozen: dict[str, Any]) -> hooks.Draw:
    """What draws the validation prompts with given rows, each with the same fixed seeds."""
    count, side = config.watching.num_validation_images, config.images.resolution
    prompts = config.watching.validation_prompt or ()
    prompt_ids = [encode_prompts(materials.tokenizer, [prompt] * count) for prompt in prompts]
    negative_ids = encode_prompts(materials.tokenizer, [""] * count)
    painter = Painter(materials.model, first_added_id=task.first_added_id)
    one_device = {
        name: jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, frozen[name])
        for name in ("text_encoder", "unet")
    }
    params = {**one_device, "vae": materials.model.params["vae"]}
    first_seed = config.training.seed or 0

    def draw(rows: np.ndarray) -> list[np.ndarray]:
        return [
            painter.paint(
                params,
                rows,
                prompt_ids=ids,
                negative_ids=negative_ids,
                seeds=range(first_seed, first_seed + count),
                size=(side, side),
            )
            for ids in prompt_ids
        ]

    return draw
