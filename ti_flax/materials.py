"""What a run learns from: concept, pictures and model, read and encoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ti_flax.checkpoint import tree_digest
from ti_flax.config import RunConfig
from ti_flax.embedding import check_table, initial_rows
from ti_flax.errors import ConfigError, DataError
from ti_flax.examples import Examples, one_shape, with_class_pictures
from ti_flax.export.pipeline import CARRIED
from ti_flax.images import TrainingImages, load_images
from ti_flax.latents import default_cache_dir, encode_posteriors
from ti_flax.messages import say
from ti_flax.models.attention import Attention
from ti_flax.models.stable_diffusion import FlaxStableDiffusion, load_stable_diffusion
from ti_flax.models.weights import resolve_model
from ti_flax.tokens import Concept, add_concept, load_tokenizer
from ti_flax.training_prompts import chosen_templates, class_prompts, make_prompts

MODEL_PARTS = ("tokenizer", "scheduler", "text_encoder", "unet", "vae")


@dataclass(frozen=True)
class Materials:
    """What a run learns from, read and encoded.

    Attributes:
      concept: the new word.
      tokenizer: with the concept's tokens.
      images: pixels and names.
      model: modules and parameters; those of the VAE only if previews need them.
      examples: encoded pictures and prompts.
    """

    concept: Concept
    tokenizer: Any
    images: TrainingImages
    model: FlaxStableDiffusion
    examples: Examples

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the rows belong to; a checkpoint of anything else cannot be resumed."""
        parts = {name: self.model.params[name] for name in ("text_encoder", "unet")}
        buckets = (*self.examples.buckets, *(self.examples.class_buckets or ()))
        prompts = (self.examples.token_ids, [bucket.prompts for bucket in buckets])
        return {
            "concept": f"{self.concept.text} from {self.concept.initializer_token}",
            "model": tree_digest(parts),
            "images": tree_digest([bucket._replace(prompts=()) for bucket in buckets]),
            "prompts": tree_digest(prompts, whole=True),
        }

    @property
    def token_table(self) -> np.ndarray:
        """The frozen token table, `[vocabulary, width]`."""
        return token_table(self.model)

    @property
    def start_rows(self) -> np.ndarray:
        """The concept's rows before any update, `[num_vectors, width]` float32."""
        return initial_rows(
            self.token_table,
            initializer_id=self.concept.initializer_id,
            num_vectors=len(self.concept.tokens),
        )


def gather(config: RunConfig) -> Materials:
    """Reads tokenizer, images and weights, cheap things that can be wrong first, and encodes the images."""
    options = config.model
    find_model = partial(
        resolve_model,
        options.pretrained_model_name_or_path,
        revision=options.revision,
        variant=options.variant,
    )
    folder = find_model(components=("tokenizer",))
    tokenizer = load_tokenizer(folder, options.tokenizer_name)
    concept = add_concept(
        tokenizer,
        placeholder_token=config.concept.placeholder_token,
        initializer_token=config.concept.initializer_token,
        num_vectors=config.concept.num_vectors,
    )
    templates = chosen_templates(config)
    read = partial(
        load_images,
        resolution=config.images.resolution,
        center_crop=config.images.center_crop,
        interpolation=config.images.interpolation,
    )
    images = read(config.images.train_data_dir)
    passed_over = f", {len(images.passed_over)} other files passed over" if images.passed_over else ""
    say(f"{len(images.names)} images{passed_over}")
    prompts = make_prompts(config, templates, tokenizer, concept, images)
    class_images = None
    if config.loss.class_data_dir is not None:
        try:
            class_images = read(config.loss.class_data_dir)
        except DataError as error:  # which names the option of the training pictures
            raise DataError(str(error).replace("train_data_dir", "class_data_dir")) from None
        say(f"{len(class_images.names)} class pictures")
    carried = () if config.output.only_save_embeds else CARRIED
    folder = find_model(components=(*MODEL_PARTS, *carried))
    model = load_stable_diffusion(
        folder,
        dtype=jnp.dtype(options.compute_dtype),
        variant=options.variant,
        attention=chosen_attention(options.attention),
    )
    check_table(token_table(model), concept.token_ids[0])
    encode = partial(
        encode_posteriors,
        model.vae,
        model.params["vae"],
        dtype=model.dtype,
        cache_dir=config.images.latents_cache_dir or default_cache_dir(),
        progress=partial(tqdm, desc="encoding images and mirror images", unit="", leave=False),
    )
    (bucket,), _, _ = one_shape(encode(images.pixels, names=images.names), prompts.token_ids[0])
    examples = Examples((bucket._replace(prompts=prompts.groups),), prompts.token_ids)
    if class_images is not None:
        class_posteriors = encode(class_images.pixels, names=class_images.names)
        class_token_ids = class_prompts(config, templates, tokenizer, concept)
        examples = with_class_pictures(examples, [class_posteriors], class_token_ids)
    if config.watching.validation_prompt is None:
        del model.params["vae"]
    return Materials(concept, tokenizer, images, model, examples)


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
