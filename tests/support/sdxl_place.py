"""What runs of SDXL need: a folder with a tiny model and images, and what is learned from them."""

import json

import jax.numpy as jnp
from tiny_folder import write_folder, write_images

from ti_flax.embedding.conditioning import encode_with_rows
from ti_flax.embedding.learned_embeds import add_learned_embeds
from ti_flax.embedding.read import load_embedding
from ti_flax.models.base_model import base_tokenizers
from ti_flax.models.stable_diffusion import load_stable_diffusion
from ti_flax.models.tokenizer import encode_prompts, expand_known
from ti_flax.models.weights.model_source import ModelSource


def write_place(place, *, least=True):
    """Writes `pictures` and `model`, whose config has 2 for the end of the text, as Hub copies of SDXL do."""
    write_folder(place / "model", "sdxl", least=least)
    path = place / "model" / "text_encoder_2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 2}))
    write_images(place / "pictures")
    return place


def learned_rows(folder):
    """The rows that a run left, `[vectors, width]` by text encoder."""
    return load_embedding(folder / "learned_embeds.safetensors").rows


class Told:
    """A model with an embedding or without, as we use it.

    Attributes:
      model: with its parameters.
      tokenizer: that knows the embedding's tokens.
      special: token ids that the second text encoder depends on.
      first_added_id: token id of the first row.
      rows: `[vectors, width]` by text encoder, or a row that no token names.
    """

    def __init__(self, folder, learned=None):
        self.model = load_stable_diffusion(folder)
        tokenizers = base_tokenizers(ModelSource(folder))
        self.tokenizer, self.special = tokenizers.tokenizer, tokenizers.special
        self.first_added_id = len(self.tokenizer)
        widths = self.model.widths
        if learned is None:
            self.rows = {name: jnp.zeros((1, width)) for name, width in widths.items()}
        else:
            self.rows = add_learned_embeds(self.tokenizer, learned, widths=widths)

    def ids(self, *prompts):
        """`[prompts, tokens]` int32."""
        return encode_prompts(self.tokenizer, [expand_known(self.tokenizer, prompt) for prompt in prompts])

    def encoded(self, prompt):
        """What the UNet is told of a prompt: hidden states and pooled output."""
        return encode_with_rows(
            self.model,
            self.model.params,
            self.rows,
            jnp.asarray(self.ids(prompt)),
            first_added_id=self.first_added_id,
            special=self.special,
        )
