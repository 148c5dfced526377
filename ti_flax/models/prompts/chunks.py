"""Prompts that are longer than a text encoder reads at once, in chunks with a begin and an end each.

Borders are put where the Web UI puts them (modules/sd_hijack_clip.py, tokenize_line), so that a prompt of a
training means what it means there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ti_flax.models.word_places import words_of_vectors

# Tokens before a border among which a comma moves it forward: the Web UI's default.
COMMA_REACH = 20
_COMMA = ",</w>"


class Piece(NamedTuple):
    """What no border cuts.

    Attributes:
      token_ids: of one token, or of all vectors of a word; none where the prompt asks for a new chunk.
      weight: what their hidden states are multiplied by.
    """

    token_ids: tuple[int, ...]
    weight: float = 1.0


NEW_CHUNK = Piece(())

Chunk = list[Piece]


class ChunkRules(NamedTuple):
    """What chunks are made by.

    Attributes:
      begin, end: token ids around each chunk.
      pad: the token id that fills a chunk up behind its end.
      length: tokens of a chunk, begin and end included.
      comma: the token id of a comma; None for a vocabulary without one.
      words: from the first token id of a word with several vectors to all of them.
    """

    begin: int
    end: int
    pad: int
    length: int
    comma: int | None
    words: dict[int, tuple[int, ...]]

    @classmethod
    def of(cls, tokenizer: Any) -> ChunkRules:
        """The rules of a CLIP tokenizer and of the words that were added to it."""
        ids = tokenizer.convert_tokens_to_ids
        words = (tuple(ids(list(tokens))) for tokens in words_of_vectors(tokenizer.get_added_vocab()))
        return cls(
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
            tokenizer.model_max_length,
            tokenizer.get_vocab().get(_COMMA),
            {word[0]: word for word in words},
        )

    def pieces(self, token_ids: Sequence[int], weight: float = 1.0) -> Chunk:
        """Makes one piece of each token, and one of all vectors of a word that stand together."""
        found, place = [], 0
        while place < len(token_ids):
            word = self.words.get(token_ids[place], ())
            fits = 0 < len(word) <= self.length - 2
            whole = fits and tuple(token_ids[place : place + len(word)]) == word
            piece = word if whole else (token_ids[place],)
            found.append(Piece(piece, weight))
            place += len(piece)
        return found

    def chunks(self, pieces: Sequence[Piece], most: int | None) -> list[Chunk]:
        """Shares a prompt out among chunks, at least one.

        A border that falls among the vectors of a word comes before the word. One that falls within 20 tokens
        behind a comma comes after the comma, unless the prompt then needs more chunks than it may have.

        Args:
          pieces: of the prompt.
          most: chunks that it may have, of which the last ends where the prompt is cut off; None: any number.
        """
        chunks = _shared_out(pieces, self.length - 2, self.comma, COMMA_REACH)
        if most is not None and len(chunks) > most:
            chunks = _shared_out(pieces, self.length - 2, self.comma, 0)
        return chunks[:most]

    def token_ids(self, chunks: Sequence[Chunk], count: int) -> np.ndarray:
        """The token ids of chunks, then of empty ones up to so many: `[count * length]` int32."""
        rows = np.full((count, self.length), self.pad, np.int32)
        rows[:, :2] = self.begin, self.end
        for row, chunk in zip(rows, chunks, strict=False):
            ids = [token_id for piece in chunk for token_id in piece.token_ids]
            row[1 : len(ids) + 2] = [*ids, self.end]
        return rows.reshape(-1)

    def weights(self, chunks: Sequence[Chunk], count: int) -> np.ndarray:
        """The weight of each of these tokens, `[count * length]` float32; of begin, end and padding 1."""
        rows = np.ones((count, self.length), np.float32)
        for row, chunk in zip(rows, chunks, strict=False):
            each = [piece.weight for piece in chunk for _ in piece.token_ids]
            row[1 : len(each) + 1] = each
        return rows.reshape(-1)


def size(chunk: Sequence[Piece]) -> int:
    """How many tokens pieces have."""
    return sum(len(piece.token_ids) for piece in chunk)


def _shared_out(pieces: Sequence[Piece], room: int, comma: int | None, reach: int) -> list[Chunk]:
    chunks: list[Chunk] = [[]]
    tokens = behind_comma = 0  # of the last chunk, and how many of its pieces its last comma is the end of
    for piece in pieces:
        is_comma = piece.token_ids == (comma,)
        if piece is NEW_CHUNK:
            chunks.append([])
            tokens = behind_comma = 0
            continue
        if tokens == room:
            moved = [] if is_comma or not behind_comma else chunks[-1][behind_comma:]
            if size(moved) < reach:  # the comma itself is one of the tokens within reach
                del chunks[-1][len(chunks[-1]) - len(moved) :]
            else:
                moved = []
            chunks.append(moved)
            tokens, behind_comma = size(moved), 0
        elif is_comma:
            behind_comma = len(chunks[-1]) + 1
        if tokens + len(piece.token_ids) > room:
            chunks.append([])
            tokens = behind_comma = 0
        chunks[-1].append(piece)
        tokens += len(piece.token_ids)
    return chunks if chunks[-1] else chunks[:-1] or [[]]


def in_chunks(tokenizer: Any, prompts: Sequence[str], count: int) -> np.ndarray:
    """Token ids of prompts in so many chunks each, `[prompts, count * length]` int32.

    Args:
      tokenizer: a CLIP tokenizer.
      prompts: texts in which all tokens of words are written out.
      count: chunks of each.
    """
    rules = ChunkRules.of(tokenizer)
    encoded = (
        tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"] if prompts else []
    )
    rows = [rules.token_ids(rules.chunks(rules.pieces(ids), count), count) for ids in encoded]
    return np.stack(rows) if rows else np.zeros((0, count * rules.length), np.int32)
