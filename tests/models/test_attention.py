"""Every implementation of attention against the formula, in values and gradients, and which one is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from ti_flax.models.attention import Attention, blockwise_attention, plain_attention


def inputs(tokens, context_tokens, *, heads=3, width=8, batch=2, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(batch, count, heads, width) for count in (tokens, context_tokens, context_tokens)]
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def with_gradients(attention, parts):
    """The result and its gradients by query, key and value, all in float32."""

    def loss(query, key, value):
        mixed = attention(query, key, value).astype(jnp.float32)
        return jnp.sum(mixed * jnp.cos(jnp.arange(mixed.size, dtype=jnp.float32)).reshape(mixed.shape)), mixed

    gradients, mixed = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*parts)
    return [np.asarray(x, np.float32) for x in (mixed, *gradients)]


def assert_equal_to_plain(attention, parts, *, atol):
    for found, expected in zip(with_gradients(attention, parts), with_gradients(plain_attention, parts)):
        np.testing.assert_allclose(found, expected, atol=atol)


@pytest.mark.parametrize(("tokens", "context_tokens"), [(64, 64), (60, 77), (1, 1), (35, 12)])
@pytest.mark.parametrize("block", [1, 700, 64 * 64, 10**6], ids=["query", "rows", "head", "all"])
def test_blockwise(tokens, context_tokens, block):
    parts = inputs(tokens, context_tokens)
    assert_equal_to_plain(lambda *x: blockwise_attention(*x, block), parts, atol=2e-6)


def test_blockwise_in_bfloat16():
    parts = inputs(64, 64, dtype=jnp.bfloat16)
    exact = with_gradients(plain_attention, [x.astype(jnp.float32) for x in parts])
    found = with_gradients(lambda *x: blockwise_attention(*x, 1000), parts)
    plain = with_gradients(plain_attention, parts)
    for ours, theirs, truth in zip(found, plain, exact):
        assert np.abs(ours - truth).max() <= 1.5 * np.abs(theirs - truth).max() + 1e-3


def test_blockwise_does_not_overflow():
    parts = [100 * x for x in inputs(40, 40)]
    found = with_gradients(lambda *x: blockwise_attention(*x, 400), parts)
    assert all(np.isfinite(x).all() for x in found)
    np.testing.assert_allclose(found[0], plain_attention(*parts), atol=1e-4)


def largest_array(jaxpr):
    """Elements of the largest array that a program makes, loops included."""
    sizes = [np.prod(var.aval.shape, dtype=int) for eqn in jaxpr.eqns for var in eqn.outvars]
    inner = [sub for eqn in jaxpr.eqns for sub in jaxprs_in_params(eqn.params)]
    return max(sizes + [largest_array(sub) for sub in inner], default=0)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_4096_tokens_never_make_a_whole_matrix(platform):
    parts = [jax.ShapeDtypeStruct((2, 4096, 8, 40), jnp.float32)] * 3
    attention = Attention(platform=platform)
    assert attention.chosen(*parts[:2]) == ("flash" if platform == "tpu" else "blockwise")
    program = jax.make_jaxpr(jax.grad(lambda *x: attention(*x).sum(), argnums=(0, 1, 2)))(*parts)
    # JAX's Pallas kernel gives the sum of each query's exponentials once for every lane.
    allowed = 2 * 8 * 4096 * 128 if platform == "tpu" else 4096 * 4096 / 2
    assert largest_array(program.jaxpr) <= allowed


@pytest.mark.parametrize("causal", [False, True])
def test_cudnn_is_given_heads_of_a_width_it_takes(monkeypatch, causal):
    asked = {}
    original = jax.nn.dot_product_attention

    def stand_in(query, key, value, *, implementation, **options):
        asked.update(implementation=implementation, width=query.shape[-1])
        return original(query, key, value, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    monkeypatch.setattr("ti_flax.models.attention._cudnn_width", lambda: 256)
    parts = inputs(16, 16, width=20, dtype=jnp.bfloat16)
    found = Attention(platform="gpu")(*parts, causal=causal)
    assert asked == {"implementation": "cudnn", "width": 24} and found.shape == parts[0].shape
    expected = plain_attention(*[x.astype(jnp.float32) for x in parts], causal=causal)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.03)


@pytest.mark.parametrize(("kept_keys", "heads"), [(128, 1), (256, 2)])
def test_flash_by_the_interpreter(monkeypatch, kept_keys, heads):
    from jax.experimental.pallas import tpu

    monkeypatch.setattr("ti_flax.models.attention._TPU_BLOCK", 128)  # two blocks of both
    monkeypatch.setattr("ti_flax.models.attention._TPU_BACKWARD_BYTES", kept_keys * 4 * 128)
    parts = inputs(256, 256, width=40, heads=heads, batch=2)
    upstream = np.random.default_rng(1).normal(size=parts[0].shape).astype(np.float32)

    def gradients(attention):
        return jax.grad(lambda *x: jnp.sum(attention(*x) * upstream), argnums=(0, 1, 2))(*parts)

    flash = Attention("flash", platform="tpu")
    with tpu.force_tpu_interpret_mode():
        found, slopes = flash(*parts), gradients(flash)
    np.testing.assert_allclose(found, plain_attention(*parts), atol=1e-5)
    for slope, expected in zip(slopes, gradients(plain_attention), strict=True):
        np.testing.assert_allclose(slope, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "dtype", "tokens", "context", "width", "expected"),
    [
        ("cpu", "float32", 1024, 1024, 8, "blockwise"),
        ("cpu", "bfloat16", 64, 77, 40, "plain"),
        ("gpu", "bfloat16", 4096, 4096, 40, "cudnn"),
        ("gpu", "bfloat16", 64, 77, 160, "cudnn"),
        ("gpu", "bfloat16", 4096, 4096, 512, "blockwise"),
        ("gpu", "float32", 1024, 1024, 80, "plain"),
        ("gpu", "float32", 4096, 4096, 40, "blockwise"),
        ("tpu", "bfloat16", 4096, 4096, 40, "flash"),
        ("tpu", "bfloat16", 1024, 1024, 80, "flash"),
        ("tpu", "bfloat16", 256, 256, 160, "plain"),
        ("tpu", "bfloat16", 4096, 77, 40, "plain"),
        ("tpu", "float32", 4032, 4032, 40, "blockwise"),
    ],
)
def test_the_choice(monkeypatch, platform, dtype, tokens, context, width, expected):
    monkeypatch.setattr("ti_flax.models.attention._cudnn_width", lambda: 256)
    query = jax.ShapeDtypeStruct((2, tokens, 8, width), dtype)
    key = jax.ShapeDtypeStruct((2, context, 8, width), dtype)
    assert Attention(platform=platform).chosen(query, key) == expected


def test_a_choice_that_cannot_compute_a_shape_gives_way():
    query = jax.ShapeDtypeStruct((1, 77, 8, 64), jnp.float32)
    assert Attention("blockwise").chosen(query, query, causal=True) == "plain"
    assert Attention("plain").chosen(query, query, causal=True) == "plain"
    assert Attention("blockwise").chosen(query, query) == "blockwise"
