"""What a word becomes: its tokens, what it starts as, and the nearest words of the vocabulary."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ti_flax.config.options import ModelOptions
from ti_flax.config.options.word import WordOptions
from ti_flax.console.messages import Display, Level, shown_on
from ti_flax.embedding.contents import FIRST
from ti_flax.embedding.initialization import resolve_initialization
from ti_flax.embedding.vocabulary import Vocabulary, known_vocabularies
from ti_flax.errors import ConfigError, TiFlaxError
from ti_flax.models.base_model import MODEL_PARTS, base_tokenizer, find_base_model
from ti_flax.models.tokenizer import add_word, initializer_ids, split_text

_NEAREST, _MOST_SHOWN, _MOST_VECTORS = 5, 8, 64
# Fields that change together are looked at by threads, of which one alone may import transformers.
_ONE_AT_A_TIME = threading.Lock()
_END_OF_WORD = "</w>"


class Unheard(Display):
    """Keeps what is said to itself."""

    def line(self, text: str, level: Level) -> None:
        """Says nothing."""


@dataclass(frozen=True)
class WordLook:
    """What is known of a word before it is learned.

    Attributes:
      tokens: the new tokens that it becomes, one a vector.
      start: the known tokens that it starts as.
      nearest: of each of those, the nearest words of the vocabulary and their cosines; empty where the
        model's weights are not on this machine.
      faults: a message by the field that it is about, `word` or `start`.
    """

    tokens: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    nearest: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()
    faults: tuple[tuple[str, str], ...] = ()


def look_at_word(model: str, placeholder: str, initializer: str, vectors: str) -> WordLook:
    """Looks at a word as the trainer will.

    Args:
      model: pretrained_model_name_or_path.
      placeholder: the word; may be empty.
      initializer: what it starts as; may be empty.
      vectors: how many it has, in digits; empty for one.

    Raises:
      TiFlaxError: the model or its tokenizer cannot be read.
    """
    with _ONE_AT_A_TIME, shown_on(Unheard()):
        tokenizer = _tokenizer(model)
        faults, tokens, start = [], (), ()
        try:
            count = _number(vectors)
            tokens = _new_tokens(tokenizer, placeholder, count)
        except TiFlaxError as error:
            faults.append(("word", str(error)))
            count = 1
        if initializer.strip():
            options = WordOptions(
                placeholder_token=placeholder, initializer_token=initializer, num_vectors=count
            )
            try:
                start = tuple(split_text(tokenizer, initializer))
                resolve_initialization(options, tokenizer)
            except TiFlaxError as error:
                faults.append(("start", str(error)))
        shown = tuple(each.removesuffix(_END_OF_WORD) for each in start)
        return WordLook(tokens, shown, _nearest(model, tokenizer, initializer, start), tuple(faults))


def warm_up(model: str) -> None:
    """Reads a model's words before anybody asks, as what is imported for it takes seconds."""
    with contextlib.suppress(TiFlaxError):
        look_at_word(model, "", "a", "")


def _new_tokens(tokenizer: Any, placeholder: str, count: int) -> tuple[str, ...]:
    """The tokens of a new word, which the tokenizer does not keep."""
    if not placeholder:
        return ()
    return add_word(copy.deepcopy(tokenizer), placeholder_token=placeholder, num_vectors=count).tokens


def _number(vectors: str) -> int:
    text = vectors.strip() or "1"
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MOST_VECTORS):
        expected = f"a whole number from 1 to {_MOST_VECTORS}"
        raise ConfigError("num_vectors", expected=expected, found=repr(vectors))
    return int(text)


@functools.lru_cache(maxsize=4)
def _tokenizer(model: str) -> Any:
    options = ModelOptions(pretrained_model_name_or_path=model)
    return base_tokenizer(find_base_model(options, MODEL_PARTS, weights=False))


@functools.lru_cache(maxsize=1)
def _vocabulary(model: str) -> tuple[np.ndarray, Vocabulary]:
    """The token table of the first text encoder, `[vocabulary, width]` float32, and what measures rows."""
    from ti_flax.models.stable_diffusion import load_stable_diffusion, token_table

    base = find_base_model(ModelOptions(pretrained_model_name_or_path=model), ("tokenizer", FIRST))
    tokenizer = _tokenizer(model)
    table = np.asarray(
        token_table(load_stable_diffusion(base, components=(FIRST,)).params, FIRST), np.float32
    )
    return table, known_vocabularies(tokenizer, {FIRST: table}, len(tokenizer))[FIRST]


def _nearest(model: str, tokenizer: Any, text: str, start: Sequence[str]) -> tuple:
    if not start or not is_here(model):
        return ()
    try:
        table, vocabulary = _vocabulary(model)
        ids = initializer_ids(tokenizer, text)[:_MOST_SHOWN]
    except TiFlaxError:
        return ()
    found = []
    for token, row in zip(start, table[list(ids)], strict=False):
        word = token.removesuffix(_END_OF_WORD)
        others = [pair for pair in vocabulary.nearest(row, _NEAREST + 1) if pair[0] != word]
        found.append((word, tuple(others[:_NEAREST])))
    return tuple(found)


def is_here(model: str) -> bool:
    """Whether the weights of a model's text encoder can be read without a download."""
    if os.path.exists(model):
        return True
    from huggingface_hub import try_to_load_from_cache

    names = (f"{FIRST}/model.safetensors", f"{FIRST}/flax_model.msgpack")
    return any(isinstance(try_to_load_from_cache(model, name), str) for name in names)
