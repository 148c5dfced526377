"""The noise that is added to latents, and what may be mixed into it."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ti_flax.config.options import LossOptions


@dataclass(frozen=True, kw_only=True)
class NoiseRules:
    """What becomes of a sample's standard normal noise; as made without arguments, nothing.

    Attributes:
      offset: scale of noise that is the same all over a channel
        (https://www.crosslabs.org/blog/diffusion-with-offset-noise).
      adaptive_scale: times the absolute mean latent of a channel, added to `offset`.
      multires_iterations: layers of ever coarser noise that are added, the first as fine as the latents.
      multires_discount: strength of a layer relative to the one before.
      input_perturbation: scale of noise that the model sees and is not asked for (arXiv:2301.11706).
    """

    offset: float = 0.0
    adaptive_scale: float = 0.0
    multires_iterations: int = 0
    multires_discount: float = 0.3
    input_perturbation: float = 0.0

    @classmethod
    def from_options(cls, options: LossOptions) -> NoiseRules:
        """The rules of a run."""
        discount = options.multires_noise_discount
        return cls(
            offset=options.noise_offset,
            adaptive_scale=options.adaptive_noise_scale or 0.0,
            multires_iterations=options.multires_noise_iterations or 0,
            multires_discount=cls.multires_discount if discount is None else discount,
            input_perturbation=options.input_perturbation,
        )

    def apply(
        self, key: jax.Array, noise: jax.Array, latents: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        """The noise of one sample, and the noise that its input shows if that is another one.

        Args:
          key: of the sample, for these draws alone.
          noise, latents: `[height, width, channels]` float32.
        """
        offset_key, multires_key, perturbation_key = jax.random.split(key, 3)
        if self.offset:
            noise = noise + self.channel_offsets(offset_key, latents)
        if self.multires_iterations:
            noise = multires_noise(
                multires_key, noise, iterations=self.multires_iterations, discount=self.multires_discount
            )
        if not self.input_perturbation:
            return noise, None
        extra = jax.random.normal(perturbation_key, noise.shape)
        return noise, noise + self.input_perturbation * extra

    def channel_offsets(self, key: jax.Array, latents: jax.Array) -> jax.Array:
        """Noise that is the same all over a channel, `[channels]`.

        Its scale is max(0, offset + adaptive_scale * |mean latent of the channel|).
        """
        means = jnp.abs(jnp.mean(latents, axis=(0, 1)))
        scale = jnp.maximum(self.offset + self.adaptive_scale * means, 0.0)
        return scale * jax.random.normal(key, means.shape)


def multires_noise(key: jax.Array, noise: jax.Array, *, iterations: int, discount: float) -> jax.Array:
    """Noise with ever coarser noise added to it, scaled to variance 1, of the shape of `noise`.

    Layer i is normal noise on a grid of cells r_i^i wide, r_i uniform in [2, 4), stretched linearly, times
    discount^i; it ends with the first layer that is one cell high or wide ("Multi-Resolution Noise", J.
    Whitaker 2023; kohya's `pyramid_noise_like`, which draws r_i for a batch and scales the batch as a whole).

    Args:
      key: for the layers.
      noise: `[height, width, channels]` float32, standard normal.
      iterations: layers.
      discount: see above.
    """
    height, width, channels = noise.shape
    total, goes_on = noise, jnp.ones(())
    for layer in range(iterations):
        ratio_key, grid_key = jax.random.split(jax.random.fold_in(key, layer))
        cell = jax.random.uniform(ratio_key, minval=2.0, maxval=4.0) ** layer
        # As many cells as there are at the smallest ratio: which of them are seen is the cell's size.
        cells = (-(-height // 2**layer), -(-width // 2**layer), channels)
        coarse = jax.random.normal(grid_key, cells)
        stretched = jax.image.scale_and_translate(
            coarse, noise.shape, (0, 1), jnp.stack([cell, cell]), jnp.zeros(2), "linear", antialias=False
        )
        total = total + goes_on * discount**layer * stretched
        goes_on = goes_on * (min(height, width) / cell >= 2.0)
    return total / jnp.std(total)
