"""The whole pipeline with the learned tokens, for diffusers 0.39 (Flax) or for PyTorch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ti_flax.console.messages import warn
from ti_flax.embedding.contents import BEHIND
from ti_flax.embedding.rows import grown_table
from ti_flax.errors import OutputError, WeightsError
from ti_flax.files.atomic import atomic_write
from ti_flax.files.atomic_folders import atomic_files, tidy
from ti_flax.files.folder_files import LINK_REMEDY, LeavingLinkError, copy_folder, files_of
from ti_flax.files.written_files import record
from ti_flax.models.base_model import BaseTokenizers
from ti_flax.models.stable_diffusion import load_stable_diffusion, save_stable_diffusion
from ti_flax.models.tokenizer import save_tokenizers
from ti_flax.models.weights.model_folder import read_json
from ti_flax.models.weights.model_source import ModelSource

# Parts of a base model that are no part of training and go along as they are.
CARRIED = ("safety_checker", "feature_extractor")
INDEX = "model_index.json"
# What a part is read from where no variant is asked for, as nobody does of a pipeline that was written.
_WEIGHTS = {
    "flax": re.compile(r"flax_model\.msgpack"),
    "torch": re.compile(r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)"),
}
_VARIANT = re.compile(r"((?:pytorch_|flax_)?model)\.([\w-]+)(\.(?:safetensors|bin|msgpack))", re.ASCII)
# Whoever loads the pipeline imports what its index names.
_IDENTIFIER = re.compile(r"[A-Za-z_]\w{0,99}", re.ASCII)
_MOST_FILES = 1000
_WITHOUT = "Correct it, or set only_save_embeds, which writes no pipeline."


def save_pipeline(
    source: Path | ModelSource,
    output_dir: Path,
    *,
    tokenizers: BaseTokenizers,
    rows: Mapping[str, np.ndarray],
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
      tokenizers: with the added tokens.
      rows: `[added_tokens, width]` float32 by text encoder, possibly none.
      first_added_id: token id of the first row.
      variant: of the base model's weight files, where `source` is a path.
      layout: `flax` for FlaxStableDiffusionPipeline, `torch` for StableDiffusionPipeline.

    Raises:
      WeightsError: a part of the base model that goes along is not as `carried_parts` wants it.
      OutputError: the folder cannot be written.
    """
    if not isinstance(source, ModelSource):
        source = ModelSource(source, variant)
    if any(encoder.endswith(BEHIND) for encoder in rows):
        warn(
            "a pipeline has no place for vectors that go behind a text encoder: it has the words without them"
        )
    carried_parts(source.place)
    model = load_stable_diffusion(source, dtype=None)
    for encoder in model.text_encoders:
        embedding = model.params[encoder]["text_model"]["embeddings"]["token_embedding"]
        table = np.asarray(embedding["embedding"])
        if encoder in rows and len(rows[encoder]):
            table = grown_table(table, rows[encoder], first_added_id=first_added_id)
            embedding["embedding"] = table
        model.configs[encoder]["vocab_size"] = len(table)
    try:
        tidy(output_dir)
        with atomic_files(output_dir, last=INDEX) as folder:
            save_stable_diffusion(model, folder, layout=layout, eos_token_id=tokenizers.eos_token_id)
            save_tokenizers(tokenizers.tokenizer, folder, tokenizers.pad_token_ids)
            _carry(source, folder, layout)
            paths = (path for path in folder.rglob("*") if not path.is_dir())
            record(output_dir, *(path.relative_to(folder).as_posix() for path in paths))
    except OSError as error:
        raise OutputError(
            output_dir,
            expected="room for the whole pipeline",
            found=str(error),
            remedy="Free space or choose another folder; only_save_embeds writes the new word alone.",
        ) from error


def carried_parts(place: Path) -> dict[str, tuple[str, str]]:
    """Return what of a base model goes along as it is: library and class by the name of the part.

    All that can be wrong with it is found here, so that a run asks before its training.

    Args:
      place: the base model's folder; a single file has no such parts.

    Raises:
      WeightsError: `model_index.json` is damaged, or a part holds something else than regular files of it.
    """
    if not (place / INDEX).exists():
        return {}
    index, parts = read_json(place / INDEX), {}
    for name in CARRIED:
        entry = index.get(name)
        if not entry or (isinstance(entry, list) and len(entry) == 2 and entry[1] is None):
            continue
        if not _names_a_class(entry):
            raise WeightsError(
                f"{place / INDEX}: {name}",
                expected='a library and a class, such as ["transformers", "CLIPImageProcessor"], or null',
                found=json.dumps(entry),
                remedy=_WITHOUT,
            )
        if (place / name).is_dir():
            _check_part(place, name)
            parts[name] = (entry[0], entry[1])
    return parts


def _names_a_class(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and all(isinstance(each, str) and _IDENTIFIER.fullmatch(each) for each in entry)
    )


def _check_part(place: Path, name: str) -> None:
    remedy = _WITHOUT
    try:
        files = files_of(place / name, root=place, kind="model's folder")
        if len(files) <= _MOST_FILES:
            return
        found = f"{len(files)} files"
    except LeavingLinkError as error:
        found, remedy = error.strerror or "", LINK_REMEDY
    except OSError as error:
        found = f"{error.strerror or error} ({error.filename or name})"
    raise WeightsError(
        place / name, expected=f"up to {_MOST_FILES} regular files", found=found, remedy=remedy
    )


def _carry(source: ModelSource, output_dir: Path, layout: Literal["flax", "torch"]) -> None:
    """Copies the other parts of the base, and names in the model index those that the layout can load."""
    ours = output_dir / INDEX
    index = json.loads(ours.read_text())
    for name, (library, kind) in carried_parts(source.place).items():
        copy_folder(source.place / name, output_dir / name, root=source.place, kind="model's folder")
        _name_plainly(output_dir / name, source.variant)
        plain = kind.removeprefix("Flax")
        if name == "feature_extractor":
            index[name] = [library, plain]
        elif any(_WEIGHTS[layout].fullmatch(file.name) for file in (output_dir / name).iterdir()):
            index[name] = [library, f"Flax{plain}" if layout == "flax" else plain]
    with atomic_write(ours) as file:
        file.write(f"{json.dumps(index, indent=2)}\n".encode())


def _name_plainly(part: Path, variant: str | None) -> None:
    """Renames weights that there are in a variant alone: the wanted one, else the first."""
    found = [match for file in sorted(part.iterdir()) if (match := _VARIANT.fullmatch(file.name))]
    for match in sorted(found, key=lambda match: match[2] != variant):
        if not (part / (plain := match[1] + match[3])).exists():
            (part / match[0]).rename(part / plain)
