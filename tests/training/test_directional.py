"""The optimizer that learns directions alone: the paper's steps on the sphere, and what it leaves alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from row_trees import ENCODER, SECOND_ENCODER, bits
from tiny_step import make_step_config

from ti_flax.config.options import OptimizerOptions
from ti_flax.embedding.rows import AddedRows
from ti_flax.errors import TokenError
from ti_flax.training.optimizer import make_optimizer, mask_rows
from ti_flax.training.settings import row_rules
from ti_flax.training.state import init_state
from ti_flax.training.step import apply_update

NORMS = {ENCODER: 0.4, SECOND_ENCODER: 1.7}
WIDTHS = {ENCODER: 24, SECOND_ENCODER: 40}
RATE, KAPPA = 0.05, 0.3
_RNG = np.random.default_rng(0)
GIVEN = {encoder: _RNG.normal(size=(3, width)).astype(np.float32) for encoder, width in WIDTHS.items()}
# The last row was loaded to stay, with a zero whose sign adding nothing would take from it.
for _rows in GIVEN.values():
    _rows[2, 0] = -0.0
LEARNS = {encoder: np.array([True, True, False]) for encoder in GIVEN}
ADDED = AddedRows(GIVEN, LEARNS, NORMS, dict.fromkeys(GIVEN, 9.0)).on_sphere()


def directional(added=ADDED, kappa=KAPPA, **changes):
    """A step's fixed parts with this optimizer."""
    options = OptimizerOptions(optimizer="directional", directional_kappa=kappa, **changes)
    optimizer = lambda rate, clip: mask_rows(make_optimizer("directional", rate), added.trainable)  # noqa: E731
    config = make_step_config(optimizer=optimizer, trainable=added.trainable)
    return dataclasses.replace(config, rules=row_rules(options, added))


def gradient_of(step):
    """Of every row, and at some steps zeros of the first one, as where no prompt names it."""
    rng = np.random.default_rng([5, step])
    found = {encoder: rng.normal(size=rows.shape).astype(np.float32) for encoder, rows in GIVEN.items()}
    for rows in found.values():
        rows[0] *= step % 4 != 3
    return found


def moved(config, steps, added=ADDED, gradient=gradient_of):
    """The states after each update."""
    update = jax.jit(lambda state, gradient: apply_update(config, state, gradient, jnp.float32(RATE)))
    state, states = init_state(config, added.start), []
    for step in range(steps):
        state = update(state, jax.tree.map(jnp.asarray, gradient(step)))
        states.append(jax.device_get(state))
    return states


def by_the_paper(step, v, mu, norm, gradient, kappa):
    """The direction after an update, of a word whose row is norm x v: arXiv:2512.13672, in float64."""
    if not gradient.any():
        return v
    euclidean = norm * gradient.astype(np.float64) - kappa * mu  # by v; the prior is kappa x mu'v
    on_sphere = euclidean - (euclidean @ v) * v
    ahead = v - RATE * on_sphere / np.linalg.norm(on_sphere)
    return ahead / np.linalg.norm(ahead)


@pytest.mark.parametrize("kappa", [0.0, KAPPA])
def test_rows_of_both_encoders_take_the_papers_steps(kappa):
    states = moved(directional(kappa=kappa), 12)
    for encoder, given in GIVEN.items():
        for row in (0, 1):
            mu = given[row].astype(np.float64) / np.linalg.norm(given[row])
            v = mu
            for step, state in enumerate(states):
                v = by_the_paper(step, v, mu, NORMS[encoder], gradient_of(step)[encoder][row], kappa)
                np.testing.assert_allclose(state.rows[encoder][row], NORMS[encoder] * v, atol=1e-6)
        assert all(state.rows[encoder][2].tobytes() == given[2].tobytes() for state in states)


def test_the_prior_keeps_directions_near_their_start():
    ends = [moved(directional(kappa=kappa), 40)[-1].rows for kappa in (0.0, KAPPA)]
    for encoder, start in ADDED.start.items():
        free, held = (np.sum(rows[encoder][:2] * start[:2], axis=1) for rows in ends)
        assert (held > free).all()


def test_norms_stay_what_they_are_over_many_updates():
    norms = [
        np.linalg.norm(state.rows[encoder][:2].astype(np.float64), axis=1) / NORMS[encoder]
        for state in moved(directional(), 50)
        for encoder in GIVEN
    ]
    np.testing.assert_allclose(norms, 1, rtol=3e-7)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_every_update_turns_a_row_by_the_same_angle_whatever_its_gradient(size):
    gradient = lambda step: jax.tree.map(lambda rows: rows * np.float32(size), gradient_of(step))  # noqa: E731
    [state] = moved(directional(kappa=0.0), 1, gradient=gradient)
    for encoder, start in ADDED.start.items():
        cosines = np.sum(state.rows[encoder] * start, axis=1)[:2] / NORMS[encoder] ** 2
        np.testing.assert_allclose(np.arccos(cosines), np.arctan(RATE), rtol=1e-3)


def test_rows_without_a_gradient_stay_where_they_are():
    """Also those of zeros, which a slot with fewer vectors than others has."""
    start = {encoder: np.where([[True], [False], [True]], rows, 0) for encoder, rows in ADDED.start.items()}
    added = dataclasses.replace(ADDED, start=start)
    nothing = lambda step: jax.tree.map(np.zeros_like, GIVEN)  # noqa: E731
    config = directional(added, use_ema=True)
    state = moved(config, 5, added, nothing)[-1]
    for encoder, rows in start.items():
        for found in (state.rows[encoder], state.mean_rows[encoder]):
            np.testing.assert_allclose(found, rows, rtol=3e-7)
            assert not found[1].any()
    assert bits(config.rules.start) == bits(start)


def test_the_average_of_directions_lies_on_the_sphere():
    for state in moved(directional(use_ema=True, ema_decay=0.5), 6)[1:]:
        for encoder, mean in state.mean_rows.items():
            np.testing.assert_allclose(np.linalg.norm(mean[:2], axis=1), NORMS[encoder], rtol=1e-6)
            assert (mean[1] != state.rows[encoder][1]).any()
            assert mean[2].tobytes() == GIVEN[encoder][2].tobytes()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_gives_rows_that_are_not(wrong):
    """The update is then left out, or ends the run."""
    gradient = lambda step: jax.tree.map(lambda rows: np.full_like(rows, wrong), GIVEN)  # noqa: E731
    [state] = moved(directional(), 1, gradient=gradient)
    assert not any(np.isfinite(rows[:2]).any() for rows in state.rows.values())
    assert all(rows[2].tobytes() == GIVEN[encoder][2].tobytes() for encoder, rows in state.rows.items())


def test_the_start_is_put_on_the_sphere_row_by_row():
    for encoder, rows in ADDED.start.items():
        np.testing.assert_allclose(np.linalg.norm(rows[:2], axis=1), NORMS[encoder], rtol=1e-6)
        cosines = np.sum(rows * GIVEN[encoder], axis=1) / np.linalg.norm(GIVEN[encoder], axis=1)
        np.testing.assert_allclose(cosines[:2], NORMS[encoder], rtol=1e-6)
        assert rows.dtype == np.float32 and rows[2].tobytes() == GIVEN[encoder][2].tobytes()
    silent = {encoder: np.zeros_like(rows) for encoder, rows in GIVEN.items()}
    with pytest.raises(TokenError, match="expected start vectors with a direction, found a vector of zeros"):
        dataclasses.replace(ADDED, start=silent).on_sphere()
    nobody = {encoder: np.zeros(3, bool) for encoder in GIVEN}
    assert bits(dataclasses.replace(ADDED, start=silent, trainable=nobody).on_sphere().start) == bits(silent)
