"""Images from prompts: text encoder, sampler and decoder in one compiled program, on one device or more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ti_flax.embedding.conditioning import encode_with_rows
from ti_flax.embedding.rows import Rows
from ti_flax.generation.samplers import sample_images, sampling_steps
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.prompt_encoding import CLIP_TOKENS, SpecialTokens, without_empty
from ti_flax.models.stable_diffusion import FlaxStableDiffusion

_AXIS = "images"


class PromptTokens(NamedTuple):
    """Prompts as a program takes them.

    Attributes:
      ids: `[batch, tokens]` int32.
      weights: of each token, like it, float32; None where all count the same.
    """

    ids: Any
    weights: Any = None

    def at(self, places: np.ndarray) -> PromptTokens:
        """Those at some places, in their order."""
        return PromptTokens(self.ids[places], None if self.weights is None else self.weights[places])


class ImageGenerator:
    """Draws batches of images with one model; compiles once for each batch size and image size.

    Args:
      model: the modules and scheduler configuration (parameters are passed to `generate`).
      first_added_id: token id of the first added row.
      steps: denoising steps.
      sampler: one of `samplers.SAMPLERS`.
      special: what text encoders depend on beside token ids.
      devices: that share a batch out among them; none: the one that holds the parameters.
      copies: the parameters come with an axis of the devices in front, as `step.replicate` makes them.
    """

    def __init__(
        self,
        model: FlaxStableDiffusion,
        *,
        first_added_id: int,
        steps: int = 25,
        sampler: str = "dpmsolver++",
        special: SpecialTokens = CLIP_TOKENS,
        devices: Sequence[Any] = (),
        copies: bool = False,
    ):
        scheduler_config = model.configs["scheduler"]
        schedule = NoiseSchedule.from_config(scheduler_config)
        spaced = sampling_steps(schedule, scheduler_config, steps=steps, sampler=sampler)
        self._model = model

        encode = partial(encode_with_rows, model, first_added_id=first_added_id, special=special)

        def draw(params, rows, prompts, negatives, noise, guidance_scale):
            # Replicated parameters come with their device axis of 1, which is cheaper to drop in here.
            params = jax.tree.map(
                lambda leaf, rank: leaf.reshape(leaf.shape[leaf.ndim - rank :]), params, ranks
            )
            prompt, negative = (
                encode(params, rows, each.ids, weights=each.weights) for each in (prompts, negatives)
            )
            return sample_images(
                model,
                params,
                prompt=prompt,
                negative_prompt=without_empty(model, negative, negatives.ids, special),
                noise=noise,
                steps=spaced,
                sampler=sampler,
                schedule=schedule,
                guidance_scale=guidance_scale,
            )

        ranks = jax.tree.map(np.ndim, dict(model.params))
        self._devices = max(1, len(devices))
        if len(devices) > 1:
            each, all_ = PartitionSpec(_AXIS), PartitionSpec()
            inputs = (each if copies else all_, all_, each, each, each, all_)
            # Nothing is exchanged, so that a device's images are those it would draw alone.
            draw = jax.shard_map(draw, mesh=_mesh(devices), in_specs=inputs, out_specs=each, check_vma=False)
        self._draw = jax.jit(draw)

    def lower(
        self,
        params: Mapping[str, Any],
        rows: Rows,
        prompts: PromptTokens,
        negatives: PromptTokens,
        size: tuple[int, int],
    ) -> Any:
        """Traces and lowers the program of a batch of this size, for `generate`; values do not count.

        Args:
          params: as of `generate`.
          rows: `[added_tokens, width]` float32 for each text encoder, by name.
          prompts: a batch of them, a multiple of the devices.
          negatives: as many.
          size: height and width in pixels.
        """
        noise = starting_noise(self._model, [0] * len(prompts.ids), size)
        return self._draw.lower(params, rows, prompts, negatives, noise, np.float32(1.0))

    def generate(
        self,
        params: Mapping[str, Any],
        rows: Rows,
        *,
        prompt_ids: np.ndarray,
        negative_ids: np.ndarray,
        seeds: Sequence[int],
        size: tuple[int, int],
        guidance_scale: float = 7.5,
        prompt_weights: np.ndarray | None = None,
        negative_weights: np.ndarray | None = None,
        program: Callable[..., Any] | None = None,
    ) -> np.ndarray:
        """Draws one image a prompt.

        Args:
          params: of the model's components; leaves may have an axis of the devices in front.
          rows: `[added_tokens, width]` float32 for each text encoder, by name.
          prompt_ids: `[batch, tokens]` int32.
          negative_ids: `[batch, tokens]` int32, which may be other chunks of tokens.
          seeds: one for each image; the same seed and size give the same noise.
          size: height and width in pixels, multiples of the VAE's downsampling.
          guidance_scale: 1 is no guidance.
          prompt_weights: of the tokens of prompts, `[batch, tokens]` float32; None: all count the same.
          negative_weights: likewise.
          program: what `lower` gave, compiled; None compiles at the first call of a shape.

        Returns:
          `[batch, height, width, 3]` uint8.
        """
        count = len(prompt_ids)
        # A batch that the devices cannot share out evenly ends in copies of its last image.
        places = np.minimum(np.arange(-(-count // self._devices) * self._devices), count - 1)
        noise = starting_noise(self._model, [seeds[place] for place in places], size)
        images = (program or self._draw)(
            params,
            rows,
            PromptTokens(prompt_ids, prompt_weights).at(places),
            PromptTokens(negative_ids, negative_weights).at(places),
            noise,
            np.float32(guidance_scale),
        )
        return np.asarray(jnp.round(images * 255.0)).astype(np.uint8)[:count]


def on_all(params: Mapping[str, Any], devices: Sequence[Any]) -> Any:
    """Copies parameters to each of several devices, for a `ImageGenerator` of the same devices."""
    return jax.device_put(params, NamedSharding(_mesh(devices), PartitionSpec()))


def _mesh(devices: Sequence[Any]) -> Mesh:
    return Mesh(np.asarray(devices), (_AXIS,))


def starting_noise(model: FlaxStableDiffusion, seeds: Sequence[int], size: tuple[int, int]) -> jax.Array:
    """Standard normal latents, one draw a seed: `[seeds, height, width, channels]` float32."""
    side = model.vae.config.downsampling
    shape = (size[0] // side, size[1] // side, model.vae.config.latent_channels)
    keys = [jax.random.key(seed, impl="threefry2x32") for seed in seeds]
    return jnp.stack([jax.random.normal(key, shape) for key in keys])
