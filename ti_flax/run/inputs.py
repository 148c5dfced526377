"""What a run learns from: concept, images and model, read, and then encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.config import RunConfig
from ti_flax.config.options import DIRECTIONAL, HubOptions
from ti_flax.console.messages import stage
from ti_flax.data.dataset import Dataset, encoded, with_class_images
from ti_flax.data.encoding import Encoding, settle_encoding
from ti_flax.data.images.load import TrainingImages
from ti_flax.data.latents import Encoder
from ti_flax.data.prompts.prompt_table import PromptTable
from ti_flax.data.training_images import (
    latents_cache,
    make_buckets,
    read_class_images,
    read_images,
    sizes_told,
)
from ti_flax.data.training_prompts import (
    PromptSource,
    TrainingPrompts,
    chosen_templates,
    class_prompts,
    make_prompts,
)
from ti_flax.embedding.bases import checked_rows
from ti_flax.embedding.contents import FIRST, SECOND
from ti_flax.embedding.initialization import (
    FrozenEmbedding,
    Initialization,
    add_frozen_embeddings,
    read_frozen_embeddings,
    resolve_initialization,
)
from ti_flax.embedding.learned_embeds import check_words
from ti_flax.embedding.rows import AddedRows, add_rows, check_table
from ti_flax.errors import ConfigError, DataError
from ti_flax.export.card_images import MOST_CONCEPT_IMAGES
from ti_flax.export.pipeline import CARRIED, carried_parts
from ti_flax.hosts import group as hosts
from ti_flax.models.attention import Attention
from ti_flax.models.base_model import MODEL_PARTS, BaseTokenizers, base_tokenizers, find_base_model, say_notes
from ti_flax.models.stable_diffusion import FlaxStableDiffusion, load_stable_diffusion, token_table
from ti_flax.models.tokenizer import add_word
from ti_flax.models.weights.model_source import ModelSource
from ti_flax.models.word_places import Concept, Word
from ti_flax.monitoring.previews import STEPS_SHOWN
from ti_flax.run.named_paths import other_roles
from ti_flax.run.preview_prompts import PreviewPrompts, read_preview_prompts
from ti_flax.training.checkpoint import tree_digest
from ti_flax.training.state import KEY_IMPLEMENTATION


@dataclass(frozen=True)
class TrainingInputs:
    """What a run learns from.

    Attributes:
      concept: its new words.
      tokenizers: with the concept's tokens.
      images: names, captions and weights, and on the first host the pixels of those that are shown.
      model: modules and parameters; those of the VAE only if previews need them, on the first host.
      examples: images, encoded or to be encoded, and prompts.
      images_digest: stands for the images and for what encoded them.
      added: the rows beside the token table before any update: the concept's, then loaded ones.
      frozen_words: embeddings that prompts may name and that stay as they are.
      origins: what the rows of each word start from, in words.
      prompts: the training prompts as texts.
      previews: what previews show, and how they are drawn.
    """

    concept: Concept
    tokenizers: BaseTokenizers
    images: TrainingImages
    model: FlaxStableDiffusion
    examples: Dataset
    images_digest: str
    added: AddedRows
    frozen_words: tuple[Word, ...]
    origins: tuple[str, ...]
    prompts: PromptTable
    previews: PreviewPrompts

    @property
    def tokenizer(self) -> Any:
        """What cuts prompts into tokens."""
        return self.tokenizers.tokenizer

    def encoded(self) -> TrainingInputs:
        """The same with the images encoded, once each."""
        return dataclasses.replace(self, examples=encoded(self.examples))

    def with_rows(self, added: AddedRows) -> TrainingInputs:
        """The same with other rows before any update."""
        return dataclasses.replace(self, added=added)

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the rows belong to; a checkpoint of anything else cannot be resumed."""
        buckets = (*self.examples.buckets, *(self.examples.class_buckets or ()))
        of_images = [bucket.prompts for bucket in buckets]
        prompts = (self.examples.token_ids, of_images, self.examples.class_token_ids)
        shown = [
            (bucket.sample_indices, bucket.loss_weights, bucket.time_ids, bucket.flip_p) for bucket in buckets
        ]
        beside = "".join(f" beside {other.text}" for other in self.frozen_words)
        loaded = {"extra_embeds": tree_digest(self.added.loaded)} if self.frozen_words else {}
        each = zip(self.concept.words, self.origins, strict=True)
        words = " and ".join(f"{word.text} from {origin}" for word, origin in each)
        return {
            "concept": f"{words}{beside}",
            **loaded,
            "model": tree_digest(self.model.step_params),
            "images": tree_digest([np.asarray(self.images_digest), *shown]),
            "prompts": tree_digest(prompts, whole=True),
        }


def load_inputs(config: RunConfig) -> TrainingInputs:
    """Reads everything that a run learns from, and encodes the images."""
    return read_inputs(config).encoded()


def read_inputs(
    config: RunConfig, model: FlaxStableDiffusion | None = None, *, all_pixels: bool = False
) -> TrainingInputs:
    """Reads tokenizer, images and weights, cheap things that can be wrong first; encodes nothing.

    Args:
      config: of the run.
      model: that is there already, with its VAE; None: it is read.
      all_pixels: keep the pixels of all images, not of those alone that a run shows.
    """
    previews, tokens = read_preview_prompts(config), add_concept_tokens(config)
    sources = prompt_sources(config)
    templates = chosen_templates(config.prompts, config.concept.learnable_property, config.concept.words)
    seed = config.training.seed or 0
    images = read_images(
        config.images,
        "files" if any(each.options.captions == "files" for each in sources) else config.prompts.captions,
        other_roles(config, "train_data_dir"),
        of_sdxl=tokens.of_sdxl,
        seed=seed,
    )
    refuse_uploads_through_links(config.hub, images)
    class_images = read_class_images(
        config.loss.class_data_dir,
        config.images,
        images,
        other_roles(config, "class_data_dir"),
        seed=seed,
    )
    prompts = make_prompts(sources, tokens.tokenizer, tokens.concept, images, seed=seed)
    class_token_ids = None
    if class_images is not None:
        class_token_ids = class_prompts(
            config.class_prompt, templates, tokens.tokenizer, tokens.concept, config.prompts.chunks
        )
    if model is None:
        with stage("loading the model"):
            model = read_model(config)
    added = start_rows(config, tokens, token_tables(model))
    encoding = chosen_encoding(config, model, images, class_images)
    examples = make_examples(
        config, encoding, images, class_images, prompts, class_token_ids, sizes=model.is_sdxl
    )
    if not config.monitoring.draws_previews or not hosts.is_first():
        model = without_vae(model)
    return TrainingInputs(
        concept=tokens.concept,
        tokenizers=tokens.tokenizers,
        images=images
        if all_pixels
        else images.with_pixels_of(images_shown(config) if hosts.is_first() else 0),
        model=model,
        examples=examples,
        images_digest=encoding.digest,
        added=added,
        frozen_words=tokens.frozen_words,
        origins=tuple(start.origin for start in tokens.starts),
        prompts=prompts.table,
        previews=previews,
    )


def prompt_sources(config: RunConfig) -> list[PromptSource]:
    """The options of prompts of each source of images; of one alone where they are the run's."""
    given = config.images.train_data_dir
    own = any(not isinstance(each, str) for each in given)
    configs = [config.of_source(place) for place in range(len(given))] if own else [config]
    return [
        PromptSource(
            each.prompts,
            chosen_templates(each.prompts, each.concept.learnable_property, each.concept.words),
        )
        for each in configs
    ]


def without_vae(model: FlaxStableDiffusion) -> FlaxStableDiffusion:
    """The model without the parameters of its VAE, which then go when the images are encoded."""
    params = {part: tree for part, tree in model.params.items() if part != "vae"}
    return dataclasses.replace(model, params=params)


def chosen_encoding(
    config: RunConfig,
    model: FlaxStableDiffusion,
    images: TrainingImages,
    class_images: TrainingImages | None,
) -> Encoding:
    """Settles how the images are encoded and where the result goes, and says it."""
    return settle_encoding(
        Encoder(model.vae, model.params["vae"], model.vae.dtype),
        images,
        class_images,
        flip_p={*config.images.of_each_source("flip_p"), *([config.images.flip_p] if class_images else [])},
        cache=latents_cache(config.images),
    )


def make_examples(
    config: RunConfig,
    encoding: Encoding,
    images: TrainingImages,
    class_images: TrainingImages | None,
    prompts: TrainingPrompts,
    class_token_ids: np.ndarray | None,
    *,
    sizes: bool = False,
) -> Dataset:
    """Images in buckets, not encoded yet, and what prompts describe them.

    With `sizes` the examples tell the model the sizes and crops of the images (SDXL).
    """
    buckets = make_buckets(
        config.images,
        images,
        encoding,
        prompts=prompts.groups.tolist(),
        weights=images.weights,
        sizes=sizes,
    )
    examples = Dataset(buckets, prompts.token_ids)
    if class_images is None or class_token_ids is None:
        return examples
    class_posteriors = [
        encoding.unencoded(group, len(buckets) + number, class_images.names)
        for number, group in enumerate(class_images.groups)
    ]
    told = [sizes_told(group, encoding) for group in class_images.groups] if sizes else None
    return with_class_images(examples, class_posteriors, class_token_ids, told, encoding.variants)


def images_shown(config: RunConfig) -> int:
    """How many of the images previews and the result show."""
    by_result = MOST_CONCEPT_IMAGES if config.hub.hub_concept_images else 0
    by_previews = images_beside_previews(config) if config.monitoring.draws_previews else 0
    return max(by_previews, by_result)


def images_beside_previews(config: RunConfig) -> int:
    """How many of the images the sheet of the previews shows, if there are as many."""
    return max(config.monitoring.num_validation_images, STEPS_SHOWN)


def refuse_uploads_through_links(hub: HubOptions, images: TrainingImages) -> None:
    """Refuses to upload copies of images that a link in a folder takes from elsewhere on this machine.

    Raises:
      DataError: there are such images.
    """
    if hub.push_to_hub and hub.hub_concept_images and images.leaving:
        raise DataError(
            "train_data_dir",
            expected="images in the folder itself, as push_to_hub uploads copies of them",
            found=f"links out of it ({len(images.leaving)}, such as {images.leaving[0]})",
            remedy="Replace the links by the files, or set hub_concept_images to false.",
        )


@dataclass(frozen=True)
class ConceptTokens:
    """The tokenizer with the new words and loaded ones, what they start from, and whether they are SDXL's."""

    tokenizers: BaseTokenizers
    of_sdxl: bool
    concept: Concept
    starts: tuple[Initialization, ...]
    embeddings: list[FrozenEmbedding]
    frozen_words: tuple[Word, ...]

    @property
    def tokenizer(self) -> Any:
        """What cuts prompts into tokens."""
        return self.tokenizers.tokenizer


def add_concept_tokens(config: RunConfig) -> ConceptTokens:
    """Adds the concept's tokens, and those of loaded embeddings, to the tokenizer."""
    source = find_base_model(config.model, components=("tokenizer",))
    refuse_second_alone(config, source)
    tokenizers = base_tokenizers(source, config.model.tokenizer_name)
    tokenizer = tokenizers.tokenizer
    say_notes(source)
    words = config.concept.each
    starts = tuple(resolve_initialization(each, tokenizer, place) for place, each in enumerate(words))
    embeddings = read_frozen_embeddings(config.concept.extra_embeds)
    check_words(
        {each.placeholder_token: start.num_vectors for each, start in zip(words, starts, strict=True)},
        sdxl=source.is_sdxl,
    )
    concept = Concept(
        tuple(
            add_word(tokenizer, placeholder_token=each.placeholder_token, num_vectors=start.num_vectors)
            for each, start in zip(words, starts, strict=True)
        )
    )
    frozen_words = add_frozen_embeddings(tokenizer, embeddings, concept)
    return ConceptTokens(tokenizers, source.is_sdxl, concept, starts, embeddings, frozen_words)


def refuse_second_alone(config: RunConfig, source: ModelSource) -> None:
    """Refuses to learn for a second text encoder that the model does not have.

    Raises:
      ConfigError: it is no SDXL model.
    """
    if config.concept.learned_text_encoders == "second" and not source.is_sdxl:
        raise ConfigError(
            "learned_text_encoders",
            expected="both or first for a model with one text encoder",
            found="second, which SDXL models have",
        )


def read_model(config: RunConfig) -> FlaxStableDiffusion:
    """Reads the whole model."""
    carried = () if config.output.only_save_embeds or not hosts.is_first() else CARRIED
    source = find_base_model(config.model, components=(*MODEL_PARTS, *carried))
    if carried:
        carried_parts(source.place)  # what would be wrong at the export is said before the training
    return load_stable_diffusion(
        source,
        dtype=jnp.dtype(config.model.compute_dtype),
        attention=chosen_attention(config.model.attention),
    )


def start_rows(config: RunConfig, tokens: ConceptTokens, tables: Mapping[str, np.ndarray]) -> AddedRows:
    """The rows beside the token tables before any update, on the sphere where directions alone learn."""
    first_added_id = tokens.concept.token_ids[0]
    for table in tables.values():
        check_table(table, first_added_id)
    key = jax.random.key(config.training.seed or 0, impl=KEY_IMPLEMENTATION)
    known = {encoder: table[:first_added_id] for encoder, table in tables.items()}
    widths = {encoder: table.shape[1] for encoder, table in tables.items()}
    started = [start.rows(known, key) for start in tokens.starts]
    added = add_rows(
        known,
        {encoder: np.concatenate([rows[encoder] for rows in started]) for encoder in tables},
        [checked_rows(other.file, other.path, widths) for other in tokens.embeddings],
        learning=learning_encoders(config.concept.learned_text_encoders),
    )
    return added.on_sphere() if config.optimizer.optimizer == DIRECTIONAL else added


def learning_encoders(learned_text_encoders: str) -> tuple[str, ...]:
    """The names of the text encoders whose rows learn."""
    return {"both": (FIRST, SECOND), "first": (FIRST,), "second": (SECOND,)}[learned_text_encoders]


def chosen_attention(name: str, platform: str | None = None) -> Attention:
    """The implementation of attention that was asked for, on the machine's platform (None: JAX's).

    Raises:
      ConfigError: it is another machine's.
    """
    needed, here = {"cudnn": "gpu", "flash": "tpu"}.get(name), platform or jax.default_backend()
    if needed is not None and needed != here:
        raise ConfigError(
            "attention",
            expected=f"auto, plain or blockwise on this machine ({here})",
            found=f"{name}, which needs a {needed.upper()}",
        )
    return Attention(name)


def token_tables(model: FlaxStableDiffusion) -> dict[str, np.ndarray]:
    """The frozen token tables of a model, `[vocabulary, width]` by text encoder."""
    return {encoder: token_table(model.params, encoder) for encoder in model.text_encoders}
