"""The optimizer over the rows of two text encoders: one clip, an encoder that does not learn, averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chunks import chunk_arguments, chunk_of, fetched
from row_trees import ENCODER, SECOND_ENCODER, bits
from tiny_step import make_frozen, make_step_config

from ti_flax.embedding.rows import RowRules
from ti_flax.training import step as step_module
from ti_flax.training.optimizer import apply_updates, average_rows, make_optimizer, mask_rows
from ti_flax.training.state import init_state, result_rows
from ti_flax.training.step import norm_of_learning

_RNG = np.random.default_rng(0)
START = {
    ENCODER: _RNG.normal(size=(3, 4)).astype(np.float32),
    SECOND_ENCODER: _RNG.normal(size=(3, 6)).astype(np.float32),
}
# The last row was loaded to stay.
BOTH = {encoder: np.array([True, True, False]) for encoder in START}


def alone(learning):
    """What learns where the rows of one encoder do not."""
    return {encoder: learns & (encoder == learning) for encoder, learns in BOTH.items()}


def on_device(rows):
    return jax.tree.map(jnp.asarray, rows)


def gradient_of(step):
    rng = np.random.default_rng([7, step])
    return {encoder: rng.normal(size=rows.shape).astype(np.float32) for encoder, rows in START.items()}


def moved_by(optimizer, trainable, steps=1, rows=START):
    """The rows after updates with the gradients of their steps, and the state, on the host."""
    rows, state = on_device(rows), optimizer.init(on_device(rows))
    for step in range(steps):
        updates, state = optimizer.update(on_device(gradient_of(step)), state, rows)
        rows = apply_updates(rows, updates, trainable)
    return jax.device_get((rows, state))


def test_one_norm_clips_the_gradients_of_both_encoders():
    sgd = mask_rows(make_optimizer("sgd", lambda step: 1.0, max_grad_norm=0.5), BOTH)
    rows, _ = moved_by(sgd, BOTH)
    gradient = gradient_of(0)
    learning = np.concatenate([gradient[encoder][:2].ravel() for encoder in START]).astype(np.float64)
    norm = np.linalg.norm(learning)
    assert norm > 1
    for encoder, start in START.items():
        expected = start[:2] - gradient[encoder][:2] * (0.5 / norm)
        np.testing.assert_allclose(rows[encoder][:2], expected, rtol=1e-5, atol=1e-6)
        assert rows[encoder][2].tobytes() == start[2].tobytes()
    assert float(norm_of_learning(on_device(gradient), BOTH)) == pytest.approx(norm, rel=1e-6)
    one = float(norm_of_learning(on_device(gradient), alone(SECOND_ENCODER)))
    assert one == pytest.approx(np.linalg.norm(gradient[SECOND_ENCODER][:2]), rel=1e-6)


@pytest.mark.parametrize("learning", [ENCODER, SECOND_ENCODER])
def test_an_encoder_that_does_not_learn_has_no_moments_keeps_its_bits_and_clips_nothing(learning):
    trainable, (staying,) = alone(learning), [encoder for encoder in START if encoder != learning]
    inner = make_optimizer("adamw", lambda step: 0.1, arguments={"weight_decay": 0.5}, max_grad_norm=0.5)
    # A zero with a sign, which adding nothing would take from it.
    start = {encoder: np.array(rows) for encoder, rows in START.items()}
    start[staying][0, 0] = -0.0
    rows, state = moved_by(mask_rows(inner, trainable), trainable, steps=3, rows=start)
    width = START[learning].shape[1]
    assert {np.shape(leaf) for leaf in jax.tree.leaves(state)} == {(), (2, width)}
    assert rows[staying].tobytes() == start[staying].tobytes()
    only_it = {learning: START[learning]}
    expected, of_it = on_device(only_it), mask_rows(inner, {learning: trainable[learning]})
    its_state = of_it.init(expected)
    for step in range(3):
        updates, its_state = of_it.update({learning: gradient_of(step)[learning]}, its_state, expected)
        expected = apply_updates(expected, updates, {learning: trainable[learning]})
    assert rows[learning].tobytes() == np.asarray(expected[learning]).tobytes()
    assert (rows[learning][:2] != START[learning][:2]).all()


@pytest.mark.parametrize("trainable", [BOTH, alone(ENCODER), alone(SECOND_ENCODER)], ids=["both", "1", "2"])
def test_a_schedule_free_optimizer_gives_the_average_of_each_encoder(trainable):
    """With a constant rate and plain gradient steps, x is the mean of the z (arXiv:2405.15682, eq. 5)."""
    inner = make_optimizer("schedule_free_sgd", lambda step: 0.1, arguments={"b1": 0.9})
    rows, state = moved_by(mask_rows(inner, trainable), trainable, steps=6)
    found = average_rows(state, rows, trainable)
    for encoder, start in START.items():
        learns, z, passed = trainable[encoder], start.astype(np.float64), []
        for step in range(6):
            z = z - 0.1 * gradient_of(step)[encoder]
            passed.append(z)
        np.testing.assert_allclose(found[encoder][learns], np.mean(passed, axis=0)[learns], atol=1e-5)
        assert found[encoder][~learns].tobytes() == start[~learns].tobytes()
        assert not learns.any() or (found[encoder][learns] != rows[encoder][learns]).all()


def updated(config, start, steps):
    """The state after updates at a rate of 0.1, with what was measured, on the host."""
    frozen, devices = {"examples": make_frozen(config)["examples"]}, jax.devices()[:1]
    given = chunk_arguments(config, frozen, init_state(config, start), np.full(steps, 0.1), steps, devices)
    return fetched(chunk_of(config, steps, frozen, devices)(*given), devices)


@pytest.mark.parametrize("learning", [(True, True), (True, False), (False, True)])
def test_an_update_moves_just_the_rows_of_encoders_that_learn(monkeypatch, learning):
    """With half the squared distance from 1 as the loss, whose gradient is what an update is made from."""
    learning = dict(zip(START, learning, strict=True))
    trainable = {encoder: np.array([learns] * 3) for encoder, learns in learning.items()}

    def loss(rows, frozen, batch, config, class_batch):
        whole = jnp.zeros(())
        for encoder, each in rows.items():
            # The value of the square root is 0, and its slope has no end: nobody may ask for it.
            steep = jnp.sqrt(jnp.sum(each - jax.lax.stop_gradient(each)))
            whole += 0.5 * jnp.sum(jnp.square(each - 1)) if learning[encoder] else steep
        return whole

    monkeypatch.setattr(step_module, "denoising_loss", loss)
    pull = RowRules(pull=0.5, start={encoder: rows + 1 for encoder, rows in START.items()}, ema_decay=0.9)
    optimizer = lambda rate, clip: mask_rows(make_optimizer("sgd", rate), trainable)  # noqa: E731
    config = make_step_config(optimizer=optimizer, trainable=trainable, batch_size=2, rules=pull)
    state, measures = updated(config, START, 1)
    assert measures["finite"].tolist() == [1]
    gradient = {encoder: rows - 1 - 0.5 for encoder, rows in START.items() if learning[encoder]}
    norm = np.sqrt(sum(float(np.sum(np.square(each, dtype=np.float64))) for each in gradient.values()))
    assert float(measures["grad_norm"][0]) == pytest.approx(norm, rel=1e-5)
    for encoder, start in START.items():
        expected = start - 0.1 * gradient[encoder] if learning[encoder] else start
        np.testing.assert_allclose(state.rows[encoder], expected, rtol=1e-5, atol=1e-6)
        assert learning[encoder] or state.rows[encoder].tobytes() == start.tobytes()
    assert bits(result_rows(config, state)) == bits(state.mean_rows) == bits(state.rows)


def test_an_update_that_is_not_finite_in_one_encoder_is_none_in_the_other(monkeypatch):
    def loss(rows, frozen, batch, config, class_batch):
        return sum(jnp.sum(each) for each in rows.values())

    monkeypatch.setattr(step_module, "denoising_loss", loss)
    endless = {ENCODER: 0.1, SECOND_ENCODER: np.float32("inf")}
    optimizer = lambda rate, clip: mask_rows(make_optimizer("sgd", rate), BOTH)  # noqa: E731
    for skip in (False, True):
        config = make_step_config(
            optimizer=optimizer,
            trainable=BOTH,
            batch_size=2,
            rules=RowRules(norm=endless),
            skip_nonfinite=skip,
        )
        state, measures = updated(config, START, 1)
        assert measures["finite"].tolist() == [0] and int(state.step) == 1
        assert (bits(state.rows) == bits(START)) == skip
