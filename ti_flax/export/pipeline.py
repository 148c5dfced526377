"""The whole pipeline with the learned tokens, for diffusers 0.39 (Flax) or for PyTorch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ti_flax.embedding import grown_table
from ti_flax.errors import OutputError
from ti_flax.models.model_source import ModelSource
from ti_flax.models.stable_diffusion import load_stable_diffusion, save_stable_diffusion
from ti_flax.tokens import save_tokenizer
from ti_flax.whole_files import written_whole
from ti_flax.whole_folders import files_written_together, tidy
from ti_flax.written_files import record

# Parts of a base model that are no part of training and go along as they are.
CARRIED = ("safety_checker", "feature_extractor")
_INDEX = "model_index.json"
_WEIGHTS = {"flax": (".msgpack",), "torch": (".safetensors", ".bin")}


def save_pipeline(
    source: Path | ModelSource,
    output_dir: Path,
    *,
    tokenizer: Any,
    rows: np.ndarray,
    first_added_id: int,
    variant: str | None = None,
    layout: Literal["flax", "torch"] = "flax",
) -> None:
    """Writes a base model with learned tokens as a pipeline folder.

    Weights are read again from the base model's files and keep the files' dtype, so neither the compute
    dtype nor the freed VAE of a run matters.

    Files of earlier exports are replaced once all new ones are written.

    Args:
      source: the base model's folder or file, or that and what was read otherwise.
      output_dir: where to.
      tokenizer: with the added tokens.
      rows: `[added_tokens, width]` float32, possibly none.
      first_added_id: token id of the first row.
      variant: of the base model's weight files, where `source` is a path.
      layout: `flax` for FlaxStableDiffusionPipeline, `torch` for StableDiffusionPipeline.

    Raises:
      OutputError: the folder cannot be written.
    """
    if not isinstance(source, ModelSource):
        source = ModelSource(source, variant)
    model = load_stable_diffusion(source, dtype=None)
    embedding = model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]
    table = np.asarray(embedding["embedding"])
    if len(rows):
        embedding["embedding"] = table = grown_table(table, rows, first_added_id=first_added_id)
    model.configs["text_encoder"]["vocab_size"] = len(table)
    try:
        tidy(output_dir)
        with files_written_together(output_dir, last=_INDEX) as folder:
            save_stable_diffusion(model, folder, layout=layout)
            save_tokenizer(tokenizer, folder / "tokenizer")
            _carry(source.place, folder, layout)
            paths = (path for path in folder.rglob("*") if not path.is_dir())
            record(output_dir, *(path.relative_to(folder).as_posix() for path in paths))
    except OSError as error:
        raise OutputError(
            output_dir,
            expected="room for the whole pipeline",
            found=str(error),
            remedy="Free space or choose another folder; only_save_embeds writes the new word alone.",
        ) from error


def _carry(source: Path, output_dir: Path, layout: Literal["flax", "torch"]) -> None:
    """Copies the other parts of the base, and names in the model index those that the layout can load."""
    theirs, ours = source / _INDEX, output_dir / _INDEX
    base = json.loads(theirs.read_text()) if theirs.is_file() else {}
    index = json.loads(ours.read_text())
    for name in CARRIED:
        library, kind = base.get(name) or (None, None)
        if kind is None or not (source / name).is_dir():
            continue
        shutil.copytree(source / name, output_dir / name, dirs_exist_ok=True)
        plain = kind.removeprefix("Flax")
        if name == "feature_extractor":
            index[name] = [library, plain]
        elif any(file.suffix in _WEIGHTS[layout] for file in (source / name).iterdir()):
            index[name] = [library, f"Flax{plain}" if layout == "flax" else plain]
    with written_whole(ours) as file:
        file.write(f"{json.dumps(index, indent=2)}\n".encode())
