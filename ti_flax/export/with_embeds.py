"""A base model with the words of embedding files, as one pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ti_flax.config.options import ModelOptions
from ti_flax.embedding.learned_embeds import add_learned_embeds
from ti_flax.export.pipeline import save_pipeline
from ti_flax.models.base_model import MODEL_PARTS, base_tokenizers, find_base_model, say_notes
from ti_flax.models.stable_diffusion import load_stable_diffusion
from ti_flax.models.weights.model_source import ModelSource


def save_pipeline_with(
    model: ModelOptions, files: Sequence[Path], output_dir: Path, *, layout: Literal["flax", "torch"]
) -> ModelSource:
    """Writes a base model with the words of some embeddings as a pipeline folder.

    Args:
      model: the base model.
      files: embeddings of any form, or folders that hold some.
      output_dir: where to.
      layout: `flax` for FlaxStableDiffusionPipeline, `torch` for StableDiffusionPipeline.

    Returns:
      The base model's source.

    Raises:
      TiFlaxError: the model or an embedding cannot be read, they do not fit, or the folder cannot be written.
    """
    source = find_base_model(model, components=MODEL_PARTS)
    tokenizers = base_tokenizers(source, model.tokenizer_name)
    say_notes(source)
    first_added_id = len(tokenizers.tokenizer)
    widths = load_stable_diffusion(source, components=()).widths
    rows = [add_learned_embeds(tokenizers.tokenizer, file, widths=widths) for file in files]
    save_pipeline(
        source,
        output_dir,
        tokenizers=tokenizers,
        rows={encoder: np.concatenate([each[encoder] for each in rows]) for encoder in widths if rows},
        first_added_id=first_added_id,
        layout=layout,
    )
    return source
