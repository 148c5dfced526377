"""How strongly predictions still answer to the rest of a prompt: a word that drowns it is over-trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.embedding.conditioning import encode_with_rows
from ti_flax.hosts.compilation import Compilation, shapes_in
from ti_flax.training.devices import local_copies, pmapped, replicate, shard
from ti_flax.training.state import KEY_IMPLEMENTATION, StepConfig, zero_rows

# The timestep, as a share of all, at which it tells over-training best: pure noise.
TIMESTEP = 1.0
# More of them tell it no better (docs/learning.md).
NOISES = 4
# Of each kind of concept the plain prompt, then the same with something around it that any model can draw.
PROMPTS = {
    "object": (
        "a photo of a {}",
        "a photo of a {} on a green background",
        "a photo of a {} on a blue background",
        "a photo of a {} on a yellow background",
        "a photo of a {} on a pink background",
        "a photo of a {} on the beach",
        "a photo of a {} at night",
        "a photo of a {} in front of a wall",
        "a photo of a {} in the night sky",
    ),
    "style": (
        "a painting in the style of {}",
        "a painting of a star in the style of {}",
        "a painting of a heart in the style of {}",
        "a painting of a house in the style of {}",
        "a painting of a dog in the style of {}",
        "a painting of the beach in the style of {}",
        "a painting of the night sky in the style of {}",
        "a painting of a flower in the style of {}",
        "a painting of a moon in the style of {}",
    ),
}


class PromptSensitivity:
    """How far predictions of the same noise lie apart for a plain prompt and for prompts that say more.

    For a word w, a context c and noises x at a timestep t it is the mean over x of
    |e(x, t, "a photo of a w c") - e(x, t, "a photo of a w")|^2, e being the UNet's output. Compared with that
    of the word's first rows, it tells how much of a context a word has come to drown. A word drowns one
    context before the others, and some are heard the better for it, so that the least heard one tells it.

    Args:
      config: the step's fixed parts.
      frozen: replicated arrays, the text encoders and `unet`.
      token_ids: `[words, prompts, tokens]` int32, the plain prompt of each word first.
      side: of the images in pixels.
      devices: of this process, on which the arrays lie.
      noises: how many there are of them.
      timestep: as a share of all.
      after: a program that is needed sooner.
      programs: those that are there or begun, by shapes; another concept's serve as well.

    Attributes:
      passes: samples that every device takes through the model for one measurement.
    """

    def __init__(
        self,
        config: StepConfig,
        frozen: dict[str, Any],
        token_ids: np.ndarray,
        *,
        side: int,
        devices: Sequence[Any],
        noises: int = NOISES,
        timestep: float = TIMESTEP,
        after: Compilation | None = None,
        programs: MutableMapping[Any, Compilation] | None = None,
    ):
        numbers = dealt_out(noises, batch=config.batch_size, devices=len(devices))
        self._counted, self._devices = numbers >= 0, devices
        self.passes = math.prod(token_ids.shape[:2]) * numbers[0].size
        self._token_ids = token_ids
        self._frozen = local_copies(frozen, devices)
        self._numbers = shard(numbers, devices)
        arguments = (*self._placed(zero_rows(config, frozen), token_ids[0]), self._numbers)
        programs = {} if programs is None else programs
        what = "the prompt sensitivity"
        shapes = what, side, timestep, shapes_in(arguments)
        if shapes not in programs:
            program = pmapped(make_measure(config, side, timestep), devices, donate=())
            programs[shapes] = Compilation(
                partial(program.lower, *arguments), devices, what=what, after=after
            )
        self._compiling = programs[shapes]

    def ready(self) -> bool:
        """Whether it can be called without waiting for the compilation."""
        return self._compiling.ended

    def __call__(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """That of each word and context, `[words, prompts - 1]` float64.

        Args:
          rows: `[added_tokens, width]` float32, by text encoder.
        """
        return np.stack([np.mean(each, axis=0, dtype=np.float64) for each in self.distances(rows)])

    def distances(self, rows: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What that is the mean of: `[noises, prompts - 1]` float32 for each word."""
        program = self._compiling.program()
        return [
            np.asarray(program(*self._placed(rows, prompts), self._numbers))[self._counted]
            for prompts in self._token_ids
        ]

    def _placed(self, rows: Mapping[str, np.ndarray], prompts: np.ndarray) -> tuple[Any, Any, Any]:
        return replicate(dict(rows), self._devices), self._frozen, replicate(prompts, self._devices)


def dealt_out(noises: int, *, batch: int, devices: int) -> np.ndarray:
    """Numbers of the noises for devices and rounds, `[devices, rounds, batch]` int32; -1 fills up."""
    batch = min(batch, -(-noises // devices))
    rounds = -(-noises // (devices * batch))
    numbers = np.full(devices * rounds * batch, -1, np.int32)
    numbers[:noises] = np.arange(noises)
    return np.ascontiguousarray(numbers.reshape(rounds, devices, batch).swapaxes(0, 1))


def make_measure(config: StepConfig, side: int, timestep: float) -> Callable:
    """Builds `measure(rows, frozen, token_ids, numbers)`: distances, `[rounds, batch, prompts - 1]` float32.

    Args:
      config: the step's fixed parts.
      side: of the images in pixels.
      timestep: as a share of all.
    """
    vae = config.model.vae.config
    shape = (side // vae.downsampling, side // vae.downsampling, vae.latent_channels)
    last = config.schedule.num_train_timesteps - 1
    at = min(round(timestep * config.schedule.num_train_timesteps), last)

    def measure(
        rows: dict[str, jax.Array], frozen: dict, token_ids: jax.Array, numbers: jax.Array
    ) -> jax.Array:
        told = encode_with_rows(
            config.model,
            frozen,
            rows,
            token_ids,
            first_added_id=config.first_added_id,
            special=config.special,
        )
        conditioning = [*told] if config.model.is_sdxl else [told.hidden_states]
        if config.model.is_sdxl:
            sizes = jnp.asarray([side, side, 0, 0, side, side], jnp.float32)
            conditioning.append(jnp.broadcast_to(sizes, (len(token_ids), len(sizes))))

        def of_round(numbers: jax.Array) -> jax.Array:
            root = jax.random.key(0, impl=KEY_IMPLEMENTATION)  # the same noises in all runs
            noise = jax.vmap(lambda number: jax.random.normal(jax.random.fold_in(root, number), shape))(
                numbers
            )
            timesteps = jnp.full(len(noise), at, jnp.int32)

            def predicted(of_prompt: Sequence[jax.Array]) -> jax.Array:
                same = [jnp.broadcast_to(each, (len(noise), *each.shape)) for each in of_prompt]
                output = config.model.unet.apply({"params": frozen["unet"]}, noise, timesteps, *same)
                return jnp.asarray(output, jnp.float32)

            plain, *_ = outputs = jax.lax.map(predicted, conditioning)
            return jnp.mean(jnp.square(jnp.asarray(outputs)[1:] - plain), axis=(2, 3, 4)).T

        return jax.lax.map(of_round, numbers)

    return measure
