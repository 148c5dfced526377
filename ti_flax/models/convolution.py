"""Convolutions whose backward pass suits the machine."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

_LAYOUT = ("NHWC", "HWIO", "NHWC")

Sides = tuple[tuple[int, int], ...]


def convolution(
    inputs: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Sides, **_fixed: Any
) -> jax.Array:
    """Convolve, as `flax.linen.Conv` calls its `conv_general_dilated` without dilations and groups.

    Args:
      inputs: `[batch, height, width, in_channels]`.
      kernel: `[kernel_height, kernel_width, in_channels, out_channels]`.
      strides: of height and width.
      padding: before and after height and width.

    Returns:
      `[batch, out_height, out_width, out_channels]`.
    """
    if kernel.shape[:2] == (1, 1):
        return jnp.einsum("bhwi,io->bhwo", inputs, kernel[0, 0])
    if set(strides) != {1}:
        return _forward(inputs, kernel, strides, padding)
    return _convolution(inputs, kernel, tuple(padding))


def _forward(inputs: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Sides) -> jax.Array:
    return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, dimension_numbers=_LAYOUT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(inputs: jax.Array, kernel: jax.Array, padding: Sides) -> jax.Array:
    """Convolve with stride 1."""
    return _forward(inputs, kernel, (1, 1), padding)


def _keep(inputs, kernel, padding):
    return _convolution(inputs, kernel, padding), (inputs, kernel)


def _backward(padding, kept, slope):
    inputs, kernel = kept
    _, by_kernel = jax.vjp(lambda kernel: _forward(inputs, kernel, (1, 1), padding), kernel)
    by_inputs = jax.lax.platform_dependent(
        slope,
        kernel,
        cpu=functools.partial(_by_turned_kernel, padding=padding),
        default=functools.partial(_by_transposition, padding=padding, inputs=jax.typeof(inputs)),
    )
    return by_inputs, *by_kernel(slope)


def _by_turned_kernel(slope: jax.Array, kernel: jax.Array, *, padding: Sides) -> jax.Array:
    """The gradient by the inputs as one more convolution, with the kernel turned by 180 degrees.

    XLA finds its fast kernels on a CPU for this layout of the kernel alone, and inside of a loop it does not
    bring the transposed convolution into it: hence the barrier, which keeps it from taking the layout back.
    """
    turned = jax.lax.optimization_barrier(jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3))
    sides = zip(padding, kernel.shape[:2], strict=True)
    around = [(size - 1 - before, size - 1 - after) for (before, after), size in sides]
    return _forward(slope, turned, (1, 1), tuple(around))


def _by_transposition(slope: jax.Array, kernel: jax.Array, *, padding: Sides, inputs: Any) -> jax.Array:
    """The gradient by the inputs as JAX takes it, which the compilers for GPU and TPU know."""
    return jax.linear_transpose(lambda x: _forward(x, kernel, (1, 1), padding), inputs)(slope)[0]


_convolution.defvjp(_keep, _backward)
