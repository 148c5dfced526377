"""Checkpoints of a run: rows, optimizer state, step, resolved config and what they belong to."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError

from ti_flax.console.messages import warn
from ti_flax.errors import CheckpointError, in_short
from ti_flax.files.atomic_folders import atomic_folder, damage, is_sealed, remove_folder

# Values of each parameter that enter a model's digest.
_DIGEST_VALUES = 64
_NAME = re.compile(r"checkpoint-(\d+)")
# Rows that not every checkpoint has.
_OPTIONAL = ("mean_rows", "evaluated")
# The folder of the latest checkpoint in a repository, under the name that transformers gave it.
LAST_ON_HUB = "last-checkpoint"
# Names of no checkpoint: the newest, or none where there is none yet. The second is what diffusers calls it.
NEWEST = ("auto", "latest")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
      rows: `[added_tokens, width]` float32 by text encoder.
      optimizer: optimizer state leaves by their path in the state tree.
      step: updates made.
      config: the resolved configuration of the run, flat.
      fingerprint: what the rows belong to: concept, model and images, each a short string.
      mean_rows: likewise, average of the rows, if one is kept.
      evaluated: likewise, the rows of the last evaluation before, if there was one.
    """

    rows: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    step: int
    config: dict[str, Any]
    fingerprint: dict[str, str]
    mean_rows: dict[str, np.ndarray] | None = None
    evaluated: dict[str, np.ndarray] | None = None


class OlderCheckpointError(CheckpointError):
    """A checkpoint of a version that kept its arrays otherwise, which this one cannot go on from."""

    def __init__(self, folder: Path):
        super().__init__(
            folder,
            expected="a checkpoint of this version, with its arrays in a safetensors file",
            found="one of an older version",
            remedy="Finish the run with the version of ti_flax that began it, or start again with "
            "overwrite_output_dir.",
        )


def checkpoint_steps(output_dir: Path) -> list[int]:
    """Steps of the whole checkpoints in a run's folder, oldest first."""
    if not output_dir.is_dir():
        return []
    matches = (_NAME.fullmatch(entry.name) for entry in output_dir.iterdir() if entry.is_dir())
    return sorted(int(match[1]) for match in matches if match)


def save_checkpoint(output_dir: Path, checkpoint: Checkpoint, *, total_limit: int | None = None) -> Path:
    """Writes `checkpoint-<step>`, which appears whole or not at all, then drops the oldest ones.

    Args:
      output_dir: the run's folder.
      checkpoint: what to write; one of the same step is replaced.
      total_limit: how many checkpoints to keep, None for all.

    Raises:
      CheckpointError: the folder cannot be written.
    """
    from ti_flax.files.orbax_content import Content

    folder = output_dir / f"checkpoint-{checkpoint.step}"
    state = {"rows": checkpoint.rows, "optimizer": checkpoint.optimizer}
    for name in _OPTIONAL:
        if (rows := getattr(checkpoint, name)) is not None:
            state[name] = rows
    belongs = {"step": checkpoint.step, "config": checkpoint.config, "fingerprint": checkpoint.fingerprint}
    try:
        with atomic_folder(folder) as unfinished, _checkpointer() as checkpointer:
            checkpointer.save(unfinished.absolute(), args=Content(state, belongs), force=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # what a full disk becomes
        raise CheckpointError(
            folder,
            expected="a folder that can be written",
            found=_unwritten(error),
            remedy="Free space or mend the folder, then resume_from_checkpoint auto goes on; "
            "earlier checkpoints are untouched.",
        ) from error
    if total_limit is not None:
        folders = [output_dir / f"checkpoint-{step}" for step in checkpoint_steps(output_dir)]
        for sealed in [each for each in folders if is_sealed(each)][:-total_limit]:
            remove_folder(sealed)
    return folder


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint folder.

    Raises:
      OlderCheckpointError: an older version made it.
      CheckpointError: it is not there, damaged, or not a checkpoint of this program.
    """
    from ti_flax.files.orbax_content import Content

    if found := damage(folder):
        raise CheckpointError(
            folder,
            expected="a whole checkpoint",
            found=found,
            remedy="Resume from an earlier checkpoint, or start again with overwrite_output_dir.",
        )
    if (folder / "state" / "_METADATA").exists():
        raise OlderCheckpointError(folder)
    try:
        with _checkpointer() as checkpointer:
            restored = checkpointer.restore(folder.absolute(), args=Content())
        state, belongs = restored.groups, restored.rest
        return Checkpoint(
            rows=state["rows"],
            optimizer=state.get("optimizer", {}),
            step=int(belongs["step"]),
            config=belongs["config"],
            fingerprint=belongs["fingerprint"],
            **{name: state.get(name) for name in _OPTIONAL},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(
            folder,
            expected="a checkpoint of this program",
            found=in_short(error),
            remedy="Resume from an earlier checkpoint, or start again with overwrite_output_dir.",
        ) from error


def load_newest(output_dir: Path) -> tuple[Checkpoint, Path] | None:
    """The newest whole checkpoint of a run and its folder; None if the run has none yet.

    Damaged ones are said and passed over.

    Raises:
      OlderCheckpointError: an older version made the newest whole one.
      CheckpointError: there are checkpoints, but none can be read.
    """
    steps = checkpoint_steps(output_dir)
    for step in reversed(steps):
        folder = output_dir / f"checkpoint-{step}"
        try:
            return load_checkpoint(folder), folder
        except OlderCheckpointError:
            raise
        except CheckpointError as error:
            warn(str(error).partition(". Resume")[0])
    if not steps:
        return None
    raise CheckpointError(
        output_dir,
        expected="a checkpoint that can be read",
        found=f"{len(steps)} that cannot",
        remedy="overwrite_output_dir starts from the beginning.",
    )


def evaluated_before(output_dir: Path, step: int) -> dict[str, np.ndarray] | None:
    """The rows of the last evaluation before a run's checkpoint of a step; None where they are not known."""
    try:
        return load_checkpoint(output_dir / f"checkpoint-{step}").evaluated
    except CheckpointError:
        return None


def find_checkpoint(output_dir: Path, name: str) -> Path:
    """Turns a checkpoint's name or its path into its folder.

    Raises:
      CheckpointError: no checkpoint of that name.
    """
    steps = checkpoint_steps(output_dir)
    for folder in (output_dir / Path(name).name, Path(name)):
        if folder.is_dir() and (_NAME.fullmatch(folder.name) or folder.name == LAST_ON_HUB):
            return folder
    raise CheckpointError(
        f"resume_from_checkpoint {name!r}",
        expected=f"a checkpoint in {output_dir}",
        found=f"only {', '.join(f'checkpoint-{step}' for step in steps)}" if steps else "none there",
        remedy="Name one of these, or leave the option out to start from the beginning.",
    )


def check_same_run(checkpoint: Checkpoint, fingerprint: Mapping[str, str], folder: Path) -> None:
    """Refuses to resume with another concept, model or set of images.

    Raises:
      CheckpointError: says what differs, then and now.
    """
    names = [*checkpoint.fingerprint, *(name for name in fingerprint if name not in checkpoint.fingerprint)]
    old, new = checkpoint.fingerprint, fingerprint
    differing = [name for name in names if old.get(name) != new.get(name)]
    if differing:
        raise CheckpointError(
            folder,
            expected="; ".join(f"{name} {old.get(name)}" for name in differing),
            found="; ".join(f"{name} {new.get(name)}" for name in differing),
            remedy="Resume with what the checkpoint was made with, or use another output_dir.",
        )


def optimizer_leaves(opt_state: Any) -> dict[str, np.ndarray]:
    """The arrays of an optimizer state, by their path."""
    leaves = jax.tree_util.tree_flatten_with_path(opt_state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def restore_optimizer(opt_state: Any, leaves: Mapping[str, np.ndarray], folder: Path) -> Any:
    """Fills a fresh optimizer state with the arrays of a checkpoint.

    Raises:
      CheckpointError: the checkpoint is another optimizer's.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(opt_state)
    expected = {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in paths}
    found = {path: np.shape(leaf) for path, leaf in leaves.items()}
    if expected != found:
        raise CheckpointError(
            folder,
            expected=f"optimizer state {expected}",
            found=str(found),
            remedy="Resume with the optimizer settings that the checkpoint was made with.",
        )
    return jax.tree_util.tree_unflatten(tree, [leaves[path] for path in expected])


def restore_mean(mean: Any, saved: Checkpoint, folder: Path) -> dict[str, np.ndarray] | None:
    """The average of a checkpoint, which must have one just when the run keeps one.

    Raises:
      CheckpointError: only one of them does.
    """
    if (mean is None) != (saved.mean_rows is None):
        raise CheckpointError(
            folder,
            expected=f"a checkpoint {'without' if mean is None else 'with'} an average of the vectors",
            found="one with it" if mean is None else "one without it",
            remedy="Resume with the use_ema that the checkpoint was made with.",
        )
    return saved.mean_rows


def tree_digest(tree: Any, *, whole: bool = False) -> str:
    """A short digest of a parameter tree: every leaf's path, shape, dtype and a sample of its values.

    It tells models apart in milliseconds; the leaves are not read whole, unless `whole` says so.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        flat = np.asarray(leaf).reshape(-1)
        digest.update(f"{jax.tree_util.keystr(path)} {np.shape(leaf)} {flat.dtype};".encode())
        every = 1 if whole else max(1, flat.size // _DIGEST_VALUES)
        digest.update(np.ascontiguousarray(flat[::every]).tobytes())
    return digest.hexdigest()[:16]


def _unwritten(error: Exception) -> str:
    """Why something was not written: a full disk, wherever in orbax's many lines that is, or their first."""
    full = os.strerror(errno.ENOSPC)
    return full.lower() if full in str(error) else in_short(error)


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    from ti_flax.files.orbax_content import ContentHandler

    # Orbax reports every save and restore at length; its warnings and errors still come through.
    logging.getLogger("absl").setLevel(logging.WARNING)
    # Of several processes the one that saves or restores does it alone, so none is waited for.
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"ti-{this}"
    )
    return ocp.Checkpointer(ContentHandler(), multiprocessing_options=alone)
