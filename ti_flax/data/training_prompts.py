"""From options and images to the token ids of a run's prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ti_flax.config.options import MOST_CHUNKS, PromptOptions
from ti_flax.console.messages import say
from ti_flax.data.images.load import TrainingImages
from ti_flax.data.prompts.captions import (
    CaptionedImage,
    captions_beside,
    captions_in_file,
    captions_in_names,
    captions_of_source,
)
from ti_flax.data.prompts.prompt_table import (
    CaptionRules,
    PromptTable,
    encode_table,
    joined_tables,
    prompt_table,
    shortened,
)
from ti_flax.data.prompts.templates import Template, built_in_templates, fill, own_templates, read_templates
from ti_flax.errors import DataError, TokenError
from ti_flax.models.tokenizer import encode_prompts, prompts_cut_off, split_text
from ti_flax.models.word_places import Concept


class TrainingPrompts(NamedTuple):
    """The prompts of a run as the device needs them.

    Attributes:
      token_ids: `[groups, variants, tokens]` int32.
      groups: `[images]` int32, which group describes each image.
      table: the same as texts.
    """

    token_ids: np.ndarray
    groups: np.ndarray
    table: PromptTable


class PromptSource(NamedTuple):
    """What describes the images of one source, or of all.

    Attributes:
      options: of captions and templates.
      templates: patterns of prompts.
    """

    options: PromptOptions
    templates: Sequence[Template]


def make_prompts(
    sources: Sequence[PromptSource],
    tokenizer: Any,
    concept: Concept,
    images: TrainingImages,
    *,
    seed: int,
) -> TrainingPrompts:
    """Makes the prompts of all images, and says how.

    Args:
      sources: one for all images, or one for each of their sources.
      tokenizer: with the concept's tokens.
      concept: its words.
      images: names and paths, and captions where their source has them.
      seed: decides what is drawn.

    Raises:
      DataError: a caption is missing, cannot be read or lacks the word.
      TokenError: the word is cut off in a prompt.
    """
    tables = [
        prompt_table(
            concept,
            each.templates,
            images=own.names,
            captions=read_captions(each.options, own),
            rules=caption_rules(each.options),
            seed=seed,
        )
        for place, each in enumerate(sources)
        for own in (images if len(sources) == 1 else images.of_source(place),)
    ]
    table = joined_tables(tables)
    # Of all sources alike: it is no option of one.
    token_ids = encode_table(tokenizer, table, concept, sources[0].options.chunks)
    require_all_words(concept, token_ids)
    say_prompts(table, concept, tokenizer, token_ids)
    return TrainingPrompts(token_ids, np.asarray(table.groups, np.int32), table)


def require_all_words(concept: Concept, token_ids: np.ndarray) -> None:
    """Refuses a word that no training prompt names.

    Args:
      concept: its words.
      token_ids: of all prompts.

    Raises:
      DataError: there is one.
    """
    for word in concept.words:
        if not np.any(token_ids == word.token_ids[0]):
            raise DataError(
                f"placeholder_token {word.placeholder_token!r}",
                expected="a training prompt that names it",
                found=f"none of {token_ids.shape[0] * token_ids.shape[1]}",
                remedy="It would learn nothing: name it in captions or in a template ({} stands for all "
                "words), or leave it out.",
            )


def chosen_templates(
    options: PromptOptions, learnable_property: str, words: Sequence[str] = ()
) -> tuple[Template, ...]:
    """The templates that the options name: a file's, the option's own, else a built-in set.

    Args:
      options: of captions and templates.
      learnable_property: object or style.
      words: of the concept, which templates may name.

    Raises:
      DataError: they cannot be used.
    """
    captions = options.captions != "none"
    if options.template_file is not None:
        return read_templates(options.template_file, captions=captions, words=words)
    if options.prompt_template is not None:
        return own_templates(options.prompt_template, captions=captions, words=words)
    return built_in_templates(options.templates or learnable_property, captions=captions)


def class_prompts(
    own: str | None, templates: Sequence[Template], tokenizer: Any, concept: Concept, chunks: int = 1
) -> np.ndarray:
    """The prompts of the class images: their own, else the templates without captions, in so many chunks.

    Returns:
      `[prompts, tokens]` int32.

    Raises:
      TokenError: the word is cut off in a prompt, or the tokenizer does not see it.
    """
    if own is not None and not concept.named_in(own):
        raise TokenError(
            "class_prompt",
            expected=f"a prompt in which the tokenizer sees {concept.either}",
            found=f"{own!r}, read as {split_text(tokenizer, own)}",
            remedy="Write the word with blanks around it.",
        )
    words = [word.text for word in concept.words]
    prompts = [fill(each, words, "") for each in templates] if own is None else [own]
    return encode_prompts(tokenizer, prompts, concept=concept, chunks=chunks)


def read_captions(options: PromptOptions, images: TrainingImages) -> tuple[str, ...] | None:
    """The caption of each image from where the options say; None without captions.

    Raises:
      DataError: one is missing or cannot be read.
    """
    captioned = [
        CaptionedImage(*each) for each in zip(images.names, images.paths, images.captions, strict=True)
    ]
    if options.captions == "files":
        return captions_beside(captioned, options.caption_extension)
    if options.captions == "filename":
        return captions_in_names(captioned, options.filename_pattern)
    if options.captions == "metadata":
        return captions_of_source(captioned)
    if options.caption_file is not None:
        return captions_in_file(captioned, options.caption_file)
    return None


def caption_rules(options: PromptOptions) -> CaptionRules:
    """What the options do with captions."""
    return CaptionRules(
        prefix=options.caption_prefix or "",
        suffix=options.caption_suffix or "",
        separator=options.caption_separator,
        shuffle=options.shuffle_caption,
        keep_tokens=options.keep_tokens,
        tag_dropout=options.caption_tag_dropout_rate,
        dropout=options.caption_dropout_rate,
        wildcards=options.enable_wildcard,
    )


def say_prompts(table: PromptTable, concept: Concept, tokenizer: Any, token_ids: np.ndarray) -> None:
    """Says how prompts are made, with an example, and how many are too long."""
    example = concept.with_names(table.prompts[0][0])
    say(f"prompts   {table.description}, such as {shortened(example, 80)!r}")
    prompts = [prompt for row in table.prompts for prompt in row]
    rows = dict(zip(prompts, token_ids.reshape(len(prompts), -1), strict=True))
    cut = prompts_cut_off(tokenizer, list(rows), np.stack(list(rows.values())))
    if cut:
        origin = f" of {table.origins[cut[0]]}" if table.origins[cut[0]] else ""
        more = token_ids.shape[-1] // tokenizer.model_max_length < MOST_CHUNKS
        say(
            f"note: the ends of {len(cut)} of {len(rows)} prompts are cut off after "
            f"{token_ids.shape[-1]} tokens, first {shortened(cut[0])!r}{origin}"
            + ("; a larger max_token_length reads on" if more else "")
        )
