"""Convolutions and their gradients are those of JAX, whichever way they are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ti_flax.models import convolution as module
from ti_flax.models.convolution import convolution

SAME, BELOW, NONE = ((1, 1), (1, 1)), ((0, 1), (0, 1)), ((0, 0), (0, 0))


def plain(inputs, kernel, strides, padding):
    return jax.lax.conv_general_dilated(
        inputs, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def drawn(kernel_side, dtype=jnp.float32, height=7, width=6):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((2, height, width, 5))
    kernel = rng.standard_normal((kernel_side, kernel_side, 5, 4))
    return jnp.asarray(inputs, dtype), jnp.asarray(kernel, dtype)


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [SAME, BELOW, NONE])
def test_values_and_gradients(side, stride, padding):
    if side == 1:
        stride, padding = 1, NONE
    inputs, kernel = drawn(side)

    def pulled(convolve):
        mixed, pull = jax.vjp(lambda x, k: convolve(x, k, (stride, stride), padding), inputs, kernel)
        return mixed, *pull(jnp.cos(mixed))

    for found, exact in zip(pulled(convolution), pulled(plain), strict=True):
        assert found.shape == exact.shape
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", [SAME, BELOW, NONE])
def test_both_ways_back_are_the_same(padding):
    inputs, kernel = drawn(3)
    slope = jnp.sin(plain(inputs, kernel, (1, 1), padding))
    turned = module._by_turned_kernel(slope, kernel, padding=padding)
    transposed = module._by_transposition(slope, kernel, padding=padding, inputs=jax.typeof(inputs))
    np.testing.assert_allclose(turned, transposed, rtol=1e-4, atol=1e-4)


def lowered_gradient(platform, padding=SAME):
    inputs, kernel = drawn(3)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(convolution(x, kernel, (1, 1), padding) ** 2)))
    return gradient.trace(inputs).lower(lowering_platforms=(platform,))


def test_the_kernel_is_turned_for_cpus_alone():
    on_cpu = lowered_gradient("cpu")
    assert "optimization_barrier" in on_cpu.as_text()
    # The choice is made before the program runs.
    assert "conditional" not in on_cpu.compile().as_text()
    for platform in ("cuda", "tpu"):
        text = lowered_gradient(platform).as_text()
        assert "optimization_barrier" not in text and text.count("stablehlo.convolution") == 2


def test_bfloat16_stays_bfloat16():
    inputs, kernel = drawn(3, jnp.bfloat16)
    mixed, pull = jax.vjp(lambda x, k: convolution(x, k, (1, 1), SAME), inputs, kernel)
    assert mixed.dtype == jnp.bfloat16
    assert [gradient.dtype for gradient in pull(mixed)] == [jnp.bfloat16] * 2
