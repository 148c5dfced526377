"""Which base model an embedding is for, by the widths of its vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ti_flax.console.messages import say
from ti_flax.embedding.contents import BEHIND, FIRST, FIRST_WIDTH, SD2_WIDTH, SECOND, EmbeddingFile
from ti_flax.embedding.file_names import first_half, second_half
from ti_flax.errors import WeightsError

SDXL = "SDXL"
_ONE_ENCODER = {FIRST_WIDTH: "Stable Diffusion 1.x", SD2_WIDTH: "Stable Diffusion 2.x"}
_ORDINALS = {FIRST: "first", SECOND: "second"}


def base_of(file: EmbeddingFile) -> str:
    """The base model that a file is for and its widths, such as `Stable Diffusion 2.x (1024 wide)`."""
    widths = {name: rows.shape[1] for name, rows in file.rows.items()}
    if file.is_sdxl and len(widths) == 1:
        (name,) = widths
        return f"the {_ORDINALS[name]} text encoder of {SDXL} alone ({_wide(widths)})"
    return _named(widths, "an unknown base")


def checked_rows(
    file: EmbeddingFile, path: Path, widths: Mapping[str, int], *, partial: bool = False
) -> dict[str, np.ndarray]:
    """The rows of a file for a model.

    Args:
      file: the embedding.
      path: where it was read from, for messages.
      widths: of the model's text encoders by name, in their order.
      partial: take those of one of SDXL's text encoders where the file has no others.

    Returns:
      `[vectors, width]` float32 by text encoder, in the order of the widths, then what goes behind them.

    Raises:
      WeightsError: they belong to another model, or a text encoder's are missing.
    """
    same = all(widths.get(name) == rows.shape[1] for name, rows in file.rows.items())
    if not same or file.is_sdxl != (len(widths) > 1):
        raise WeightsError(
            path,
            expected=f"an embedding for {_named(widths, 'this model')}",
            found=f"one for {base_of(file)}",
            remedy=_other_half_remedy(file, path, widths) or "Use one that was trained on the same base.",
        )
    missing = [name for name in widths if name not in file.rows]
    if missing and not partial:
        raise WeightsError(
            path,
            expected=f"vectors for both text encoders of {SDXL}",
            found=f"those of the {_ORDINALS[next(iter(file.rows))]} alone",
            remedy=_other_half_remedy(file, path, widths) or "Use a file that has both, clip_l and clip_g.",
        )
    before = {name: file.rows[name] for name in widths if name in file.rows}
    return before | {f"{name}{BEHIND}": rows for name, rows in file.behind.items()}


def rows_to_draw_with(file: EmbeddingFile, path: Path, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The rows of a file to make images with, which works with those of one of SDXL's text encoders.

    ComfyUI then leaves the word out of what the other text encoder reads. Here all read the same tokens, so
    the other one's vectors are zeros: places in the text at which nothing is said.

    Args:
      file: the embedding.
      path: where it was read from, for messages.
      widths: of the model's text encoders by name, in their order.

    Returns:
      `[vectors, width]` float32 by text encoder, in the order of the widths, then what goes behind them.

    Raises:
      WeightsError: they belong to another model.
    """
    found = checked_rows(file, path, widths, partial=True)
    for name in widths:
        if name not in found:
            there = _ORDINALS[next(iter(file.rows))]
            say(
                f"note: {path} has vectors for the {there} text encoder alone: the {_ORDINALS[name]} reads "
                "nothing in the place of the word"
            )
    empty = {name: np.zeros((file.vectors, width), np.float32) for name, width in widths.items()}
    return empty | found


def _named(widths: Mapping[str, int], otherwise: str) -> str:
    known = SDXL if len(widths) > 1 else _ONE_ENCODER.get(next(iter(widths.values())), otherwise)
    return f"{known} ({_wide(widths)})"


def _wide(widths: Mapping[str, int]) -> str:
    return f"{' and '.join(map(str, widths.values()))} wide"


def _other_half_remedy(file: EmbeddingFile, path: Path, widths: Mapping[str, int]) -> str:
    """What to do where a file can be half of diffusers' pair for SDXL and the other half is not there."""
    name, rows = next(iter(file.rows.items()))
    alone = file.kind == "diffusers" and len(file.rows) == 1
    if not alone or len(widths) == 1 or widths[name] != rows.shape[1]:
        return ""
    path = file.files[0] if file.files else path
    other = second_half(path) if name == FIRST else first_half(path)
    return f"If it is half of a pair for SDXL, put {other.name} beside it." if other is not None else ""
