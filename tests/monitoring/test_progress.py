import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from progress import run_updates, warmup_cosine


@jax.jit
def update(state, step):
    value, count = state
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), value.shape)
    return (value * 0.9 + noise, count + 1), jnp.sum(value)


def run(file, steps, update=update):
    return timed(file, steps, update)[0]


def timed(file, steps, update=update):
    start = (jnp.zeros(3), jnp.zeros((), jnp.int32))
    return run_updates(update, start, steps=steps, file=file, save_every=0.0, name="test")


def test_going_on_gives_the_bits_of_never_stopping(tmp_path):
    whole, count = run(tmp_path / "whole.msgpack", 12)
    assert count == 12

    def stops(state, step):
        if step == 7:
            raise KeyboardInterrupt
        return update(state, step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state.msgpack", 12, stops)
    resumed, count = run(tmp_path / "state.msgpack", 12)
    assert count == 12 and resumed.tobytes() == whole.tobytes()
    assert {path.name for path in tmp_path.iterdir()} == {"whole.msgpack", "state.msgpack"}


def test_a_finished_stage_is_not_run_again(tmp_path):
    first, _ = run(tmp_path / "state.msgpack", 5)

    def never(state, step):
        raise AssertionError

    again, _ = run(tmp_path / "state.msgpack", 5, never)
    assert first.tobytes() == again.tobytes()


def test_the_rate_rises_and_falls():
    rates = np.array([warmup_cosine(1e-3, 100)(step) for step in range(101)])
    assert rates[0] == 0 and rates.argmax() == 2 and rates[-1] == pytest.approx(1e-6)
    assert (np.diff(rates[3:]) < 0).all()


def test_time_is_counted_over_interruptions(tmp_path):
    def slow(state, step):
        time.sleep(0.02)
        return update(state, step)

    _, first = timed(tmp_path / "state.msgpack", 5, slow)
    assert 0.1 <= first < 5
    _, whole = timed(tmp_path / "state.msgpack", 10, slow)
    assert first + 0.1 <= whole < first + 5
    assert timed(tmp_path / "state.msgpack", 10)[1] == whole
