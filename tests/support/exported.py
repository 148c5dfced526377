"""A pipeline with the rows of a new word."""

import numpy as np
from row_trees import tree

from ti_flax.export.pipeline import save_pipeline
from ti_flax.models.base_model import base_tokenizers
from ti_flax.models.stable_diffusion import load_stable_diffusion
from ti_flax.models.tokenizer import add_word
from ti_flax.models.weights.model_source import ModelSource


def random_rows(vectors, width=32):
    return (np.random.default_rng(vectors).normal(size=(vectors, width)) * 0.1).astype(np.float32)


def export(folder, output, *, vectors=2, layout="flax"):
    tokenizers = base_tokenizers(ModelSource(folder))
    tokenizer = tokenizers.tokenizer
    concept = add_word(tokenizer, placeholder_token="<thing>", num_vectors=vectors)
    width = load_stable_diffusion(folder, components=()).widths["text_encoder"]
    rows = random_rows(vectors, width)
    save_pipeline(
        folder,
        output,
        tokenizers=tokenizers,
        rows=tree(rows),
        first_added_id=concept.token_ids[0],
        layout=layout,
    )
    return tokenizer, concept, rows
