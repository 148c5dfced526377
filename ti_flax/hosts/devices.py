"""The devices to compute on, started where a failure can be told from any other."""

from __future__ import annotations

import jax

from ti_flax.console.device_trouble import device_trouble, where_asked
from ti_flax.errors import DeviceError


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
