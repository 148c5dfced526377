"""The devices to compute on, started where a failure can be told from any other."""

from __future__ import annotations

import contextlib
import os

import jax

from ti_flax.console.device_trouble import device_trouble, where_asked
from ti_flax.errors import DeviceError

# What asks JAX for several devices on one CPU: tests do, to stand for accelerators.
_ASKED = ("JAX_NUM_CPU_DEVICES", "xla_force_host_platform_device_count")


def show_cores() -> None:
    """Lets JAX see each core of a CPU as a device, so that samples of a batch are computed side by side.

    XLA splits an operation over cores where it is large enough, and small ones make the other cores wait; a
    device takes its share of a batch from end to end. Changes nothing once JAX has started, or where somebody
    has asked it for a number of devices.
    """
    if not _asked_for_cpu_devices():
        with contextlib.suppress(RuntimeError):  # JAX has started
            jax.config.update("jax_num_cpu_devices", usable_cores())


def cores_share_batch() -> bool:
    """Whether JAX's devices are the cores of CPUs, which share the batch of one device."""
    return jax.default_backend() == "cpu" and not _asked_for_cpu_devices()


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _asked_for_cpu_devices() -> bool:
    return _ASKED[0] in os.environ or _ASKED[1] in os.environ.get("XLA_FLAGS", "")


def start_devices() -> None:
    """Starts what drives the devices, before anything that takes long.

    With several hosts it has to be called after `jax.distributed.initialize`.

    Raises:
      DeviceError: there are none of the kind that was asked for, or another program holds them.
    """
    try:
        jax.devices()
    except Exception as error:  # JAX's own have no class; without CUDA's plugin it is an AssertionError
        trouble = device_trouble(error)
        if trouble is None:
            raise
        raise DeviceError(where_asked(), *trouble) from None
