"""One run on several hosts: who is the first, and what all take from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ti_flax.config import RunConfig
from ti_flax.errors import ConfigError


def join(config: RunConfig) -> None:
    """Joins the other processes of the run, if there are any, before anything asks for devices.

    Raises:
      ConfigError: the others cannot be found or reached.
    """
    hosts = config.hosts
    if not hosts.multi_host or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(hosts.coordinator_address, hosts.num_processes, hosts.process_id)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            "multi_host",
            expected="the other processes of the run",
            found=str(error).splitlines()[0],
            remedy="Outside a TPU slice, SLURM, Open MPI and Kubernetes give coordinator_address, "
            "num_processes and process_id.",
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def agree(tree: Any) -> Any:
    """What the first process has, on every process: arrays of the same shapes and dtypes everywhere."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def agree_on_steps(steps: int, asked: bool) -> int | None:
    """What all processes do next: the first one's number of updates, or None if any was asked to end."""
    if jax.process_count() == 1:
        return None if asked else steps
    from jax.experimental import multihost_utils

    everyone = multihost_utils.process_allgather(np.asarray([steps, int(asked)], np.int32))
    return None if everyone[:, 1].any() else int(everyone[0, 0])


def wait_for_all(what: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def only_the_first_speaks() -> Iterator[None]:
    """Keeps the reports of the other processes, but not the error that ends one, to themselves."""
    if is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
