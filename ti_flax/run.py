"""A whole run: from a configuration to learned rows and the files that hold them."""

from __future__ import annotations

import dataclasses
import math
import secrets
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ti_flax import checkpoint as checkpoints
from ti_flax import hooks, optim
from ti_flax.config import RunConfig
from ti_flax.diffusion import NoiseSchedule
from ti_flax.embedding import check_table, initial_rows
from ti_flax.errors import OutputError, TiFlaxError
from ti_flax.export.hub import push_to_hub
from ti_flax.export.learned_embeds import save_learned_embeds
from ti_flax.export.model_card import write_model_card
from ti_flax.export.pipeline import CARRIED, save_pipeline
from ti_flax.images import TrainingImages, load_images
from ti_flax.latents import encode_posteriors
from ti_flax.loop import Hook, run_steps
from ti_flax.models.stable_diffusion import FlaxStableDiffusion, load_stable_diffusion
from ti_flax.models.weights import resolve_model
from ti_flax.pictures import Painter, picture_grid
from ti_flax.prompts import training_prompts
from ti_flax.step import KEY_IMPLEMENTATION, Task, TrainState, init_state, make_chunk, replicate, spread
from ti_flax.tokens import Concept, add_concept, encode_prompts, load_tokenizer

# The most updates one call of the device program makes, and so the length of its measures.
CHUNK_CAPACITY = 500
MODEL_PARTS = ("tokenizer", "scheduler", "text_encoder", "unet", "vae")


def say(line: str) -> None:
    """Prints one line of a run's report to stderr."""
    print(line, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Materials:
    """What a run learns from, read and encoded.

    Attributes:
      concept: the new word.
      tokenizer: with the concept's tokens.
      images: pixels and names.
      model: modules and parameters; those of the VAE only if previews need them.
      posteriors: `[images, 2, height, width, 2 * channels]` float32.
      token_ids: `[templates, tokens]` int32.
    """

    concept: Concept
    tokenizer: Any
    images: TrainingImages
    model: FlaxStableDiffusion
    posteriors: np.ndarray
    token_ids: np.ndarray

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the rows belong to; a checkpoint of anything else cannot be resumed."""
        parts = {name: self.model.params[name] for name in ("text_encoder", "unet")}
        return {
            "concept": f"{self.concept.text} from {self.concept.initializer_token}",
            "model": checkpoints.tree_digest(parts),
            "images": checkpoints.tree_digest(self.posteriors),
            "prompts": checkpoints.tree_digest(self.token_ids),
        }


def train(config: RunConfig) -> Path:
    """Trains a concept and writes its files; returns the output folder.

    Raises:
      TiFlaxError: anything the user can put right.
    """
    began = time.perf_counter()
    output_dir = open_output(config)
    say(config.describe())
    materials = gather(config)
    # Pictures decide how many steps an epoch has, so only now is the length of the run known.
    config = settle(config, len(materials.images.names))
    task, schedule = make_task(config, materials)
    state = start_state(config, task, materials, output_dir)
    config = state.config
    final = fit(config, task, schedule, materials, state.state, output_dir)
    export(config, task, materials, np.asarray(final.rows), output_dir)
    say(f"done in {time.perf_counter() - began:.0f} s: {output_dir}/learned_embeds.safetensors")
    if config.hub.push_to_hub:
        upload(config, output_dir)
    return output_dir


def open_output(config: RunConfig) -> Path:
    """Makes the output folder, and refuses one that holds what this run would overwrite.

    Raises:
      OutputError: the folder cannot be made, or a run is in it already.
    """
    output_dir = Path(config.output.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            output_dir,
            expected="a folder that can be written",
            found=str(error),
            remedy="Choose another output_dir.",
        ) from error
    finished = (output_dir / "learned_embeds.safetensors").exists()
    steps = checkpoints.checkpoint_steps(output_dir)
    if config.output.resume_from_checkpoint is not None or not (finished or steps):
        return output_dir
    if not config.output.overwrite_output_dir:
        found = "a finished run" if finished else f"an unfinished run, checkpoint-{steps[-1]}"
        raise OutputError(
            f"output_dir {output_dir}",
            expected="a folder without a run in it",
            found=found,
            remedy="Give resume_from_checkpoint latest to go on, overwrite_output_dir to start again, "
            "or another output_dir.",
        )
    for step in steps:
        shutil.rmtree(output_dir / f"checkpoint-{step}")
    for path in (*output_dir.glob("learned_embeds*"), *output_dir.glob("validation/step-*.png")):
        path.unlink()
    return output_dir


def gather(config: RunConfig) -> Materials:
    """Reads tokenizer, images and weights, cheap things that can be wrong first, and encodes the images."""
    options = config.model
    find_model = partial(
        resolve_model,
        options.pretrained_model_name_or_path,
        revision=options.revision,
        variant=options.variant,
    )
    folder = find_model(components=("tokenizer",))
    tokenizer = load_tokenizer(folder, options.tokenizer_name)
    concept = add_concept(
        tokenizer,
        placeholder_token=config.concept.placeholder_token,
        initializer_token=config.concept.initializer_token,
        num_vectors=config.concept.num_vectors,
    )
    prompts = training_prompts(concept.text, config.concept.learnable_property)
    token_ids = encode_prompts(tokenizer, prompts, concept=concept)
    images = load_images(
        config.images.train_data_dir,
        resolution=config.images.resolution,
        center_crop=config.images.center_crop,
        interpolation=config.images.interpolation,
    )
    passed_over = f", {len(images.passed_over)} other files passed over" if images.passed_over else ""
    say(f"{len(images.names)} images{passed_over}")
    carried = () if config.output.only_save_embeds else CARRIED
    folder = find_model(components=(*MODEL_PARTS, *carried))
    model = load_stable_diffusion(folder, dtype=jnp.dtype(options.compute_dtype), variant=options.variant)
    check_table(_token_table(model), concept.token_ids[0])
    posteriors = encode_posteriors(
        model.vae,
        model.params["vae"],
        images.pixels,
        dtype=model.dtype,
        cache_dir=config.images.latents_cache_dir,
        progress=partial(tqdm, desc="encoding images", unit="image", leave=False),
        names=images.names,
    )
    if config.watching.validation_prompt is None:
        del model.params["vae"]
    return Materials(concept, tokenizer, images, model, posteriors, token_ids)


def _token_table(model: FlaxStableDiffusion) -> np.ndarray:
    return model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]


def settle(config: RunConfig, images: int) -> RunConfig:
    """Fills in the number of steps where the configuration counts epochs."""
    changes: dict[str, Any] = {}
    if config.training.max_train_steps is None:
        changes["max_train_steps"] = epoch_steps(config, images) * config.training.num_train_epochs
    return config.replace(**changes) if changes else config


def epoch_steps(config: RunConfig, images: int) -> int:
    """Updates in an epoch of images x repeats samples, at least one."""
    training = config.training
    samples = training.train_batch_size * training.gradient_accumulation_steps * jax.device_count()
    return max(1, math.ceil(images * config.images.repeats / samples))


def make_task(config: RunConfig, materials: Materials) -> tuple[Task, optim.Schedule]:
    """Builds the step's fixed parts and the learning-rate schedule."""
    training, options = config.training, config.optimizer
    trainable = np.ones(len(materials.concept.tokens), bool)
    schedule = optim.learning_rate_schedule(
        options.lr_scheduler,
        peak=peak_learning_rate(config),
        total_steps=training.max_train_steps or 1,
        warmup_steps=options.lr_warmup_steps,
        num_cycles=options.lr_num_cycles,
    )
    adamw = optim.adamw(
        schedule,
        betas=(options.adam_beta1, options.adam_beta2),
        epsilon=options.adam_epsilon,
        weight_decay=options.adam_weight_decay,
        max_grad_norm=options.max_grad_norm,
    )
    model = materials.model
    unet = model.unet.clone(gradient_checkpointing=training.gradient_checkpointing)
    task = Task(
        model=dataclasses.replace(model, unet=unet),
        schedule=NoiseSchedule.from_config(model.configs["scheduler"]),
        optimizer=optim.mask_rows(adamw, trainable),
        trainable=trainable,
        first_added_id=materials.concept.token_ids[0],
        batch_size=training.train_batch_size,
        accumulation=training.gradient_accumulation_steps,
        device_count=jax.device_count(),
        flip_p=config.images.flip_p,
    )
    return task, schedule


def peak_learning_rate(config: RunConfig) -> float:
    """The learning rate after `scale_lr`: times the samples of an update, as in the reference."""
    if not config.optimizer.scale_lr:
        return config.optimizer.learning_rate
    training = config.training
    samples = training.train_batch_size * training.gradient_accumulation_steps * jax.device_count()
    return config.optimizer.learning_rate * samples


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a run begins: its state on the host, and its configuration with the seed settled."""

    state: TrainState
    config: RunConfig


def start_state(config: RunConfig, task: Task, materials: Materials, output_dir: Path) -> Start:
    """The state to train from: fresh, or a checkpoint's.

    Raises:
      CheckpointError: the checkpoint is missing, damaged or another run's.
    """
    rows = initial_rows(
        _token_table(materials.model),
        initializer_id=materials.concept.initializer_id,
        num_vectors=len(materials.concept.tokens),
    )
    state = jax.device_get(init_state(task, rows))
    name = config.output.resume_from_checkpoint
    folder = checkpoints.find_checkpoint(output_dir, name) if name is not None else None
    if folder is None:
        if name is not None:
            say(f"no checkpoint in {output_dir} yet: starting from the beginning")
        return Start(state, with_seed(config, None))
    saved = checkpoints.load_checkpoint(folder)
    checkpoints.check_same_run(saved, materials.fingerprint, folder)
    for option, value in config.to_dict().items():
        if (
            option in CHANGES_BITS
            and saved.config.get(option) != value
            and not (option == "seed" and value is None)
        ):
            say(f"note: {option} was {saved.config.get(option)} in {folder.name} and is now {value}")
    optimizer = checkpoints.restore_optimizer(state.opt_state, saved.optimizer, folder)
    say(f"resuming from {folder}, step {saved.step}")
    state = TrainState(jnp.asarray(saved.rows), optimizer, jnp.int32(saved.step))
    return Start(state, with_seed(config, saved.config.get("seed")))


# Options that a resumed run must repeat to end with the bits of an uninterrupted one.
CHANGES_BITS = frozenset(
    {
        "mixed_precision",
        "flip_p",
        "train_batch_size",
        "gradient_accumulation_steps",
        "max_train_steps",
        "seed",
        "learning_rate",
        "scale_lr",
        "lr_scheduler",
        "lr_warmup_steps",
        "lr_num_cycles",
        "adam_beta1",
        "adam_beta2",
        "adam_weight_decay",
        "adam_epsilon",
        "max_grad_norm",
    }
)


def with_seed(config: RunConfig, saved: int | None) -> RunConfig:
    """Settles the seed: the configured one, else the checkpoint's, else a drawn one."""
    if config.training.seed is not None:
        return config
    seed = secrets.randbelow(2**32) if saved is None else saved
    say(f"seed {seed}")
    return config.replace(seed=seed)


def fit(
    config: RunConfig,
    task: Task,
    schedule: optim.Schedule,
    materials: Materials,
    state: TrainState,
    output_dir: Path,
) -> TrainState:
    """Puts everything on the devices, compiles, and runs the updates; returns the last state."""
    devices = jax.local_devices()
    total = config.training.max_train_steps or 0
    start = int(state.step)
    frozen = replicate(
        {
            "text_encoder": task.model.params["text_encoder"],
            "unet": task.model.params["unet"],
            "posteriors": materials.posteriors,
            "token_ids": materials.token_ids,
        },
        devices,
    )
    key = jax.random.key_data(jax.random.key(config.training.seed or 0, impl=KEY_IMPLEMENTATION))
    arguments = (frozen, replicate(np.asarray(key), devices))
    capacity = min(CHUNK_CAPACITY, total)
    placed = replicate(state, devices)
    say(f"compiling for {len(devices)} x {devices[0].device_kind}")
    began = time.perf_counter()
    program = spread(make_chunk(task, capacity), devices)
    program = program.lower(placed, *arguments, replicate(np.int32(1), devices)).compile()
    say(f"compiled in {time.perf_counter() - began:.1f} s")
    watching, progress = make_hooks(config, task, schedule, materials, frozen, output_dir, start)
    try:
        return run_steps(
            program,
            placed,
            arguments,
            total_steps=total,
            capacity=capacity,
            devices=devices,
            hooks=watching,
            steps_per_call=config.training.steps_per_call,
        )
    finally:
        progress.close()


def make_hooks(
    config: RunConfig,
    task: Task,
    schedule: optim.Schedule,
    materials: Materials,
    frozen: dict[str, Any],
    output_dir: Path,
    start: int,
) -> tuple[list[Hook], hooks.Progress]:
    """What happens beside the updates, in the order in which it happens."""

    host = jax.local_devices(backend="cpu")[0]

    def learning_rate(step: int) -> float:
        with jax.default_device(host):
            return float(schedule(step))

    samples, output, watching = task.global_batch, config.output, config.watching
    progress = hooks.Progress(
        start, config.training.max_train_steps or 0, samples=samples, learning_rate=learning_rate
    )
    made: list[Hook] = [
        hooks.StopWhenNotFinite(learning_rate, output_dir),
        hooks.Metrics(output_dir / "metrics.csv", start=start, samples=samples, learning_rate=learning_rate),
        progress,
    ]
    writer = tensorboard_writer(config, output_dir)
    if writer is not None:
        made.append(hooks.TensorBoard(writer, learning_rate))
    made.append(hooks.SaveEmbeds(output_dir, materials.concept.placeholder_token, every=output.save_steps))
    made.append(
        hooks.SaveCheckpoint(
            output_dir,
            every=output.checkpointing_steps,
            total_limit=output.checkpoints_total_limit,
            config=config.to_dict(),
            fingerprint=materials.fingerprint,
        )
    )
    if watching.validation_prompt is not None:
        every = config.validation_interval(len(materials.images.names))
        made.append(
            hooks.Preview(
                output_dir, every=every, draw=previewer(config, task, materials, frozen), writer=writer
            )
        )
    return made, progress


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


def previewer(config: RunConfig, task: Task, materials: Materials, frozen: dict[str, Any]):
    """A function from rows to a grid of pictures of the validation prompt, with fixed seeds."""
    prompt = materials.concept.expand(config.watching.validation_prompt or "")
    count = config.watching.num_validation_images
    prompt_ids = encode_prompts(materials.tokenizer, [prompt] * count)
    negative_ids = encode_prompts(materials.tokenizer, [""] * count)
    painter = Painter(materials.model, first_added_id=task.first_added_id)
    one_device = {
        name: jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, frozen[name])
        for name in ("text_encoder", "unet")
    }
    first_seed = config.training.seed or 0

    def draw(rows: np.ndarray) -> Any:
        pictures = painter.paint(
            {**one_device, "vae": materials.model.params["vae"]},
            rows,
            prompt_ids=prompt_ids,
            negative_ids=negative_ids,
            seeds=range(first_seed, first_seed + count),
            size=(config.images.resolution, config.images.resolution),
        )
        return picture_grid(pictures)

    return draw


def export(config: RunConfig, task: Task, materials: Materials, rows: np.ndarray, output_dir: Path) -> None:
    """Writes the result: learned_embeds in both formats, names for the concepts library, card, pipeline.

    Raises:
      OutputError: the folder cannot be written.
    """
    token = materials.concept.placeholder_token
    if not config.output.only_save_embeds:
        say("writing the pipeline")
        save_pipeline(
            materials.model.source or Path(),
            output_dir,
            tokenizer=materials.tokenizer,
            rows=rows,
            first_added_id=task.first_added_id,
            variant=config.model.variant,
        )
    (output_dir / "token_identifier.txt").write_text(token)
    (output_dir / "type_of_concept.txt").write_text(config.concept.learnable_property)
    write_model_card(
        output_dir,
        config,
        materials.concept,
        images=len(materials.images.names),
        width=rows.shape[1],
        steps=config.training.max_train_steps or 0,
        batch=task.global_batch,
        rate=peak_learning_rate(config),
    )
    # Last, because learned_embeds.safetensors is what marks a run as finished.
    save_learned_embeds(output_dir / "learned_embeds.bin", token, rows)
    save_learned_embeds(output_dir / "learned_embeds.safetensors", token, rows)


def upload(config: RunConfig, output_dir: Path) -> None:
    """Uploads the folder; a failure is said and does not lose the run."""
    hub = config.hub
    try:
        name = push_to_hub(
            output_dir, repo_id=hub.hub_model_id, token=hub.hub_token, private=hub.hub_private_repo
        )
        say(f"uploaded to {name}")
    except TiFlaxError as error:
        say(f"warning: {error}")
