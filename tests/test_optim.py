import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ti_flax.optim import adamw, learning_rate_schedule, mask_rows, move_rows

KINDS = ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]


@pytest.mark.parametrize("name", KINDS)
def test_schedules_are_those_of_diffusers(name):
    torch = pytest.importorskip("torch")
    from diffusers.optimization import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-3)
    reference = get_scheduler(
        name, optimizer=optimizer, num_warmup_steps=7, num_training_steps=40, num_cycles=3
    )
    expected = []
    for _ in range(41):
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    schedule = learning_rate_schedule(name, peak=5e-3, total_steps=40, warmup_steps=7, num_cycles=3)
    np.testing.assert_allclose([schedule(step) for step in range(41)], expected, rtol=1e-5, atol=1e-9)


def masked(trainable, max_grad_norm=None):
    inner = adamw(
        lambda step: 0.1, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.5, max_grad_norm=max_grad_norm
    )
    return mask_rows(inner, np.array(trainable))


def test_only_rows_that_learn_move_and_only_they_have_moments():
    trainable = np.array([True, False, True])
    optimizer = masked(trainable)
    rows = jnp.array([[1.0, 2.0], [-0.0, 3.0], [4.0, 5.0]])
    state = optimizer.init(rows)
    assert {np.shape(leaf) for leaf in jax.tree.leaves(state)} == {(), (2, 2)}
    before = np.asarray(rows).tobytes()
    updates, state = optimizer.update(jnp.ones_like(rows), state, rows)
    moved = move_rows(rows, updates, trainable)
    assert np.asarray(moved[1]).tobytes() == before[8:16]
    assert (np.asarray(moved)[[0, 2]] != np.asarray(rows)[[0, 2]]).all()


def test_clipping_does_not_see_loaded_rows():
    rows, huge = jnp.ones((2, 2)), jnp.array([[0.3, 0.4], [1e6, 1e6]])
    optimizer = masked([True, False], max_grad_norm=1.0)
    clipped, _ = optimizer.update(huge, optimizer.init(rows), rows)
    alone = masked([True], max_grad_norm=1.0)
    expected, _ = alone.update(huge[:1], alone.init(rows[:1]), rows[:1])
    np.testing.assert_array_equal(clipped[:1], expected)


def test_adamw_is_pytorchs():
    torch = pytest.importorskip("torch")
    start = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    weight = torch.nn.Parameter(torch.tensor(start))
    reference = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.5)
    optimizer = masked([True, True])
    rows, state = jnp.asarray(start), optimizer.init(jnp.asarray(start))
    for step in range(20):
        gradient = np.random.default_rng(step).normal(size=(2, 5)).astype(np.float32)
        weight.grad = torch.tensor(gradient)
        reference.step()
        updates, state = optimizer.update(jnp.asarray(gradient), state, rows)
        rows = optax.apply_updates(rows, updates)
    np.testing.assert_allclose(rows, weight.detach().numpy(), rtol=1e-4, atol=1e-5)
