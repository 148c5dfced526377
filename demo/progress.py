"""A training loop that shows where it is, saves as it goes, and goes on where it stopped."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization
from tqdm import tqdm


def run_updates(
    chunk: Callable[[Any, Any, Any], tuple[Any, jax.Array]],
    state: Any,
    *,
    steps: int,
    length: int,
    file: Path,
    save_every: float,
    name: str,
) -> Any:
    """Runs `chunk(state, first_step, count)` until `steps` updates are made; returns the last state.

    Args:
      chunk: jitted; makes `count` updates and returns the state and their mean loss.
      state: before the first update; a pytree of arrays.
      steps: updates in all.
      length: updates of a chunk.
      file: where the state is saved, whole or not at all.
      save_every: seconds between two saves.
      name: for the progress bar.
    """
    done = 0
    if file.exists():
        done, state = serialization.from_bytes((0, state), file.read_bytes())
        state = jax.tree.map(jax.numpy.asarray, state)
    saved = time.perf_counter()
    with tqdm(total=steps, initial=done, desc=name, unit="step", dynamic_ncols=True, mininterval=1.0) as bar:
        while done < steps:
            count = min(length, steps - done)
            state, loss = chunk(state, np.int32(done), np.int32(count))
            done += count
            bar.set_postfix_str(f"loss {float(loss):.4f}", refresh=False)
            bar.update(count)
            if done == steps or time.perf_counter() - saved > save_every:
                _save(file, (done, state))
                saved = time.perf_counter()
    return jax.device_get(state)


def _save(file: Path, content: Any) -> None:
    partial = file.with_suffix(".partial")
    partial.write_bytes(serialization.to_bytes(jax.device_get(content)))
    partial.replace(file)
