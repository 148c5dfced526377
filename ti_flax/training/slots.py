"""Which devices compute which concepts: every slot of a program holds one that learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ti_flax.training.devices import apart, ours, replicate, shapes_on, unreplicate


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
