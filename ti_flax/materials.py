"""What a run learns from: concept, pictures and model, read and encoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ti_flax.base_model import MODEL_PARTS, base_tokenizer, find_base_model, say_notes
from ti_flax.cache import default_cache_dir
from ti_flax.checkpoint import tree_digest
from ti_flax.config import RunConfig
from ti_flax.embedding import AddedRows, add_rows, check_table
from ti_flax.embedding_files import checked_width
from ti_flax.errors import ConfigError, DataError
from ti_flax.examples import Examples, one_shape, with_class_pictures
from ti_flax.export.pipeline import CARRIED
from ti_flax.images import TrainingImages, load_images
from ti_flax.latents import encode_posteriors
from ti_flax.messages import say
from ti_flax.models.attention import Attention
from ti_flax.models.stable_diffusion import FlaxStableDiffusion, load_stable_diffusion
from ti_flax.sources.table_options import TableOptions
from ti_flax.start import Extra, Start, add_extras, find_start, read_extras
from ti_flax.step import KEY_IMPLEMENTATION
from ti_flax.tokens import Concept, add_concept
from ti_flax.training_prompts import chosen_templates, class_prompts, make_prompts


@dataclass(frozen=True)
class Materials:
    """What a run learns from, read and encoded.

    Attributes:
      concept: the new word.
      tokenizer: with the concept's tokens.
      images: pixels, names, captions and weights.
      model: modules and parameters; those of the VAE only if previews need them.
      examples: encoded pictures and prompts.
      added: the rows beside the token table before any update: the concept's, then loaded ones.
      extras: embeddings that prompts may name and that stay as they are.
      origin: what the concept's rows start from, in words.
    """

    concept: Concept
    tokenizer: Any
    images: TrainingImages
    model: FlaxStableDiffusion
    examples: Examples
    added: AddedRows
    extras: tuple[Concept, ...]
    origin: str

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the rows belong to; a checkpoint of anything else cannot be resumed."""
        parts = {name: self.model.params[name] for name in ("text_encoder", "unet")}
        buckets = (*self.examples.buckets, *(self.examples.class_buckets or ()))
        prompts = (self.examples.token_ids, [bucket.prompts for bucket in buckets])
        beside = "".join(f" beside {extra.text}" for extra in self.extras)
        loaded = {"extra_embeds": tree_digest(self.added.start[~self.added.trainable])} if self.extras else {}
        return {
            "concept": f"{self.concept.text} from {self.origin}{beside}",
            **loaded,
            "model": tree_digest(parts),
            "images": tree_digest([bucket._replace(prompts=()) for bucket in buckets]),
            "prompts": tree_digest(prompts, whole=True),
        }


def gather(config: RunConfig) -> Materials:
    """Reads tokenizer, images and weights, cheap things that can be wrong first, and encodes the images."""
    words = find_words(config)
    templates = chosen_templates(config)
    images, class_images = read_pictures(config)
    prompts = make_prompts(config, templates, words.tokenizer, words.concept, images)
    model = read_model(config)
    added = start_rows(config, words, token_table(model))
    encode = partial(
        encode_posteriors,
        model.vae,
        model.params["vae"],
        dtype=model.dtype,
        cache_dir=config.images.latents_cache_dir or default_cache_dir(),
        progress=partial(tqdm, desc="encoding images and mirror images", unit="", leave=False),
    )
    (bucket,), _, _ = one_shape(
        encode(images.pixels, names=images.names), prompts.token_ids[0], images.weights
    )
    examples = Examples((bucket._replace(prompts=prompts.groups),), prompts.token_ids)
    if class_images is not None:
        class_posteriors = encode(class_images.pixels, names=class_images.names)
        class_token_ids = class_prompts(config, templates, words.tokenizer, words.concept)
        examples = with_class_pictures(examples, [class_posteriors], class_token_ids)
    if config.watching.validation_prompt is None:
        del model.params["vae"]
    return Materials(
        concept=words.concept,
        tokenizer=words.tokenizer,
        images=images,
        model=model,
        examples=examples,
        added=added,
        extras=words.beside,
        origin=words.start.origin,
    )


@dataclass(frozen=True)
class Words:
    """The tokenizer with the new word and loaded ones, and what they start from."""

    tokenizer: Any
    concept: Concept
    start: Start
    extras: list[Extra]
    beside: tuple[Concept, ...]


def find_words(config: RunConfig) -> Words:
    """Adds the concept's tokens, and those of loaded embeddings, to the tokenizer."""
    source = find_base_model(config.model, components=("tokenizer",))
    tokenizer = base_tokenizer(source, config.model.tokenizer_name)
    say_notes(source)
    start = find_start(config.concept, tokenizer)
    extras = read_extras(config.concept.extra_embeds)
    concept = add_concept(
        tokenizer, placeholder_token=config.concept.placeholder_token, num_vectors=start.num_vectors
    )
    return Words(tokenizer, concept, start, extras, add_extras(tokenizer, extras, concept))


def read_pictures(config: RunConfig) -> tuple[TrainingImages, TrainingImages | None]:
    """Reads the training pictures and, for prior preservation, those of the class."""
    table = TableOptions(
        image_column=config.images.image_column,
        caption_column=config.images.caption_column,
        dataset_config_name=config.images.dataset_config_name,
        dataset_split=config.images.dataset_split,
    )
    read = partial(
        load_images,
        resolution=config.images.resolution,
        center_crop=config.images.center_crop,
        interpolation=config.images.interpolation,
    )
    images = read(config.images.train_data_dir, repeats=config.images.repeats, table=table)
    passed_over = f", {len(images.passed_over)} other files passed over" if images.passed_over else ""
    say(f"{len(images.names)} images{passed_over}")
    for line in images.notes:
        say(f"note: {line}")
    if config.loss.class_data_dir is None:
        return images, None
    try:
        class_images = read(config.loss.class_data_dir)
    except DataError as error:  # which names the option of the training pictures
        raise DataError(str(error).replace("train_data_dir", "class_data_dir")) from None
    say(f"{len(class_images.names)} class pictures")
    return images, class_images


def read_model(config: RunConfig) -> FlaxStableDiffusion:
    """Reads the whole model."""
    carried = () if config.output.only_save_embeds else CARRIED
    return load_stable_diffusion(
        find_base_model(config.model, components=(*MODEL_PARTS, *carried)),
        dtype=jnp.dtype(config.model.compute_dtype),
        attention=chosen_attention(config.model.attention),
    )


def start_rows(config: RunConfig, words: Words, table: np.ndarray) -> AddedRows:
    """The rows beside the token table before any update."""
    first_added_id = words.concept.token_ids[0]
    check_table(table, first_added_id)
    key = jax.random.key(config.training.seed or 0, impl=KEY_IMPLEMENTATION)
    return add_rows(
        table[:first_added_id],
        words.start.rows(table[:first_added_id], key),
        [checked_width(extra.file, extra.path, table.shape[1]) for extra in words.extras],
    )


def chosen_attention(name: str) -> Attention:
    """The implementation of attention that was asked for.

    Raises:
      ConfigError: it is another machine's.
    """
    needed, here = {"cudnn": "gpu", "flash": "tpu"}.get(name), jax.default_backend()
    if needed is not None and needed != here:
        raise ConfigError(
            "attention",
            expected=f"auto, plain or blockwise on this machine ({here})",
            found=f"{name}, which needs a {needed.upper()}",
        )
    return Attention(name)


def token_table(model: FlaxStableDiffusion) -> np.ndarray:
    """The frozen token table of a model, `[vocabulary, width]`."""
    return model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
