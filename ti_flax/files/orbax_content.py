"""Orbax's handler of a checkpoint: arrays in a safetensors file, the rest in JSON; any host can write them.

Orbax's own handler of NumPy arrays writes on the first process alone, and here each host may teach concepts
of its own. This module imports Orbax, which takes a second, so it is imported late.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import load_file, save_file

ARRAYS, REST = "arrays.safetensors", "run.json"
# Between the names of groups and of the arrays in them.
_SEPARATOR = "/"


class ContentHandler(ocp.CheckpointHandler):
    """Writes and reads groups of arrays by name, and what JSON has words for."""

    def save(self, directory: Any, args: Content) -> None:
        """Writes both files into a folder that is there."""
        flat = {
            f"{group}{_SEPARATOR}{name}": np.asarray(array, order="C")
            for group, arrays in args.groups.items()
            for name, array in arrays.items()
        }
        save_file(flat, directory / ARRAYS)
        (directory / REST).write_text(json.dumps(args.rest))

    def restore(self, directory: Any, args: Content | None = None) -> Content:
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: there are no such files.
        """
        groups: dict[str, dict[str, np.ndarray]] = {}
        for path, array in load_file(directory / ARRAYS).items():
            group, _, name = path.partition(_SEPARATOR)
            groups.setdefault(group, {})[name] = array
        return Content(groups, json.loads((directory / REST).read_text()))


@ocp.args.register_with_handler(ContentHandler, for_save=True, for_restore=True)
@dataclass
class Content(ocp.args.CheckpointArgs):
    """What a checkpoint holds; nothing to restore.

    Attributes:
      groups: arrays by name, by group.
      rest: what JSON has words for.
    """

    groups: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)
