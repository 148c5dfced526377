"""Learning rates by step: diffusers', transformers', the Web UI's."""

import numpy as np
import pytest

from ti_flax.config.stepped_values import parse_steps
from ti_flax.training.learning_rate import Shape, learning_rate_schedule, rate_of_step, stepped_schedule

KINDS = ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]


def reference(get_scheduler, name, steps=41, **options):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-3)
    scheduler = get_scheduler(name, optimizer=optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def ours(name, steps=41, **options):
    shape = Shape(name=name, **{"total_steps": 40, "warmup_steps": 7} | options)
    schedule = learning_rate_schedule(shape, peak=5e-3)
    rates = np.asarray(schedule(np.arange(steps)))
    np.testing.assert_allclose(schedule(20), rates[20], rtol=1e-6)
    return rates


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_schedules_are_those_of_diffusers(name):
    from diffusers.optimization import get_scheduler

    expected = reference(get_scheduler, name, num_warmup_steps=7, num_training_steps=40, num_cycles=3)
    close(ours(name, num_cycles=3), expected)


def test_the_power_of_polynomial_is_that_of_diffusers():
    from diffusers.optimization import get_scheduler

    options = {"num_warmup_steps": 7, "num_training_steps": 40, "power": 2.5}
    close(ours("polynomial", power=2.5), reference(get_scheduler, "polynomial", **options))


def test_step_rules_are_those_of_diffusers():
    from diffusers.optimization import get_scheduler

    rules = "1:10,0.1:20,0.01:30,0.005"
    close(
        ours("piecewise_constant", step_rules=rules),
        reference(get_scheduler, "piecewise_constant", step_rules=rules),
    )


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("inverse_sqrt", {}, {}),
        ("inverse_sqrt", {"timescale": 15}, {"timescale": 15}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.2}, {"min_ratio": 0.2}),
        ("warmup_stable_decay", {"num_decay_steps": 9}, {"decay_steps": 9}),
        ("warmup_stable_decay", {"num_decay_steps": 4}, {}),
    ],
)
def test_schedules_that_diffusers_lacks_are_those_of_transformers(name, theirs, options):
    pytest.importorskip("torch")
    from transformers.optimization import get_scheduler

    steps = {"num_warmup_steps": 7, "num_training_steps": 40}
    close(ours(name, **options), reference(get_scheduler, name, scheduler_specific_kwargs=theirs, **steps))


def test_rates_that_end_above_zero():
    assert ours("warmup_stable_decay", min_ratio=0.25, decay_steps=10)[40] == pytest.approx(0.25 * 5e-3)
    assert ours("warmup_stable_decay", min_ratio=0.25, decay_steps=10)[30] == pytest.approx(5e-3)
    assert ours("rex", min_ratio=0.1)[40] == pytest.approx(0.1 * 5e-3)


def test_rex_is_the_papers():
    rates = ours("rex", warmup_steps=0)
    left = 1 - np.arange(41) / 40  # arXiv:2107.04197: (1 - t / T) / (1 / 2 + 1 / 2 (1 - t / T))
    close(rates, 5e-3 * left / (0.5 + 0.5 * left))


def test_a_stepped_rate_holds_up_to_and_with_its_step():
    schedule = stepped_schedule("0.05:50, 0.01:100, 0.005", factor=2)
    rates = np.asarray(schedule(np.arange(200)))  # index 49 is step 50
    np.testing.assert_array_equal(rates[[0, 49]], np.float32([0.1, 0.1]))
    np.testing.assert_array_equal(rates[[50, 99]], np.float32([0.02, 0.02]))
    np.testing.assert_array_equal(rates[[100, 199]], np.float32([0.01, 0.01]))


def test_the_last_rate_may_name_the_end():
    for text in ("0.1:10, 0.2:-1", "0.1:10,0.2:40", "0.1:10, 0.2,"):
        rates = np.asarray(stepped_schedule(text)(np.arange(40)))
        np.testing.assert_array_equal(rates, np.float32([0.1] * 10 + [0.2] * 30))
    assert float(stepped_schedule("0.1:-1")(5)) == np.float32(0.1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0.05:50, 0.01:20", "Steps must rise, and '0.01:20' does not go beyond 50"),
        ("0.05, 0.01:20", "Only the last number may do without a step, not '0.05'"),
        ("0.05:-1, 0.01:20", "Only the last number may do without a step, not '0.05:-1'"),
        ("0.05:x, 0.01", "After the colon of '0.05:x' belongs a whole number of steps"),
        ("0.05:0, 0.01", "Steps must rise, and '0.05:0' does not go beyond 0"),
        ("fast:5, 0.01", "'fast:5' does not begin with a number"),
        (",", "It holds no number"),
    ],
)
def test_stepped_rates_that_make_no_sense(text, problem):
    with pytest.raises(ValueError, match=f"^{problem}$"):
        parse_steps(text)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "polynomial", "inverse_sqrt", "rex"])
@pytest.mark.parametrize("total", [6, 5000])
def test_the_rate_of_a_step_has_the_bits_of_a_table_of_all(name, total):
    schedule = learning_rate_schedule(Shape(name=name, total_steps=total, warmup_steps=2), peak=1e-2)
    rates, rate = np.asarray(schedule(np.arange(total))), rate_of_step(schedule, total)
    found = np.asarray([rate(step) for step in range(total)], np.float32)
    assert found.tobytes() == rates.astype(np.float32).tobytes()


def test_the_rate_of_a_step_of_the_longest_run_takes_little_memory():
    sizes = []

    def schedule(steps):
        sizes.append(len(steps))
        return np.asarray(steps, np.float64)

    total = 2**31 - 1
    rate = rate_of_step(schedule, total)
    assert [rate(step) for step in (0, 5, total - 1)] == [0, 5, total - 1]
    assert len(sizes) == 2 and max(sizes) <= 1 << 16
    stepped = rate_of_step(stepped_schedule("0.5:2147483646, 0.25"), total)
    assert [stepped(total - 2), stepped(total - 1)] == [0.5, 0.25]
