"""Orbax's handler of the arrays of a checkpoint: one safetensors file, which any host can write by itself.

Orbax's own handler of NumPy arrays writes on the first process alone, and here each host may teach concepts
of its own. This module imports Orbax, which takes a second, so it is imported late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import load_file, save_file

FILE = "arrays.safetensors"
# Between the names of groups and of the arrays in them.
_SEPARATOR = "/"


class ArraysHandler(ocp.CheckpointHandler):
    """Writes and reads groups of arrays by name."""

    def save(self, directory: Any, args: Arrays) -> None:
        """Writes `arrays.safetensors` into a folder that is there."""
        flat = {
            f"{group}{_SEPARATOR}{name}": np.asarray(array, order="C")
            for group, arrays in args.groups.items()
            for name, array in arrays.items()
        }
        save_file(flat, directory / FILE)

    def restore(self, directory: Any, args: Arrays | None = None) -> dict[str, dict[str, np.ndarray]]:
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: there is no such file.
        """
        groups: dict[str, dict[str, np.ndarray]] = {}
        for path, array in load_file(directory / FILE).items():
            group, _, name = path.partition(_SEPARATOR)
            groups.setdefault(group, {})[name] = array
        return groups


@ocp.args.register_with_handler(ArraysHandler, for_save=True, for_restore=True)
@dataclass
class Arrays(ocp.args.CheckpointArgs):
    """Arrays by name, by group; none to restore."""

    groups: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
