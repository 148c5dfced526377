"""Arrays and functions over all devices: the one place that names jax.pmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ti_flax.hosts.devices import cores_share_batch

AXIS = "devices"


# Bytes at a multiple of which XLA takes an array in a CPU's memory as it is, without a copy.
_ALIGNMENT = 64


def batch_devices(batch_size: int) -> list[Any]:
    """The devices of all hosts that compute an update.

    That is every device, each with a batch of its own; but of a CPU's cores, which share its batch, the most
    that it can be divided among.
    """
    if not cores_share_batch():
        return jax.devices()
    cores = jax.local_device_count()
    taken = max(share for share in range(1, cores + 1) if batch_size % share == 0)
    by_host: dict[int, list[Any]] = {}
    for device in jax.devices():
        by_host.setdefault(device.process_index, []).append(device)
    return [device for host in sorted(by_host) for device in by_host[host][:taken]]


def batches_at_once() -> int:
    """How many batches are computed at once, over all hosts: one a device, or one for the cores of a CPU."""
    return jax.process_count() if cores_share_batch() else jax.device_count()


def ours(devices: Sequence[Any]) -> list[Any]:
    """Those devices that belong to this process."""
    return [device for device in devices if device.process_index == jax.process_index()]


def pmapped(
    program: Callable, devices: Sequence[Any] | None = None, *, donate: tuple[int, ...] = (0,)
) -> Any:
    """Runs a program on all devices at once; a chunk's state, its first argument, is donated.

    This is the only function that names `jax.pmap`; all arguments have a leading device axis.
    """
    return jax.pmap(program, axis_name=AXIS, donate_argnums=donate, devices=devices)


def replicate(tree: Any, devices: Sequence[Any]) -> Any:
    """Puts a copy of every leaf on each device: leaves get a leading axis `[devices, ...]`.

    With several processes, `devices` are those of all of them, and each process fills its own. The cores of a
    CPU share one copy.
    """
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))
    local = ours(devices)
    shared = len(local) > 1 and local[0].platform == "cpu"

    def copies(leaf: Any) -> jax.Array:
        one = (aligned(np.asarray(leaf)) if shared else np.asarray(leaf))[None]
        shards = [jax.device_put(one, device) for device in local]
        return jax.make_array_from_single_device_arrays((len(devices), *one.shape[1:]), sharding, shards)

    return jax.tree.map(copies, tree)


def shapes_on(tree: Any, devices: Sequence[Any]) -> Any:
    """What `replicate` would give, as shapes alone: a tree of `jax.ShapeDtypeStruct`."""
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))

    def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype)
        return jax.ShapeDtypeStruct((len(devices), *np.shape(leaf)), dtype, sharding=sharding)

    return jax.tree.map(shape_of, tree)


def aligned(array: np.ndarray) -> np.ndarray:
    """The array where XLA can use it in place, or a copy that lies so."""
    if array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous:
        return array
    room = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


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
    local = ours(devices)

    def joined(*leaves: np.ndarray) -> jax.Array:
        shards = [jax.device_put(leaf[None], device) for leaf, device in zip(leaves, local, strict=True)]
        shape = (len(devices), *leaves[0].shape)
        return jax.make_array_from_single_device_arrays(shape, sharding, shards)

    return jax.tree.map(joined, *parts)


def local_copies(tree: Any, devices: Sequence[Any]) -> Any:
    """The part of replicated arrays on some of this process's devices, without copying it."""
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))

    def part(leaf: jax.Array) -> jax.Array:
        if leaf.sharding.device_set == set(devices):
            return leaf
        by_device = {shard.device: shard.data for shard in leaf.addressable_shards}
        shape = (len(devices), *leaf.shape[1:])
        return jax.make_array_from_single_device_arrays(
            shape, sharding, [by_device[each] for each in devices]
        )

    return jax.tree.map(part, tree)


def unreplicate(tree: Any) -> Any:
    """Brings one device's copy of replicated arrays to the host, as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_shards[0].data)[0], tree)
