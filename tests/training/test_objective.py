"""Losses and weights of timesteps against formulas in float64 NumPy, written here anew."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ti_flax.config.options import LossOptions
from ti_flax.errors import ConfigError
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.training.objective import Objective

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
# The clean end, where the ratio is above 1000, both sides of every bound, and the end that may be pure noise.
TIMESTEPS = np.array([0, 1, 40, 250, 600, 998, 999])
RNG = np.random.default_rng(0)
PREDICTED, TARGET = RNG.normal(size=(2, len(TIMESTEPS), 3, 5, 4)).astype(np.float32)
TARGET[:, 0] = PREDICTED[:, 0]
TARGET[:, 1] = PREDICTED[:, 1] + 1e-3


def schedule_of(prediction_type="epsilon", zero_snr=False):
    return NoiseSchedule.from_config(
        SCALED | {"prediction_type": prediction_type, "rescale_betas_zero_snr": zero_snr}
    )


def error_of(schedule, **options):
    objective = Objective.from_options(LossOptions(**options), schedule)
    return np.asarray(objective.error(jnp.asarray(PREDICTED), jnp.asarray(TARGET), jnp.asarray(TIMESTEPS)))


def ratios(schedule):
    abar = schedule.alphas_cumprod.astype(np.float64)[TIMESTEPS]
    return abar, abar / (1 - abar)


SQUARED = (PREDICTED.astype(np.float64) - TARGET) ** 2


def test_the_default_is_the_plain_square():
    difference = jnp.asarray(PREDICTED) - jnp.asarray(TARGET)
    assert error_of(schedule_of()).tobytes() == np.asarray(jnp.square(difference)).tobytes()


@pytest.mark.parametrize("huber_schedule", [None, "constant", "exponential", "snr"])
@pytest.mark.parametrize("huber_c", [None, 0.03])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_huber_and_smooth_l1(huber_schedule, huber_c, zero_snr):
    schedule = schedule_of("v_prediction", zero_snr)
    smallest = 0.1 if huber_c is None else huber_c
    abar, _ = ratios(schedule)
    with np.errstate(divide="ignore"):
        sigma = np.sqrt((1 - abar) / abar)
    c = {
        "constant": np.full(len(TIMESTEPS), smallest),
        "exponential": np.exp(np.log(smallest) / 1000 * TIMESTEPS),
        "snr": (1 - smallest) / (1 + sigma) ** 2 + smallest,
    }[huber_schedule or "snr"][:, None, None, None]
    pseudo = 2 * (np.sqrt(SQUARED + c**2) - c)
    given = {"huber_c": huber_c, "huber_schedule": huber_schedule}
    huber = error_of(schedule, loss_type="huber", **given)
    np.testing.assert_allclose(huber, c * pseudo, rtol=2e-5, atol=1e-12)
    smooth = error_of(schedule, loss_type="smooth_l1", **given)
    np.testing.assert_allclose(smooth, pseudo, rtol=2e-5, atol=1e-12)


def test_l1():
    np.testing.assert_allclose(error_of(schedule_of(), loss_type="l1"), np.sqrt(SQUARED), rtol=1e-6)


def check_weights(schedule, expected, **options):
    expected = expected[:, None, None, None] * SQUARED
    np.testing.assert_allclose(error_of(schedule, **options), expected, rtol=2e-5, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr(gamma):
    for prediction_type, shift in (("epsilon", 0), ("v_prediction", 1)):
        schedule = schedule_of(prediction_type)
        _, snr = ratios(schedule)
        check_weights(schedule, np.minimum(snr, gamma) / (snr + shift), snr_gamma=gamma)


def test_min_snr_of_pure_noise_is_the_limit():
    for prediction_type, expected in (("epsilon", 1.0), ("v_prediction", 0.0)):
        schedule = schedule_of(prediction_type, zero_snr=True)
        assert schedule.alphas_cumprod[-1] == 0
        weights = Objective.from_options(LossOptions(snr_gamma=5.0), schedule).weights
        assert np.isfinite(weights).all() and weights[-1] == expected
        np.testing.assert_allclose(weights[-2], expected, atol=1e-4)


def test_debiased_estimation_is_bounded_at_the_clean_end():
    schedule = schedule_of()
    _, snr = ratios(schedule)
    assert snr[0] > 1000
    expected = 1 / np.sqrt(np.minimum(snr, 1000))
    check_weights(schedule, expected, debiased_estimation_loss=True)
    for zero_snr in (False, True):
        schedule = schedule_of("v_prediction", zero_snr)
        expected = 1 / (np.minimum(ratios(schedule)[1], 1000) + 1)
        check_weights(schedule, expected, debiased_estimation_loss=True)


def test_a_loss_like_that_of_the_other_prediction_type():
    for zero_snr in (False, True):
        schedule = schedule_of("v_prediction", zero_snr)
        s = np.minimum(ratios(schedule)[1], 1000)
        check_weights(schedule, s / (s + 1), scale_v_pred_loss_like_noise_pred=True)
    schedule = schedule_of()
    s = np.minimum(ratios(schedule)[1], 1000)
    check_weights(schedule, 1 + 0.3 * (s + 1) / s, v_pred_like_loss=0.3)


def test_weights_multiply_one_another_and_any_measure():
    schedule = schedule_of("v_prediction")
    abar, snr = ratios(schedule)
    s = np.minimum(snr, 1000)
    weights = np.minimum(snr, 5) / (snr + 1) * s / (s + 1)
    found = error_of(schedule, snr_gamma=5.0, scale_v_pred_loss_like_noise_pred=True, loss_type="l1")
    np.testing.assert_allclose(found, weights[:, None, None, None] * np.sqrt(SQUARED), rtol=2e-5)


@pytest.mark.parametrize(
    ("prediction_type", "options", "message"),
    [
        (
            "epsilon",
            {"scale_v_pred_loss_like_noise_pred": True},
            "scale_v_pred_loss_like_noise_pred: expected a model with prediction_type v_prediction, found "
            "prediction_type epsilon. Leave scale_v_pred_loss_like_noise_pred out.",
        ),
        (
            "v_prediction",
            {"v_pred_like_loss": 0.5},
            "v_pred_like_loss: expected a model with prediction_type epsilon, found prediction_type "
            "v_prediction. Leave v_pred_like_loss out.",
        ),
        (
            "epsilon",
            {"debiased_estimation_loss": True},
            "debiased_estimation_loss: expected a noise schedule that leaves some of the image at every "
            "timestep, found one that ends in pure noise, which would count infinitely. Set max_timestep to "
            "999, or leave debiased_estimation_loss out.",
        ),
    ],
)
def test_options_that_do_not_fit_the_model(prediction_type, options, message):
    schedule = schedule_of(prediction_type, zero_snr=True)
    with pytest.raises(ConfigError) as caught:
        Objective.from_options(LossOptions(**options), schedule)
    assert str(caught.value) == message


def test_pure_noise_that_is_not_trained_does_not_count():
    options = LossOptions(debiased_estimation_loss=True, max_timestep=999)
    weights = Objective.from_options(options, schedule_of(zero_snr=True)).weights
    assert np.isfinite(weights[:999]).all()


def test_every_measure_has_a_gradient_where_nothing_is_wrong():
    schedule = schedule_of(zero_snr=True)
    for loss_type in ("l2", "l1", "huber", "smooth_l1"):
        objective = Objective.from_options(LossOptions(loss_type=loss_type, snr_gamma=5.0), schedule)
        gradient = jax.grad(lambda x, o=objective: o.error(x, 0 * x, jnp.asarray(TIMESTEPS)).sum())
        assert np.isfinite(gradient(jnp.zeros(PREDICTED.shape))).all()


def test_the_clean_end_of_a_schedule_without_noise_is_finite():
    schedule = dataclasses.replace(schedule_of(), alphas_cumprod=np.array([1.0, 0.5], np.float32))
    for option in ({"snr_gamma": 5.0}, {"debiased_estimation_loss": True}, {"v_pred_like_loss": 1.0}):
        assert np.isfinite(Objective.from_options(LossOptions(**option), schedule).weights).all()
