"""What a concept starts from, and the embeddings that prompts may name beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.config.options.word import WordOptions
from ti_flax.console.messages import say
from ti_flax.embedding.bases import checked_rows
from ti_flax.embedding.read import EmbeddingFile, load_embedding, read_embeddings
from ti_flax.embedding.rows import mean_rows, random_rows, spread_rows
from ti_flax.errors import TokenError, WeightsError
from ti_flax.models.tokenizer import add_word, check_names_apart, initializer_ids, split_text
from ti_flax.models.word_places import Concept, Word

# Folded into the run's key for random start values; no other draw of a run folds a number as large in first.
_START = 0x57A27
# Folded into that for each further word, beyond the numbers of text encoders.
_WORD = 0x100


@dataclass(frozen=True)
class Initialization:
    """What a word's rows are made of, found before the model is loaded.

    Attributes:
      origin: what they start from, in words; part of what a checkpoint belongs to.
      num_vectors: how many rows the word has.
      rows: makes them, `[num_vectors, width]` float32 by text encoder, of the vocabulary's rows and a random
        key.
    """

    origin: str
    num_vectors: int
    rows: Callable[[Mapping[str, np.ndarray], Any], dict[str, np.ndarray]]


@dataclass(frozen=True)
class FrozenEmbedding:
    """An embedding that prompts may name and that stays as it is."""

    token: str
    path: Path
    file: EmbeddingFile


def resolve_initialization(options: WordOptions, tokenizer: Any, place: int = 0) -> Initialization:
    """Settles what a word starts from, and so how many vectors it has.

    Args:
      options: of the word.
      tokenizer: of the model.
      place: of the word among those of the concept, which draws random rows apart.

    Raises:
      TokenError: the words have no tokens, or more of them than there are vectors.
      WeightsError: init_embeds is no embedding.
    """
    if options.initializer_mode == "random":
        count = options.num_vectors or 1
        return Initialization("random rows", count, lambda known, key: _random(known, count, key, place))
    make = mean_rows if options.initializer_mode == "mean" else spread_rows
    suffix = " (mean)" if options.initializer_mode == "mean" else ""
    if options.init_embeds is not None:
        path = Path(options.init_embeds)
        file = _read(path, "init_embeds", options.placeholder_token)
        _without_behind(file, path)
        count = _vectors(options, file.vectors, f"init_embeds {path}", "vectors")
        digest = hashlib.sha256(b"".join(rows.tobytes() for rows in file.rows.values())).hexdigest()[:16]
        return Initialization(
            f"an embedding {digest}{suffix}",
            count,
            lambda known, key: _of_each(make, checked_rows(file, path, _widths(known)), count),
        )
    text = options.initializer_token or ""
    ids = list(initializer_ids(tokenizer, text))
    shown = f"tokens, split as {split_text(tokenizer, text)}"
    count = _vectors(options, len(ids), f"initializer_token {text!r}", shown)
    return Initialization(
        f"{text}{suffix}",
        count,
        lambda known, key: _of_each(make, {name: table[ids] for name, table in known.items()}, count),
    )


def _of_each(
    make: Callable[[np.ndarray, int], np.ndarray], source: Mapping[str, np.ndarray], count: int
) -> dict[str, np.ndarray]:
    return {encoder: make(rows, count) for encoder, rows in source.items()}


def _widths(known: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {encoder: table.shape[1] for encoder, table in known.items()}


def _random(known: Mapping[str, np.ndarray], count: int, key: Any, word: int) -> dict[str, np.ndarray]:
    """Random rows of each text encoder, drawn apart from those of the others and of other words."""
    import jax

    drawn = jax.random.fold_in(key, _START)
    drawn = jax.random.fold_in(drawn, _WORD + word) if word else drawn
    return {
        encoder: random_rows(table, count, jax.random.fold_in(drawn, place) if place else drawn)
        for place, (encoder, table) in enumerate(known.items())
    }


def _vectors(options: WordOptions, found: int, where: str, what: str) -> int:
    """How many vectors there are: as configured, or as many as the start has, or one if that is averaged."""
    if options.initializer_mode == "mean":
        return options.num_vectors or 1
    wanted = options.num_vectors or found
    if found <= wanted:
        return wanted
    raise TokenError(
        where,
        expected=f"a single {what.partition('s')[0]}" if wanted == 1 else f"at most num_vectors ({wanted})",
        found=f"{found} {what}",
        remedy=f"Raise num_vectors to {found} (null takes as many as there are), set initializer_mode to "
        "mean, or start from less.",
    )


def _read(path: Path, option: str, token: str | None = None) -> EmbeddingFile:
    try:
        return load_embedding(path, token)
    except WeightsError as error:
        raise WeightsError(f"{option} {error}") from error


def _read_all(path: Path, option: str) -> list[EmbeddingFile]:
    try:
        return read_embeddings(path)
    except WeightsError as error:
        raise WeightsError(f"{option} {error}") from error


def _without_behind(file: EmbeddingFile, path: Path) -> None:
    """Says that what goes behind the text encoders is no start.

    Raises:
      WeightsError: there is nothing else.
    """
    if file.behind and not any(rows.any() for rows in file.rows.values()):
        raise WeightsError(
            f"init_embeds {path}",
            expected="vectors that go before the text encoder, which are what is learned",
            found="an output embedding of OneTrainer, whose vectors all go behind it",
            remedy="Start from initializer_token, or from another file.",
        )
    if file.behind:
        say(f"note: {path} also has vectors that go behind the text encoder: they are no start, and left out")


def read_frozen_embeddings(
    entries: Sequence[str] | None, option: str = "extra_embeds"
) -> list[FrozenEmbedding]:
    """Reads embeddings that an option names, each a file or `token=file`.

    A file without a token inside, and none given, goes by its name, as in the Web UI. A file of several
    words, and none given, stands for all of them.

    Args:
      entries: what the option says.
      option: its name, for messages.

    Raises:
      WeightsError: one is no embedding.
    """
    embeddings = []
    for entry in entries or ():
        token, path = _named(entry)
        files = [_read(path, option, token)] if token else _read_all(path, option)
        for file in files:
            embeddings.append(FrozenEmbedding(token or file.token or path.stem, path, file))
    return embeddings


def add_frozen_embeddings(
    tokenizer: Any,
    embeddings: Sequence[FrozenEmbedding],
    concept: Concept | None,
    option: str = "extra_embeds",
) -> tuple[Word, ...]:
    """Adds the tokens of loaded embeddings after the concept's, if there is one.

    Raises:
      TokenError: a token is known already, or is part of another or holds it.
    """
    first = () if concept is None else concept.vectors
    check_names_apart([*first, *(embedding.token for embedding in embeddings)], option)
    return tuple(
        add_word(
            tokenizer,
            placeholder_token=embedding.token,
            num_vectors=embedding.file.vectors,
            option=option,
        )
        for embedding in embeddings
    )


def _named(entry: str) -> tuple[str, Path]:
    """The token and the file of `token=file`; `file=token` is understood where that is the file."""
    token, equals, path = entry.partition("=")
    if not equals or Path(os.path.expanduser(entry)).exists():
        return "", Path(os.path.expanduser(entry))
    file, _, word = entry.rpartition("=")
    if (
        Path(os.path.expanduser(file.strip())).is_file()
        and not Path(os.path.expanduser(path.strip())).exists()
    ):
        return word.strip(), Path(os.path.expanduser(file.strip()))
    return token.strip(), Path(os.path.expanduser(path.strip()))
