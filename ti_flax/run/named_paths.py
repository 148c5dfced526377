"""The files and folders that the options of a run name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ti_flax.config import RunConfig
from ti_flax.config.concept_entry import ConceptEntry
from ti_flax.config.image_sources import path_of
from ti_flax.config.run_config import OPTIONS

# Folders below output_dir, whose option gives their name alone.
_BELOW_OUTPUT = frozenset(("logging_dir",))


def named_paths(config: RunConfig, *kinds: str) -> Iterator[tuple[str, Path]]:
    """The existing files and folders that options of these kinds name, each with its option.

    Args:
      config: of the run.
      kinds: `input` for what a run reads, `output` for where it writes.
    """
    for name, value in config.values().items():
        if OPTIONS[name].rule.path not in kinds or value is None or name in _BELOW_OUTPUT:
            continue
        for given in filter(None, value if isinstance(value, tuple | list) else (value,)):
            text = path_of(given) if isinstance(given, ConceptEntry) else str(given)
            for path in {text, text.partition("=")[2] or text}:  # [TOKEN=]FILE
                if os.path.exists(os.path.expanduser(path)):
                    yield name, Path(os.path.expanduser(path))


def other_roles(config: RunConfig, source: str) -> list[tuple[str, Path]]:
    """What options other than `source`, such as train_data_dir, name: no images of that source."""
    return [(name, path) for name, path in named_paths(config, "input", "output") if name != source]
