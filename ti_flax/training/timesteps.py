"""The timesteps that samples are drawn at."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from ti_flax.config.options import LossOptions
from ti_flax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TimestepRules:
    """Which timesteps are drawn; each of them as often as any other, whatever the sampling.

    Attributes:
      first: the first of them.
      end: the one after the last.
      sampling: `uniform`, each sample by itself; `stratified`, the samples of an update one from each of as
        many equal parts of the range, in an order drawn anew for every update; `antithetic`, samples 2j and
        2j + 1 at mirrored places of the range.
    """

    first: int
    end: int
    sampling: str = "uniform"

    @classmethod
    def from_options(cls, options: LossOptions, num_train_timesteps: int) -> TimestepRules:
        """The rules of a run.

        Raises:
          ConfigError: the model has no such timesteps.
        """
        for name, most in (("min_timestep", num_train_timesteps - 1), ("max_timestep", num_train_timesteps)):
            value = getattr(options, name)
            if value is not None and value > most:
                raise ConfigError(
                    name,
                    expected=f"at most {most}, as the model has timesteps 0 to {num_train_timesteps - 1}",
                    found=str(value),
                )
        first = options.min_timestep or 0
        end = num_train_timesteps if options.max_timestep is None else options.max_timestep
        return cls(first=first, end=end, sampling=options.timestep_sampling)

    def draw(self, key: jax.Array, update_key: jax.Array, *, position: jax.Array, samples: int) -> jax.Array:
        """The timestep of one sample, `[]` int32.

        Args:
          key: of the sample.
          update_key: of the update, the same for all of its samples.
          position: `[]` int32, place in the global batch.
          samples: of the global batch.
        """
        count = self.end - self.first
        if self.sampling == "antithetic":
            drawn = jax.random.randint(jax.random.fold_in(update_key, position // 2), (), 0, count)
            return self.first + jax.lax.select(position % 2 == 0, drawn, count - 1 - drawn)
        if self.sampling == "uniform":
            return jax.random.randint(key, (), self.first, self.end)
        part = jax.random.permutation(update_key, samples)[position]
        # Whole numbers: of the count x samples values, each timestep has as many as there are samples.
        return self.first + (count * part + jax.random.randint(key, (), 0, count)) // samples
