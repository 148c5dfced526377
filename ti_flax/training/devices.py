"""Arrays and functions over all devices, and which of them compute which concepts; names jax.pmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Slots:
    """Slots on devices.

    Where there are as many slots as devices, or a multiple, devices hold whole slots and nothing passes
    between them. With fewer, each device holds all slots and a share of the batch of each.

    Attributes:
      count: of all slots.
      devices: of all hosts.
      whole: whether a slot is on one device.
    """

    count: int
    devices: Sequence[Any]
    whole: bool = False

    @property
    def on_device(self) -> int:
        """How many slots a device holds."""
        return self.count // len(self.devices) if self.whole else self.count

    def place(self, tree: Any) -> Any:
        """Puts arrays `[slots, ...]` on the devices: leaves become `[devices, slots of a device, ...]`."""
        if not self.whole:
            return replicate(tree, self.devices)
        return apart([self._part(tree, device) for device in self._local], self.devices)

    def shapes(self, tree: Any) -> Any:
        """What `place` would give, as shapes alone: a tree of `jax.ShapeDtypeStruct`."""
        return shapes_on(self._part(tree, 0) if self.whole else tree, self.devices)

    def fetch(self, tree: Any) -> Any:
        """Brings arrays that `place` placed to the host, as NumPy arrays `[slots, ...]`; all are local."""
        if not self.whole:
            return unreplicate(tree)

        def joined(leaf: jax.Array) -> np.ndarray:
            shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
            return np.concatenate([np.asarray(shard.data)[0] for shard in shards])

        return jax.tree.map(joined, tree)

    def place_windows(self, windows: Sequence[Sequence[Any]]) -> Any:
        """Puts what slots are sent on the devices.

        Args:
          windows: for each slot a tree of NumPy arrays for each of this process's devices that share the
            slot's batch; with whole slots that is one.
        """
        if self.whole:
            parts = [[windows[slot][0] for slot in self._slots_of(d)] for d in self._local]
        else:
            parts = [[of_slot[d] for of_slot in windows] for d in range(len(ours(self.devices)))]
        return apart([stacked(part) for part in parts], self.devices)

    def sharing(self) -> list[int]:
        """Which of the devices that share a slot's batch belong to this process."""
        return [0] if self.whole else [self.devices.index(device) for device in ours(self.devices)]

    @property
    def _local(self) -> list[int]:
        return [self.devices.index(device) for device in ours(self.devices)]

    def _slots_of(self, device: int) -> range:
        return range(device * self.on_device, (device + 1) * self.on_device)

    def _part(self, tree: Any, device: int) -> Any:
        """What a device holds of arrays `[slots, ...]`."""
        held = self._slots_of(device)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[held.start : held.stop], tree)


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of one slot each as one of NumPy arrays with a slot axis in front."""
    if len(trees) == 1:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[None], trees[0])
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def of_slot(tree: Any, slot: int) -> Any:
    """One slot of arrays `[slots, ...]`."""
    return jax.tree.map(lambda leaf: leaf[slot], tree)
