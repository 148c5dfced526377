"""The whole pipeline, in the layout of FlaxStableDiffusionPipeline (diffusers 0.39)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.embedding import grown_table
from ti_flax.errors import OutputError
from ti_flax.models.stable_diffusion import FlaxStableDiffusion, parameter_shapes
from ti_flax.models.weights import read_params, write_flax_params

# Parts of a base model that are no part of training and go along as they are.
CARRIED = ("safety_checker", "feature_extractor")


def save_pipeline(
    model: FlaxStableDiffusion,
    tokenizer: Any,
    rows: np.ndarray,
    output_dir: Path,
    *,
    first_added_id: int,
    variant: str | None = None,
) -> None:
    """Writes the base model with the learned tokens as a Flax pipeline folder.

    Weights are read again from the base model's files, one component at a time, and keep the files'
    dtype; so neither the compute dtype nor the freed VAE matters.

    Args:
      model: the base model; `source` is its folder.
      tokenizer: with the placeholder tokens.
      rows: `[added_tokens, width]` float32.
      output_dir: where to; files of earlier exports are replaced.
      first_added_id: token id of the first row.
      variant: of the base model's weight files.

    Raises:
      OutputError: the folder cannot be written.
    """
    if model.source is None:
        raise OutputError("the pipeline", expected="a base model read from a folder", found="random weights")
    try:
        for component in ("unet", "vae", "text_encoder"):
            module, config = getattr(model, component), dict(model.configs[component])
            params = read_params(
                model.source, component, parameter_shapes(module), dtype=None, variant=variant
            )
            if component == "text_encoder":
                config["vocab_size"] = _grow(params, rows, first_added_id)
            write_flax_params(output_dir / component, params)
            _write_json(output_dir / component / "config.json", _flax_names(config))
            del params
        tokenizer.save_pretrained(str(output_dir / "tokenizer"))
        scheduler = _flax_names(model.configs["scheduler"])
        _write_json(output_dir / "scheduler" / "scheduler_config.json", scheduler)
        carried = _carry(model.source, output_dir)
        _write_json(output_dir / "model_index.json", _model_index(scheduler, carried))
    except OSError as error:
        raise OutputError(
            output_dir,
            expected="room for the whole pipeline",
            found=str(error),
            remedy="The learned_embeds files are there; free space, or train with only_save_embeds.",
        ) from error


def _grow(params: dict, rows: np.ndarray, first_added_id: int) -> int:
    """Puts the rows at the end of the token table; returns its new length."""
    embedding = params["text_model"]["embeddings"]["token_embedding"]
    embedding["embedding"] = grown_table(
        np.asarray(embedding["embedding"]), rows, first_added_id=first_added_id
    )
    return len(embedding["embedding"])


def _flax_names(config: dict[str, Any]) -> dict[str, Any]:
    """A component's configuration under its Flax class name."""
    name = config.get("_class_name")
    if name is None or name.startswith("Flax"):
        return dict(config)
    return config | {"_class_name": f"Flax{name}"}


def _carry(source: Path, output_dir: Path) -> dict[str, list]:
    """Copies the base model's other parts, and returns their entries of the model index."""
    index_file = source / "model_index.json"
    index = json.loads(index_file.read_text()) if index_file.is_file() else {}
    carried = {}
    for name in CARRIED:
        folder = source / name
        if folder.is_dir() and index.get(name, [None])[0] is not None:
            if folder.resolve() != (output_dir / name).resolve():
                shutil.copytree(folder, output_dir / name, dirs_exist_ok=True)
            library, kind = index[name]
            carried[name] = [
                library,
                f"Flax{kind}" if name == "safety_checker" and "Flax" not in kind else kind,
            ]
    return carried


def _model_index(scheduler: dict[str, Any], carried: dict[str, list]) -> dict[str, Any]:
    parts = {
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler.get("_class_name", "FlaxPNDMScheduler")],
        "text_encoder": ["transformers", "FlaxCLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "FlaxUNet2DConditionModel"],
        "vae": ["diffusers", "FlaxAutoencoderKL"],
    }
    return {"_class_name": "FlaxStableDiffusionPipeline", "_diffusers_version": "0.39.0"} | parts | carried


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    os.replace(partial, path)
