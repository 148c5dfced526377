"""A training loop that shows where it is, saves as it goes, and goes on where it stopped."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import serialization
from tqdm import tqdm

_SHOWN_EVERY = 50


def warmup_cosine(peak: float, steps: int) -> optax.Schedule:
    """A learning rate that rises over the first fiftieth of the updates and falls to almost nothing."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, steps // 50, steps, peak / 1000)


def run_updates(
    update: Callable[[Any, Any], tuple[Any, jax.Array]],
    state: Any,
    *,
    steps: int,
    file: Path,
    save_every: float,
    name: str,
) -> tuple[Any, float]:
    """Calls `update(state, step)` until `steps` updates are made.

    Returns the last state, on the host, and the seconds that all updates took, over interruptions.

    A loop on the device would be no faster on a GPU, and on the CPU XLA's convolutions by the weights are six
    times slower inside one.

    Args:
      update: jitted; makes one update and returns the state and its loss.
      state: before the first update; a pytree of arrays.
      steps: updates in all.
      file: where the state is saved, whole or not at all.
      save_every: seconds between two saves.
      name: for the progress bar.
    """
    done, seconds = 0, 0.0
    if file.exists():
        made, seconds, state = serialization.from_bytes((0, 0.0, state), file.read_bytes())
        done, seconds, state = int(made), float(seconds), jax.tree.map(jax.numpy.asarray, state)
    saved, losses = time.perf_counter(), []
    with tqdm(total=steps, initial=done, desc=name, unit="step", dynamic_ncols=True, mininterval=1.0) as bar:
        while done < steps:
            state, loss = update(state, np.int32(done))
            losses.append(loss)
            done += 1
            bar.update()
            if len(losses) == _SHOWN_EVERY or done == steps:
                bar.set_postfix_str(f"loss {float(sum(losses)) / len(losses):.4f}", refresh=False)
                losses = []
            if done == steps or time.perf_counter() - saved > save_every:
                state = jax.block_until_ready(state)
                now = time.perf_counter()
                seconds, saved = seconds + now - saved, now
                _save(file, (done, seconds, state))
    return jax.device_get(state), seconds


def _save(file: Path, content: Any) -> None:
    partial = file.with_suffix(".partial")
    partial.write_bytes(serialization.to_bytes(jax.device_get(content)))
    partial.replace(file)
