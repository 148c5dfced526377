"""Where the tokenizer sees a new word in a text: the one answer for prompts, captions, names and notes.

CLIP's tokenizer composes letters, makes one blank of several and small letters of capitals before it looks
for its tokens, so the text that a person writes is not what it compares. `config.words.spelled_plainly`
tells how it spells a word by itself.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ti_flax.errors import TokenError, shortened


def word_places(tokenizer: Any, text: str, token_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Finds a word in a text.

    Args:
      tokenizer: a CLIP tokenizer that knows the word.
      text: of a prompt or caption, in any spelling.
      token_ids: of the word, one for each vector.

    Returns:
      Begin and end in the text of each time the word's first token stands there, with those of its other
      tokens that follow in order.

    Raises:
      TokenError: the text is no text.
    """
    return _places(_seen(tokenizer, text), token_ids)


def write_out(tokenizer: Any, text: str, words: Sequence[Sequence[str]]) -> str:
    """Writes all tokens of words, as the tokenizer has them, wherever it sees the words; idempotent.

    Args:
      tokenizer: a CLIP tokenizer that knows the words.
      text: of a prompt or caption.
      words: the tokens of each word, one for each vector.

    Raises:
      TokenError: the text is no text.
    """
    seen = _seen(tokenizer, text)
    found = [
        (*place, " ".join(tokens))
        for tokens in words
        for place in _places(seen, tokenizer.convert_tokens_to_ids(list(tokens)))
    ]
    for begin, end, written in sorted(found, reverse=True):
        text = text[:begin] + written + text[end:]
    return text


def words_of_vectors(known: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Lists the tokens of every word with several vectors: `tok`, `tok_1`, ..., as diffusers names them.

    Args:
      known: the added tokens and their ids.
    """
    words = []
    for token in known:
        tokens = [token]
        while f"{token}_{len(tokens)}" in known:
            tokens.append(f"{token}_{len(tokens)}")
        if len(tokens) > 1:
            words.append(tuple(tokens))
    return words


def require_text(text: str) -> None:
    """Refuses what the tokenizer cannot be given: bytes of a name or a command line that are no UTF-8.

    Raises:
      TokenError: there are such.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TokenError(
            f"the text {shortened(text, 80)!r}",
            expected="letters",
            found="bytes that are no UTF-8",
            remedy="Write it anew, or rename the file that it comes from.",
        ) from None


def _seen(tokenizer: Any, text: str) -> list[tuple[int, int, int]]:
    """Token ids of a text, each with its begin and end."""
    require_text(text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = encoded["offset_mapping"]
    covered = {place for begin, end in offsets for place in range(begin, end)}
    seen = []
    for token_id, (begin, end) in zip(encoded["input_ids"], offsets, strict=True):
        # A mark that became one with the letter before it is in nobody's offsets.
        while end < len(text) and end not in covered and unicodedata.combining(text[end]):
            end += 1
        seen.append((token_id, begin, end))
    return seen


def _places(seen: Sequence[tuple[int, int, int]], token_ids: Sequence[int]) -> list[tuple[int, int]]:
    places = []
    for first, (token_id, begin, _) in enumerate(seen):
        if token_id != token_ids[0]:
            continue
        count = 1
        following = [each for each, *_ in seen[first : first + len(token_ids)]]
        while count < len(following) and following[count] == token_ids[count]:
            count += 1
        places.append((begin, seen[first + count - 1][2]))
    return places
