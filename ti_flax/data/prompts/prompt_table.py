"""The prompts of every image: templates x captions, with what is random about them drawn beforehand."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ti_flax.data.prompts.templates import Template, fill, without_word
from ti_flax.errors import DataError
from ti_flax.models.tokenizer import encode_prompts
from ti_flax.models.word_places import Concept

# Where something is random: prompts drawn for each caption, about 4 for each of 4,000 samples of it.
DRAWN_VARIANTS = 1000
# Rows of the whole table, 20 MB of token ids on each device.
MOST_ROWS = 65536
# Tells the draws of prompts from other draws of the same seed.
_STREAM = 1

# Tells whether the tokenizer sees the word in a text.
Names = Callable[[str], bool]

_CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class CaptionRules:
    """What is done with a caption before it enters a template, in kohya's words.

    Attributes:
      prefix: put before it, with a blank.
      suffix: put after it, with a blank.
      separator: what its tags are apart by.
      shuffle: tags behind the kept ones change places from sample to sample.
      keep_tokens: the first tags, that stay where they are and are never left out.
      tag_dropout: chance that any other tag is left out; one that names the word never is.
      dropout: chance that the caption is left out; the word stays.
      wildcards: `{a|b}` is a or b, and of several lines any one counts.
    """

    prefix: str = ""
    suffix: str = ""
    separator: str = ","
    shuffle: bool = False
    keep_tokens: int = 0
    tag_dropout: float = 0.0
    dropout: float = 0.0
    wildcards: bool = False

    def draws(self, caption: str, names: Names) -> bool:
        """Whether any two samples of this caption may differ."""
        if self.wildcards and (_CHOICE.search(caption) or len(caption.splitlines()) > 1):
            return True
        free = self.tags(caption)[self.keep_tokens :]
        droppable = [tag for tag in free if not names(tag)]
        return bool(
            (self.dropout and caption.strip())
            or (self.shuffle and len(free) > 1)
            or (self.tag_dropout and droppable)
        )

    def vary(self, caption: str, names: Names, rng: np.random.Generator) -> str:
        """Draw what one sample makes of a caption."""
        if self.dropout and rng.random() < self.dropout:
            return ""
        if self.wildcards:
            caption = _chosen(caption, rng)
        if not (self.shuffle or self.tag_dropout):
            return " ".join(caption.split())
        tags = self.tags(caption)
        kept, free = tags[: self.keep_tokens], tags[self.keep_tokens :]
        if self.shuffle:
            free = [free[index] for index in rng.permutation(len(free))]
        if self.tag_dropout:
            stays = rng.random(len(free)) >= self.tag_dropout
            free = [tag for tag, stay in zip(free, stays, strict=True) if stay or names(tag)]
        return f"{self.separator.strip()} ".join([*kept, *free])

    def tags(self, caption: str) -> list[str]:
        """Return what the separator cuts a caption into, without blanks around."""
        tags = (" ".join(tag.split()) for tag in caption.split(self.separator))
        return [tag for tag in tags if tag]


def _chosen(caption: str, rng: np.random.Generator) -> str:
    lines = [line for line in caption.splitlines() if line.strip()]
    caption = lines[rng.integers(len(lines))] if lines else ""

    def choose(match: re.Match[str]) -> str:
        words = match[1].split("|")
        return words[rng.integers(len(words))]

    return _CHOICE.sub(choose, caption)


@dataclass(frozen=True)
class PromptTable:
    """The prompts of one concept's images.

    Attributes:
      prompts: `[groups][variants]`, texts with the word written out; a sample takes any variant of its group.
      groups: `[images]`, which group describes each image.
      origins: prompt to the image or line it was made from, for messages.
      description: how the prompts are made, for people.
    """

    prompts: tuple[tuple[str, ...], ...]
    groups: tuple[int, ...]
    origins: Mapping[str, str]
    description: str


def prompt_table(
    concept: Concept,
    templates: Sequence[Template],
    *,
    images: Sequence[str],
    captions: Sequence[str] | None = None,
    rules: CaptionRules | None = None,
    seed: int = 0,
) -> PromptTable:
    """Make the prompts of one concept's images.

    Images with the same caption form a group. Where nothing is random a group has every template once, or
    a single prompt where templates make no difference. Otherwise prompts are drawn: 1000 a group, in which
    every template is as often as any other, or fewer where 65,536 in all would be exceeded.

    Args:
      concept: its words.
      templates: its patterns of prompts.
      images: names of its images, for messages.
      captions: of each image, None for prompts without.
      rules: what is done with captions; None: nothing.
      seed: of the run; with the order of the captions it decides all draws.

    Raises:
      DataError: a caption lacks the word, and a template leaves the word to it.
    """
    rules = rules or CaptionRules()
    if captions is None:
        words = _texts(concept)
        prompts = tuple(fill(template, words, "") for template in templates)
        origins = {prompt: template.where for prompt, template in zip(prompts, templates, strict=True)}
        return PromptTable((prompts,), (0,) * len(images), origins, _count(len(prompts), "template"))
    captions = [_affixed(caption, rules) for caption in captions]
    names = functools.cache(concept.named_in)
    _check_word(concept, templates, images, captions, names)
    distinct = list(dict.fromkeys(captions))
    group = {caption: index for index, caption in enumerate(distinct)}
    prompts = _drawn(concept, templates, distinct, rules, seed, names)
    first = dict(zip(reversed(captions), reversed(images), strict=True))
    origins = {
        prompt: first[caption] for caption, row in zip(distinct, prompts, strict=True) for prompt in row
    }
    return PromptTable(
        prompts,
        tuple(group[caption] for caption in captions),
        origins,
        _description(distinct, templates, rules, prompts, names, images=len(captions)),
    )


def joined_tables(tables: Sequence[PromptTable]) -> PromptTable:
    """One table of several, of images one after the other; each group keeps its prompts.

    All groups get equally many variants: as many as hold the prompts of each equally often, where the rows
    are no more than 65,536; else as many as fit, and some prompts of a group come once more than others.
    """
    if len(tables) == 1:
        return tables[0]
    rows = [row for table in tables for row in table.prompts]
    longest = max(map(len, rows))
    variants = min(math.lcm(*map(len, rows)), max(longest, MOST_ROWS // len(rows)))
    firsts = itertools.accumulate((len(table.prompts) for table in tables), initial=0)
    return PromptTable(
        tuple(tuple(itertools.islice(itertools.cycle(row), variants)) for row in rows),
        tuple(first + group for first, table in zip(firsts, tables) for group in table.groups),
        {prompt: origin for table in tables for prompt, origin in table.origins.items()},
        "; ".join(f"{_count(len(table.groups), 'image')}: {table.description}" for table in tables),
    )


def _affixed(caption: str, rules: CaptionRules) -> str:
    lines = caption.splitlines() if rules.wildcards else [" ".join(caption.split())]
    parts = ((rules.prefix.strip(), line.strip(), rules.suffix.strip()) for line in lines if line.strip())
    return "\n".join(" ".join(part for part in line if part) for line in parts)


def _check_word(
    concept: Concept,
    templates: Sequence[Template],
    images: Sequence[str],
    captions: Sequence[str],
    names: Names,
) -> None:
    bare = without_word(templates)
    if bare is None:
        return
    token = concept.either
    lacking = [
        (name, caption)
        for name, caption in zip(images, captions, strict=True)
        if caption and not all(names(line) for line in caption.splitlines())
    ]
    if lacking:
        name, caption = lacking[0]
        raise DataError(
            f"caption of {name}",
            expected=f"{token} in it, as {bare.where or 'templates caption'} has no [name]",
            found=f"{shortened(caption)!r}" + (f", and {len(lacking) - 1} more" if lacking[1:] else ""),
            remedy=f"Nothing would be learned from it: write {token} into the caption, put it before all "
            "captions with caption_prefix, or use templates with [name].",
        )


def _drawn(
    concept: Concept,
    templates: Sequence[Template],
    captions: Sequence[str],
    rules: CaptionRules,
    seed: int,
    names: Names,
) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of every distinct caption, equally many of each."""
    words = _texts(concept)
    captions = [_written_out(concept, caption) for caption in captions]
    most = max(MOST_ROWS // len(captions), 1)
    random = any(rules.draws(caption, names) for caption in captions)
    if not random and len(templates) <= most:
        rows = [tuple(fill(each, words, text) for each in templates) for text in captions]
        alike = all(len(set(row)) == 1 for row in rows)
        return tuple(row[:1] for row in rows) if alike else tuple(rows)
    wanted = max(DRAWN_VARIANTS // len(templates), 1) * len(templates)
    variants = min(wanted, most)
    table = []
    for index, caption in enumerate(captions):
        rng = np.random.default_rng([seed, _STREAM, index])
        order = rng.permutation(len(templates))
        drawn = (rules.vary(caption, names, rng) for _ in range(variants))
        table.append(
            tuple(
                fill(templates[order[place % len(order)]], words, varied)
                for place, varied in enumerate(drawn)
            )
        )
    return tuple(table)


def _texts(concept: Concept) -> list[str]:
    """What stands for each word in prompts."""
    return [word.text for word in concept.words]


def _written_out(concept: Concept, caption: str) -> str:
    """Return a caption with all vectors of the word wherever the tokenizer sees it; each line by itself."""
    return "\n".join(concept.expand(line) for line in caption.split("\n"))


def _description(
    captions: Sequence[str],
    templates: Sequence[Template],
    rules: CaptionRules,
    prompts: tuple[tuple[str, ...], ...],
    names: Names,
    *,
    images: int,
) -> str:
    counted = _count(len(captions), "different caption" if images > len(captions) else "caption")
    text = f"{counted} x {_count(len(templates), 'template')}"
    naming = sum(names(caption) for caption in captions)
    if naming == len(captions):
        text = f"{counted} that name{'s' if naming == 1 else ''} the word"
    elif naming:
        text += f", {naming} of the captions name the word"
    text += ", one caption empty" if "" in captions else ""
    if (rules.shuffle or rules.tag_dropout) and not any(len(rules.tags(caption)) > 1 for caption in captions):
        text += f" (no two tags apart by {rules.separator!r} in any)"
    done = [
        *(["shuffled"] if rules.shuffle else []),
        *([f"{rules.tag_dropout:.0%} of tags left out"] if rules.tag_dropout else []),
        *([f"{rules.dropout:.0%} of captions left out"] if rules.dropout else []),
        *(["wildcards"] if rules.wildcards else []),
    ]
    return f"{', '.join([text, *done])}: {_count(len(prompts[0]), 'variant')} of each"


def encode_table(tokenizer: Any, table: PromptTable, concept: Concept, chunks: int = 1) -> np.ndarray:
    """Token ids of a table, `[groups, variants, tokens]` int32, in so many chunks each.

    Raises:
      TokenError: the word is cut off in one of the prompts, or is not in it.
    """
    distinct = {prompt: index for index, prompt in enumerate(table.origins)}
    token_ids = encode_prompts(
        tokenizer, list(distinct), concept=concept, origins=table.origins, chunks=chunks
    )
    return token_ids[np.array([[distinct[prompt] for prompt in row] for row in table.prompts])]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shortened(text: str, most: int = 60) -> str:
    """Return the beginning of a text that is longer than a message should be."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
