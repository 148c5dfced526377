"""What all concepts of a run have in common: one model, one program, and slots in which they learn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ti_flax.config import RunConfig
from ti_flax.data.encoding import in_units
from ti_flax.data.images.groups import memory_of_machine
from ti_flax.data.training_images import read_images
from ti_flax.embedding.rows import AddedRows
from ti_flax.errors import ConfigError
from ti_flax.hosts.compilation import Compilation, has_no_room, planned_memory
from ti_flax.hosts.devices import cores_share_batch
from ti_flax.models.stable_diffusion import FlaxStableDiffusion
from ti_flax.run.fit import compilation, sender_for
from ti_flax.run.hooks import Common
from ti_flax.run.inputs import ConceptTokens, TrainingInputs, start_rows, token_tables
from ti_flax.run.named_paths import other_roles
from ti_flax.run.step_config import make_step_config
from ti_flax.training.devices import Slots, replicate, stacked
from ti_flax.training.state import StepConfig, Taught, TrainState, init_state
from ti_flax.training.streaming import Choices, PictureShape, Sender, Shapes

# Concepts that a device other than a core of a CPU computes side by side, unless told otherwise: enough to
# fill it, and few enough that the last ones of a list do not leave much of it idle.
_ON_DEVICE = 8
# The share of a device's memory that the update may take; evaluations and previews need some of the rest.
SHARE_OF_DEVICE = 0.9


@dataclass(frozen=True)
class Teaching:
    """What is made once.

    Attributes:
      step_config: the step's fixed parts; its numbers are those of no concept.
      shapes: of all pictures.
      slots: where concepts learn.
      frozen: parameters of the text encoders and the UNet, on the devices.
      vectors: rows of each slot that learn; of a concept with fewer the last ones stay zero.
      nobody: the state of an empty slot.
      sender: of what samples show.
      choices: of the images and prompts of all concepts.
      compiling: the update.
      need: bytes of each device that the update takes.
      room: bytes that it has.
      common: what happens beside the updates.
    """

    step_config: StepConfig
    shapes: Shapes
    slots: Slots
    frozen: dict[str, Any]
    vectors: int
    nobody: TrainState
    sender: Sender
    choices: Choices
    compiling: Compilation
    need: float = 0
    room: float = math.inf
    common: Common = field(default_factory=Common)

    @property
    def samples(self) -> int:
        """Of an update of a concept."""
        return self.step_config.global_batch

    @property
    def in_words(self) -> str:
        """Where and how many concepts learn at once, and what that takes."""
        devices = f"{len(self.slots.devices)} x {self.slots.devices[0].device_kind}"
        return f"{self.slots.count} at once on {devices}: {in_units(self.need)} of {in_units(self.room)} each"

    def rows_of(self, inputs: TrainingInputs) -> AddedRows:
        """The rows of a concept as its slot has them."""
        return lengthened_rows(inputs.added, self.vectors)


def slots_for(concepts: int, at_once: int | None, batch_size: int) -> Slots:
    """The slots of a run, on the devices of this machine.

    Devices hold whole slots where there are enough concepts; else they share the batch of each, as many of
    them as it can be divided among.

    Args:
      concepts: that there are to teach.
      at_once: how many are to learn at once; None: as many as there is use for.
      batch_size: samples of a concept that go through the model at once.
    """
    devices = jax.local_devices()
    each = 1 if cores_share_batch() else _ON_DEVICE
    wanted = min(concepts, len(devices) * each if at_once is None else at_once)
    if wanted >= len(devices):
        return Slots(wanted - wanted % len(devices), devices, whole=True)
    sharing = max(share for share in range(1, len(devices) + 1) if batch_size % share == 0)
    return Slots(wanted, devices[:sharing])


def lengthened_rows(added: AddedRows, vectors: int) -> AddedRows:
    """The rows of a concept with rows of zeros behind them, which no prompt names and no update moves.

    Args:
      added: a concept's own rows, and loaded ones behind them.
      vectors: rows that learn in a slot.

    Raises:
      ConfigError: there are loaded ones, and the concept has fewer rows than others.
    """
    own = max(int(learns.sum()) for learns in added.trainable.values())
    if own == vectors:
        return added
    if any(len(rows) > own for rows in added.start.values()):
        raise ConfigError(
            "extra_embeds",
            expected=f"{vectors} vectors for every concept, as loaded embeddings follow them",
            found=f"{own}",
            remedy="Give all concepts the same num_vectors, or leave extra_embeds out.",
        )
    start = {encoder: np.pad(rows, ((0, vectors - own), (0, 0))) for encoder, rows in added.start.items()}
    trainable = {encoder: np.full(vectors, bool(learns.any())) for encoder, learns in added.trainable.items()}
    return dataclasses.replace(added, start=start, trainable=trainable)


def shapes_for(configs: Sequence[RunConfig], model: FlaxStableDiffusion) -> Shapes:
    """What the pictures of all concepts are like.

    Where their shapes depend on the images, those of all concepts are read once for it.
    """
    sides: set[tuple[int, int]] = set()
    for config in configs:
        size = config.images.resolution
        if not config.images.enable_bucket:
            sides.add((size, size))
            continue
        roles = other_roles(config, "train_data_dir")
        options = config.images.without_variants  # which have the same shapes
        images = read_images(options, config.prompts.captions, roles, of_sdxl=model.is_sdxl)
        sides |= {group.pixels.shape[1:3] for group in images.groups}
    masked = any(config.images.alpha_mask or config.images.mask_dir for config in configs)
    classes = any(config.loss.class_data_dir for config in configs)
    vae = model.vae.config

    def shapes(masked: bool) -> tuple[PictureShape, ...]:
        moments, ratio = 2 * vae.latent_channels, vae.downsampling
        return tuple(PictureShape(h // ratio, w // ratio, moments, masked) for h, w in sorted(sides))

    tokens = model.text_encoder.config.max_position_embeddings
    return Shapes(shapes(masked), shapes(False) if classes else None, tokens, model.is_sdxl)


def begin_teaching(
    config: RunConfig,
    first: RunConfig,
    model: FlaxStableDiffusion,
    tokens: ConceptTokens,
    shapes: Shapes,
    *,
    vectors: int,
    concepts: int,
) -> Teaching:
    """Puts the model on the devices and compiles the update, for as many slots as the devices have room for.

    Args:
      config: of the run.
      first: of one concept.
      model: with its parameters.
      tokens: of that concept.
      shapes: of all pictures.
      vectors: the most of a concept.
      concepts: that there are to teach.

    Raises:
      ConfigError: the devices have no room for the slots that were asked for, or for one.
    """
    at_once = config.concept_list.concepts_at_once
    slots = slots_for(concepts, at_once, config.training.train_batch_size)
    frozen = replicate(model.step_params, slots.devices)
    while True:
        teaching = teaching_in(slots, first, model, tokens, shapes, frozen, vectors=vectors)
        need, room = needed_memory(teaching.compiling), memory_of_device(slots.devices)
        if need <= SHARE_OF_DEVICE * room:
            return dataclasses.replace(teaching, need=need, room=room)
        if at_once is not None or slots.on_device == 1:
            raise ConfigError(
                "concepts_at_once",
                expected=f"concepts whose update takes {SHARE_OF_DEVICE:.0%} of {in_units(room)} at most",
                found=f"{slots.on_device} on each of {len(slots.devices)}, which take "
                f"{'more' if math.isinf(need) else in_units(need)}",
                remedy="Fewer concepts_at_once, a smaller batch or gradient_checkpointing take less.",
            )
        slots = dataclasses.replace(slots, count=slots.count // slots.on_device * (slots.on_device // 2))


def teaching_in(
    slots: Slots,
    first: RunConfig,
    model: FlaxStableDiffusion,
    tokens: ConceptTokens,
    shapes: Shapes,
    frozen: dict[str, Any],
    *,
    vectors: int,
) -> Teaching:
    """What is made once for these slots; begins to compile the update. Arguments are those above."""
    first = first.replace(seed=first.training.seed or 0, max_train_steps=first.training.max_train_steps or 1)
    added = lengthened_rows(start_rows(first, tokens, token_tables(model)), vectors)
    step_config, _ = make_step_config(
        first,
        model,
        tokens.concept.token_ids[0],
        added=added,
        special=tokens.tokenizers.special,
        devices=1 if slots.whole else len(slots.devices),
        batches=1,
    )
    step_config = dataclasses.replace(step_config, slots=slots.on_device, whole_slots=slots.whole)
    sender = sender_for(step_config, shapes, slots)
    nobody = jax.device_get(init_state(step_config, added.start))
    taught = slots.place(stacked([Taught(np.zeros(2, np.uint32), step_config.settings)] * slots.count))
    return Teaching(
        step_config=step_config,
        shapes=shapes,
        slots=slots,
        frozen=frozen,
        vectors=vectors,
        nobody=nobody,
        sender=sender,
        choices=Choices(step_config),
        compiling=compilation(step_config, shapes, slots, nobody, (frozen, taught), sender),
    )


def needed_memory(compiling: Compilation) -> float:
    """Bytes of a device that the compiled update takes; endless where the compiler finds no room for it."""
    try:
        return sum(planned_memory(compiling.program()))
    except jax.errors.JaxRuntimeError as error:
        if has_no_room(error):
            return math.inf
        raise


def memory_of_device(devices: Sequence[Any]) -> float:
    """Bytes of memory of the smallest of some devices; a CPU's cores share the machine's."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return min(memory_of_machine() / len(devices) if limit is None else limit for limit in limits)
