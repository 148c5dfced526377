"""The base model that a user names: its files, its tokenizer, and what is taken from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ti_flax.config.options import ModelOptions
from ti_flax.console.messages import say
from ti_flax.errors import ConfigError, TokenError
from ti_flax.models.prompt_encoding import SpecialTokens
from ti_flax.models.tokenizer import load_tokenizer
from ti_flax.models.weights.hub import resolve_model, resolve_vae
from ti_flax.models.weights.model_folder import folder_parts, names_in, parts_without, with_second_parts
from ti_flax.models.weights.model_source import ModelSource

# Files of the original layout have no tokenizer in them; this is the one all models use.
STANDARD_TOKENIZER = "openai/clip-vit-large-patch14"
# Stable Diffusion 2.x and SDXL's second encoder were trained with prompts filled up by token 0, not by the
# end of the text.
_SECOND_PAD_TOKEN = "!"
# What is read of a model folder; of an SDXL model the second tokenizer and text encoder come with the first.
MODEL_PARTS = ("tokenizer", "scheduler", "text_encoder", "unet", "vae")


def find_base_model(options: ModelOptions, components: Sequence[str], *, weights: bool = True) -> ModelSource:
    """Finds the named files, downloaded where they are not here.

    Args:
      options: what the user said.
      components: what will be read of a model folder, as for `resolve_model`; another VAE counts as one.
      weights: False where its config files are enough.

    Raises:
      WeightsError: something named is not there.
      ConfigError: options that do not belong together.
    """
    place = resolve_model(
        options.pretrained_model_name_or_path,
        revision=options.revision,
        variant=options.variant,
        components=components,
        weights=weights,
    )
    if weights and place.is_dir() and options.variant is not None:
        _note_plain_parts(place, options, components)
    described = None
    if options.config_name is not None:
        if place.is_dir():
            raise ConfigError(
                "config_name",
                expected="a single file as pretrained_model_name_or_path",
                found="a model folder, which has config files",
                remedy="Leave config_name out.",
            )
        described = resolve_model(options.config_name, components=MODEL_PARTS, weights=False)
    vae = options.pretrained_vae_model_name_or_path
    return ModelSource(
        place,
        variant=options.variant,
        config_folder=described,
        vae=None
        if vae is None or "vae" not in components
        else resolve_vae(vae, variant=options.variant, weights=weights),
        clip_skip=options.clip_skip,
        prediction_type=options.prediction_type,
        rescale_betas_zero_snr=options.rescale_betas_zero_snr,
    )


def _note_plain_parts(place: Path, options: ModelOptions, components: Sequence[str]) -> None:
    """Tells which parts the variant is not there for."""
    read = [part for part in components if part != "vae" or options.pretrained_vae_model_name_or_path is None]
    read = with_second_parts(read, folder_parts(place))
    plain = parts_without(names_in(place), options.variant or "", read)
    if plain:
        say(f"note: there is no variant {options.variant} of {', '.join(plain)}: the plain files are read")


@dataclass(frozen=True)
class BaseTokenizers:
    """The tokenizer of a base model's text encoders, which all have one vocabulary.

    Attributes:
      tokenizer: the first encoder's, which cuts prompts into tokens for all of them.
      pad_token_ids: what fills prompts up, by encoder: `text_encoder`, and of an SDXL model `text_encoder_2`.
      eos_token_id: the end of the text.
    """

    tokenizer: Any
    pad_token_ids: dict[str, int]
    eos_token_id: int

    @property
    def special(self) -> SpecialTokens:
        """What the text encoders depend on beside the text."""
        second_pad = self.pad_token_ids.get("text_encoder_2", 0)
        return SpecialTokens(self.eos_token_id, second_pad, self.tokenizer.model_max_length)


def base_tokenizers(source: ModelSource, name: str | None = None) -> BaseTokenizers:
    """Loads the tokenizers that go with a base model, or the one that the user names for all encoders.

    Raises:
      TokenError: there is no readable CLIP tokenizer, or the encoders' vocabularies differ.
      WeightsError: a folder or single file that is no model of ours.
    """
    sdxl = source.is_sdxl  # asked first: what is no model of ours has other tokenizers
    first = _tokenizer(source, name)
    pad_token_ids = {"text_encoder": first.pad_token_id}
    if sdxl:
        pad_token_ids["text_encoder_2"] = _second_pad_token_id(source, first)
    return BaseTokenizers(first, pad_token_ids, first.eos_token_id)


def base_tokenizer(source: ModelSource, name: str | None = None) -> Any:
    """Loads the tokenizer that cuts prompts into tokens, as `base_tokenizers` does."""
    return base_tokenizers(source, name).tokenizer


def _tokenizer(source: ModelSource, name: str | None) -> Any:
    if source.file is None or name is not None:
        return load_tokenizer(source.place, name)
    if source.config_folder is not None:
        return load_tokenizer(source.config_folder)
    pad_token = _SECOND_PAD_TOKEN if source.file.second else None
    return load_tokenizer(source.place, STANDARD_TOKENIZER, pad_token=pad_token)


def _second_pad_token_id(source: ModelSource, first: Any) -> int:
    """Returns what fills prompts up for SDXL's second encoder, whose vocabulary must be that of the first."""
    folder = source.place if source.file is None else source.config_folder
    if folder is None:
        return first.convert_tokens_to_ids(_SECOND_PAD_TOKEN)
    second = load_tokenizer(folder, part="tokenizer_2")
    words, others = first.get_vocab(), second.get_vocab()
    if words != others or first.eos_token_id != second.eos_token_id:
        differing = sorted(word for word in {*words, *others} if words.get(word) != others.get(word))
        example = repr(differing[0]) if differing else "the end of the text"
        raise TokenError(
            folder / "tokenizer_2",
            expected=f"the {len(words)} tokens of the first text encoder's tokenizer, with the same ids",
            found=f"{len(others)} tokens; {len(differing)} differ, such as {example}",
            remedy="Take both tokenizers from one model, and a tokenizer_name from the same.",
        )
    return second.pad_token_id


def say_notes(source: ModelSource) -> None:
    """Tells how a single file was understood where that is not certain."""
    for note in () if source.file is None else source.file.notes:
        say(f"note: {note}")
