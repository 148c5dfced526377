"""What learning_places.py does to the denoiser."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from learning_places import each_layer_reads_its_part, layers_that_read

from ti_flax.models.attention import AUTO
from ti_flax.models.transformer import Transformer


class _Denoiser(nn.Module):
    @nn.compact
    def __call__(self, image, prompt):
        for name in ("first", "second"):
            image = Transformer(1, 1, 1, True, jnp.float32, AUTO, name=name)(image, prompt)
        return image


def test_every_layer_reads_its_own_part_of_the_prompt():
    keys = jax.random.split(jax.random.key(0), 4)
    image, one, other = (jax.random.normal(key, shape) for key, shape in zip(keys, _SHAPES))
    denoiser = _Denoiser()
    params = denoiser.init(keys[3], image, one)
    assert layers_that_read(params["params"]) == 2

    def layer(name, image, prompt):
        transformer = Transformer(1, 1, 1, True, jnp.float32, AUTO)
        return transformer.apply({"params": params["params"][name]}, image, prompt)

    wanted = layer("second", layer("first", image, one), other)
    both = jnp.concatenate([one, other], axis=1)
    with each_layer_reads_its_part(2):
        # Traced more than once, as a loop's body may be.
        for _ in range(2):
            np.testing.assert_allclose(denoiser.apply(params, image, both), wanted, atol=1e-6)
    with each_layer_reads_its_part(1):
        assert not np.allclose(denoiser.apply(params, image, one), wanted, atol=1e-3)


_SHAPES = (1, 2, 2, 4), (1, 3, 4), (1, 3, 4)
