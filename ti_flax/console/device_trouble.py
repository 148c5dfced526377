"""What JAX says when it finds no device to compute on, in one line with what to do."""

from __future__ import annotations

import os
import re
from types import TracebackType

_BRIDGE = "jax._src.xla_bridge"  # where JAX starts what drives devices
_BEGINNINGS = ("Unable to initialize backend", "Unknown backend", "Could not initialize backend", "Backend '")
_NONE_HERE = (
    "No such device is set up here: unset JAX_PLATFORMS to take what there is, or install JAX for the device "
    '(pip install -U "jax[tpu]" or "jax[cuda12]").'
)
# Part of what is found, in small letters, and what to do about it: the first that fits.
_REMEDIES = (
    (
        ("already in use", "lockfile"),
        "Another program holds the TPU: end it (`sudo lsof -w /dev/accel* /dev/vfio/*` names it). If none "
        "is left, `sudo rm -f /tmp/libtpu_lockfile`.",
    ),
    (
        ("out_of_memory", "out of memory", "resource_exhausted"),
        "Another program has taken the device's memory (`nvidia-smi` names it): end it, or name another "
        "device with CUDA_VISIBLE_DEVICES.",
    ),
    (
        ("permission denied", "permission_denied"),
        "This user may not open the device: ask for the group that may (`ls -l /dev/accel* /dev/nvidia*`).",
    ),
    (("not in the list of known backends", "unknown backend"), _NONE_HERE),
    (("cannot open shared object", "no module named", "no supported devices", "no_device"), _NONE_HERE),
    (
        ("cuda", "driver", "nvidia", "gpu"),
        "Check the driver with `nvidia-smi`: JAX for CUDA 12 needs 525 or newer. JAX_PLATFORMS=cpu computes "
        "without it.",
    ),
)


def device_trouble(error: Exception) -> tuple[str, str] | None:
    """Return what was found and what to do if an error is JAX's, of a device it cannot start; else None."""
    text = " ".join(str(error).split())
    if not text.startswith(_BEGINNINGS) and not _raised_in_bridge(error.__traceback__):
        return None
    asked = os.environ.get("JAX_PLATFORMS", "")
    found = re.sub(r"^Unable to initialize backend '[^']*': | ?\(set JAX_PLATFORMS=.*?\)", "", text)
    if not found:
        return f"none for {asked or 'this machine'}", _NONE_HERE
    low = found.lower()
    fitting = (remedy for signs, remedy in _REMEDIES if any(sign in low for sign in signs))
    return found, next(fitting, _NONE_HERE)


def where_asked() -> str:
    """Return what chose the device, for messages."""
    asked = os.environ.get("JAX_PLATFORMS")
    return f"JAX_PLATFORMS={asked}" if asked else "JAX"


def _raised_in_bridge(trace: TracebackType | None) -> bool:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == _BRIDGE
