"""The devices to compute on, started where a failure can be told from any other."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

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


class Expected(NamedTuple):
    """The devices that JAX would find.

    Attributes:
      platform: `cpu`, `gpu` or `tpu`.
      count: how many; of a CPU, its cores.
    """

    platform: str
    count: int


_DEV = Path("/dev")
# The packages that let JAX see devices, and their names there.
_DEVICES = {
    "tpu": (("libtpu",), ("accel[0-9]*", "vfio/[0-9]*")),
    "gpu": (("jax_cuda12_plugin", "jax_cuda13_plugin"), ("nvidia[0-9]*",)),
}


def expected_devices() -> Expected:
    """The devices that JAX would find here, told by files and packages: none is started, and none held."""
    wanted = os.environ.get("JAX_PLATFORMS", "").lower()
    for platform, (packages, names) in _DEVICES.items():
        named = not wanted or platform in wanted or (platform == "gpu" and "cuda" in wanted)
        if named and any(importlib.util.find_spec(package) for package in packages):
            found = len({path for name in names for path in _DEV.glob(name)})
            if platform == "gpu" and (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
                found = min(
                    found, len([each for each in visible.split(",") if each.strip() not in ("", "-1")])
                )
            if found:
                return Expected(platform, found)
    return Expected("cpu", usable_cores())


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
