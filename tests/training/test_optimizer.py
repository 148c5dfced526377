"""The optimizer over the rows: which rows it moves, every optimizer by name, what it restores."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from row_trees import bits, only, tree

from ti_flax.config.options import FINDS_ITS_RATE, SCHEDULE_FREE, OptimizerOptions
from ti_flax.config.values import options_of
from ti_flax.errors import ConfigError
from ti_flax.training.checkpoint import optimizer_leaves, restore_optimizer
from ti_flax.training.optimizer import (
    apply_updates,
    average_rows,
    make_optimizer,
    mask_rows,
    optimizer_arguments,
)

(NAMES,) = (each.choices for each in options_of(OptimizerOptions) if each.name == "optimizer")
TRAINABLE = tree(np.array([True, True, False]))
START = tree(np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32) * 0.3)


def masked(trainable, **clip):
    inner = make_optimizer("adamw", lambda step: 0.1, arguments={"weight_decay": 0.5}, **clip)
    return mask_rows(inner, tree(np.array(trainable)))


def test_only_rows_that_learn_move_and_only_they_have_moments():
    trainable = np.array([True, False, True])
    optimizer = masked(trainable)
    start = np.float32([[1.0, 2.0], [-0.0, 3.0], [4.0, 5.0]])
    rows, ones = tree(jnp.asarray(start)), tree(jnp.ones((3, 2)))
    state = optimizer.init(rows)
    assert {np.shape(leaf) for leaf in jax.tree.leaves(state)} == {(), (2, 2)}
    updates, state = optimizer.update(ones, state, rows)
    moved = np.asarray(only(apply_updates(rows, updates, tree(trainable))))
    assert moved[1].tobytes() == start[1].tobytes()
    assert (moved[[0, 2]] != start[[0, 2]]).all()


@pytest.mark.parametrize("clip", [{"max_grad_norm": 1.0}, {"clip_value": 0.2}])
def test_clipping_does_not_see_loaded_rows(clip):
    rows, huge = tree(jnp.ones((2, 2))), jnp.array([[0.3, 0.4], [1e6, 1e6]])
    optimizer = masked([True, False], **clip)
    clipped, _ = optimizer.update(tree(huge), optimizer.init(rows), rows)
    alone, first = masked([True], **clip), tree(jnp.ones((1, 2)))
    expected, _ = alone.update(tree(huge[:1]), alone.init(first), first)
    np.testing.assert_array_equal(only(clipped)[:1], only(expected))


def test_gradients_are_clipped_by_norm_or_number_by_number():
    gradient = jnp.array([[3.0, 4.0, -0.1]])
    for clip, expected in [
        ({"clip_value": 0.5}, [[0.5, 0.5, -0.1]]),
        ({"max_grad_norm": 1.0}, gradient / jnp.linalg.norm(gradient)),
    ]:
        optimizer = make_optimizer("sgd", lambda step: 1.0, **clip)
        moved, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
        np.testing.assert_allclose(moved, -jnp.asarray(expected), rtol=1e-6)


def test_adamw_is_pytorchs():
    torch = pytest.importorskip("torch")
    start = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    weight = torch.nn.Parameter(torch.tensor(start))
    reference = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.5)
    optimizer = masked([True, True])
    rows = tree(jnp.asarray(start))
    state = optimizer.init(rows)
    for step in range(20):
        gradient = np.random.default_rng(step).normal(size=(2, 5)).astype(np.float32)
        weight.grad = torch.tensor(gradient)
        reference.step()
        updates, state = optimizer.update(tree(jnp.asarray(gradient)), state, rows)
        rows = optax.apply_updates(rows, updates)
    np.testing.assert_allclose(only(rows), weight.detach().numpy(), rtol=1e-4, atol=1e-5)


def warming(name):
    """A rate that begins at 0, as a warm-up does."""
    peak = 1.0 if name in FINDS_ITS_RATE else 1e-2
    return lambda step: peak * jnp.minimum(1.0, step / 3)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_moves_the_rows_that_learn_and_goes_on_from_a_checkpoint(name, tmp_path):
    optimizer = mask_rows(make_optimizer(name, warming(name)), TRAINABLE)

    @jax.jit
    def run(rows, state, steps):
        def body(_, carry):  # a loop on the device, whose carry must keep its types
            rows, state = carry
            updates, state = optimizer.update(tree(only(rows) - 1.0), state, rows)
            return apply_updates(rows, updates, TRAINABLE), state

        return jax.lax.fori_loop(0, steps, body, (rows, state))

    fresh, start = jax.device_get(optimizer.init(jax.tree.map(jnp.asarray, START))), only(START)
    whole, state = jax.device_get(run(START, fresh, 12))
    found = only(whole)
    assert np.isfinite(found).all() and (found[:2] != start[:2]).any()
    assert found[2].tobytes() == start[2].tobytes()
    half, half_state = jax.device_get(run(START, fresh, 5))
    restored = restore_optimizer(fresh, optimizer_leaves(half_state), tmp_path)
    again, again_state = jax.device_get(run(half, restored, 7))
    assert bits(again) == bits(whole)
    for leaf, wanted in zip(jax.tree.leaves(again_state), jax.tree.leaves(state), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(wanted).tobytes()
    used = average_rows(state, whole, TRAINABLE)
    assert only(used)[2].tobytes() == start[2].tobytes()
    assert (bits(used) != bits(whole)) == (name in SCHEDULE_FREE)


def test_a_schedule_free_optimizer_gives_the_average_of_its_steps():
    """With a constant rate and plain gradient steps, x is the mean of the z (arXiv:2405.15682, eq. 5)."""
    optimizer = mask_rows(
        make_optimizer("schedule_free_sgd", lambda step: 0.1, arguments={"b1": 0.9}), TRAINABLE
    )
    rows = jax.tree.map(jnp.asarray, START)
    state, z, passed = optimizer.init(rows), only(START)[:2].astype(np.float64), []
    for step in range(6):
        gradient = np.random.default_rng(step).normal(size=(3, 6)).astype(np.float32)
        updates, state = optimizer.update(tree(jnp.asarray(gradient)), state, rows)
        rows = apply_updates(rows, updates, TRAINABLE)
        z = z - 0.1 * gradient[:2]
        passed.append(z)
    found = average_rows(jax.device_get(state), jax.device_get(rows), TRAINABLE)
    np.testing.assert_allclose(only(found)[:2], np.mean(passed, axis=0), atol=1e-5)


def test_the_checkpoint_of_another_optimizer_is_refused(tmp_path):
    from ti_flax.errors import CheckpointError

    states = [
        mask_rows(make_optimizer(name, lambda step: 0.1), TRAINABLE).init(START) for name in ("adamw", "lion")
    ]
    with pytest.raises(CheckpointError, match="optimizer settings that the checkpoint was made with"):
        restore_optimizer(states[0], optimizer_leaves(states[1]), tmp_path)


def test_arguments_have_optaxs_names_or_kohyas():
    assert optimizer_arguments("lion", ["b1=0.8", "weight_decay=0"]) == {"b1": 0.8, "weight_decay": 0.0}
    assert optimizer_arguments("adamw", ["betas=0.8,0.95"]) == {"b1": 0.8, "b2": 0.95}
    given = ["betas=(0.9, 0.99)", "d_coef=2", "safeguard_warmup=True", "beta3=none"]
    expected = {"betas": (0.9, 0.99), "estim_lr_coef": 2.0, "safeguard_warmup": True, "beta3": None}
    assert optimizer_arguments("prodigy", given) == expected
    assert optimizer_arguments("sgd", ["momentum = 0.9", "nesterov=true"]) == {
        "momentum": 0.9,
        "nesterov": True,
    }


def test_arguments_change_the_updates():
    moved = []
    for arguments in ({}, optimizer_arguments("sgd", ["momentum=0.9"])):
        optimizer = make_optimizer("sgd", lambda step: 0.1, arguments=arguments)
        rows = start = jnp.asarray(only(START))
        state = optimizer.init(rows)
        for _ in range(3):
            updates, state = optimizer.update(jnp.ones_like(rows), state, rows)
            rows = rows + updates
        moved.append(np.asarray(start - rows))
    np.testing.assert_allclose(moved[0], 0.3, rtol=1e-5)
    np.testing.assert_allclose(moved[1], 0.1 * (1 + 1.9 + 2.71), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("lion", "b3=1", "optimizer_args 'b3=1': expected an option of lion: b1, b2, weight_decay, found b3"),
        ("sign_sgd", "b1=1", "expected an option of sign_sgd: it has none, found b1"),
        ("adamw", "learning_rate=1", "expected an option of adamw: .*, found learning_rate"),
        ("adamw", "b1", "expected NAME=VALUE, found no equals sign"),
        ("adamw", "b1=fast", "optimizer_args 'b1=fast': expected a number, found fast"),
        ("adamw", "b1=nan", "expected a number, found nan"),
        ("adamw", "nesterov=1", "expected true or false, found 1"),
        ("adafactor", "min_dim_size_to_factor=1.5", "expected a whole number, found 1.5"),
        ("prodigy", "betas=0.9", "expected 2 numbers with commas, found 0.9"),
        ("lion", "betas=0.9", "expected 2 numbers, found 0.9"),
        ("muon", "preconditioning=none", "optimizer_args of muon: expected values that optax takes, found"),
    ],
)
def test_arguments_that_there_are_not(name, given, message):
    with pytest.raises(ConfigError, match=message):
        optimizer_arguments(name, [given])


def test_an_argument_is_given_once():
    with pytest.raises(ConfigError, match="'betas=0.8,0.9': expected b1 to be given once"):
        optimizer_arguments("lion", ["b1=0.9", "betas=0.8,0.9"])
