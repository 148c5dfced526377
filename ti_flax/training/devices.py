"""Arrays and functions over all devices: the one place that names jax.pmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"


def pmapped(
    program: Callable, devices: Sequence[Any] | None = None, *, donate: tuple[int, ...] = (0,)
) -> Any:
    """Runs a program on all devices at once; a chunk's state, its first argument, is donated.

    This is the only function that names `jax.pmap`; all arguments have a leading device axis.
    """
    return jax.pmap(program, axis_name=AXIS, donate_argnums=donate, devices=devices)


def replicate(tree: Any, devices: Sequence[Any]) -> Any:
    """Puts a copy of every leaf on each device: leaves get a leading axis `[devices, ...]`.

    With several processes, `devices` are those of all of them, and each process fills its own.
    """
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))
    ours = [device for device in devices if device.process_index == jax.process_index()]

    def copies(leaf: Any) -> jax.Array:
        one = np.asarray(leaf)[None]
        shards = [jax.device_put(one, device) for device in ours]
        return jax.make_array_from_single_device_arrays((len(devices), *one.shape[1:]), sharding, shards)

    return jax.tree.map(copies, tree)


def shard(tree: Any, devices: Sequence[Any]) -> Any:
    """Gives each device of this process its own part of arrays `[devices, ...]`."""
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding), tree)


def apart(parts: Sequence[Any], devices: Sequence[Any]) -> Any:
    """Gives each device of this process a tree of its own: leaves get a leading axis `[devices, ...]`.

    Args:
      parts: a tree of NumPy arrays for each of `devices` that is this process's, in their order.
      devices: those of all processes.
    """
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))
    ours = [device for device in devices if device.process_index == jax.process_index()]

    def joined(*leaves: np.ndarray) -> jax.Array:
        shards = [jax.device_put(leaf[None], device) for leaf, device in zip(leaves, ours, strict=True)]
        shape = (len(devices), *leaves[0].shape)
        return jax.make_array_from_single_device_arrays(shape, sharding, shards)

    return jax.tree.map(joined, *parts)


def local_copies(tree: Any, devices: Sequence[Any] | None = None) -> Any:
    """The part of replicated arrays on all of this process's devices, or on some, without copying it."""
    devices = jax.local_devices() if devices is None else devices
    if len(devices) == jax.device_count():
        return tree
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))

    def ours(leaf: jax.Array) -> jax.Array:
        by_device = {shard.device: shard.data for shard in leaf.addressable_shards}
        shape = (len(devices), *leaf.shape[1:])
        return jax.make_array_from_single_device_arrays(
            shape, sharding, [by_device[each] for each in devices]
        )

    return jax.tree.map(ours, tree)


def unreplicate(tree: Any) -> Any:
    """Brings one device's copy of replicated arrays to the host, as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_shards[0].data)[0], tree)
