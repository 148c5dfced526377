"""The count of floating-point operations against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import pytest
from flop import count_flop
from jax import lax


def counted(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_flop(jax.make_jaxpr(function)(*arguments).jaxpr)


def convolution(x, kernel, **options):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, padding="SAME", dimension_numbers=layout, **options)


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda x, y: x @ y, [(3, 5), (5, 7)], 2 * 3 * 5 * 7),
        (lambda x, y: jnp.einsum("bij,bkj->bik", x, y), [(4, 3, 5), (4, 7, 5)], 2 * 4 * 3 * 5 * 7),
        (lambda x: jnp.exp(x) + 1, [(9, 9)], 0),
        (
            lambda x, k: convolution(x, k, window_strides=(1, 1)),
            [(2, 8, 8, 3), (3, 3, 3, 5)],
            2 * 2 * 8 * 8 * 5 * 9 * 3,
        ),
        (
            lambda x, k: convolution(x, k, window_strides=(2, 2)),
            [(2, 8, 8, 3), (3, 3, 3, 5)],
            2 * 2 * 4 * 4 * 5 * 9 * 3,
        ),
        (lambda x, y: lax.scan(lambda c, _: (c @ y, None), x, length=6)[0], [(3, 5), (5, 5)], 6 * 2 * 3 * 25),
        (lambda x, y: jax.jit(lambda a: a @ y)(x), [(3, 5), (5, 7)], 2 * 3 * 5 * 7),
        (
            lambda x, y: lax.cond(x[0, 0] > 0, lambda: x @ y @ y, lambda: x @ y),
            [(3, 5), (5, 5)],
            2 * 2 * 3 * 25,
        ),
        (lambda x, y: [x @ y, jax.jit(lambda a, b: (a @ b, a))(x, y)[1]][1], [(3, 5), (5, 5)], 0),
    ],
    ids=["product", "batched", "elementwise", "convolution", "strided", "scan", "jit", "cond", "unused"],
)
def test_counts(function, shapes, expected):
    assert counted(function, *shapes) == expected


def test_the_gradient_of_a_strided_convolution_costs_as_much_as_the_convolution():
    kernel = jnp.ones((3, 3, 3, 5))

    def loss(x):
        return jnp.sum(convolution(x, kernel, window_strides=(2, 2)) ** 2)

    forward = counted(loss, (2, 8, 8, 3))
    both = counted(jax.value_and_grad(loss), (2, 8, 8, 3))
    assert both == pytest.approx(2 * forward, rel=0.01)
