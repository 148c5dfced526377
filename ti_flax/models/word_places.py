"""A concept's words, and where the tokenizer sees one in a text: one answer for prompts, captions and notes.

CLIP's tokenizer composes letters, makes one blank of several and small letters of capitals before it looks
for its tokens, so the text that a person writes is not what it compares. `config.words.spelled_plainly`
tells how it spells a word by itself.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ti_flax.errors import TokenError, shortened


@dataclass(frozen=True)
class Word:
    """A new word: one placeholder token, or several that always stand together.

    Attributes:
      placeholder_token: what people write in a prompt, e.g. `<cat-toy>`.
      tokens: the tokens it expands to, `<cat-toy>`, `<cat-toy>_1`, ...; one per vector.
      token_ids: their ids, consecutive.
      tokenizer: the one that knows them.
    """

    placeholder_token: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    tokenizer: Any = field(default=None, repr=False, compare=False)

    @property
    def text(self) -> str:
        """What a prompt holds in place of the placeholder: all of its tokens."""
        return " ".join(self.tokens)

    def named_in(self, text: str) -> bool:
        """Whether the tokenizer sees the word in a text, whatever its spelling."""
        return bool(word_places(self.tokenizer, text, self.token_ids))

    def expand(self, text: str) -> str:
        """Replaces the word in a text that a person wrote by all of its tokens; idempotent."""
        return write_out(self.tokenizer, text, [self.tokens])


@dataclass(frozen=True)
class Concept:
    """What a run learns: one new word, or several together.

    Attributes:
      words: at least one; the ids of their tokens follow one another, directly after the tokenizer's own
        vocabulary.
    """

    words: tuple[Word, ...]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens of all words, one per vector."""
        return tuple(token for word in self.words for token in word.tokens)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Their ids, consecutive."""
        return tuple(token_id for word in self.words for token_id in word.token_ids)

    @property
    def vectors(self) -> dict[str, int]:
        """How many vectors each word has, by its placeholder token."""
        return {word.placeholder_token: len(word.tokens) for word in self.words}

    @property
    def name(self) -> str:
        """All words as a template has them, as people write it: `<cat> and <hat>`."""
        return " and ".join(self.vectors)

    @property
    def either(self) -> str:
        """The words where one is enough, for messages: `<cat> or <hat>`."""
        return " or ".join(self.vectors)

    @property
    def text(self) -> str:
        """What a template holds in the place of the word: all words with all their tokens."""
        return " and ".join(word.text for word in self.words)

    def named_in(self, text: str) -> bool:
        """Whether the tokenizer sees one of the words in a text, whatever its spelling."""
        return any(word.named_in(text) for word in self.words)

    def expand(self, text: str) -> str:
        """Replaces the words in a text that a person wrote by all of their tokens; idempotent."""
        return write_out(self.words[0].tokenizer, text, [word.tokens for word in self.words])

    def with_names(self, text: str) -> str:
        """Replaces all tokens of the words by their placeholders, for people."""
        for word in self.words:
            text = text.replace(word.text, word.placeholder_token)
        return text


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


def all_written_out(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """The prompts with all tokens of the words that have several, which are looked up once.

    Raises:
      TokenError: one of them is no text.
    """
    for prompt in prompts:
        require_text(prompt)
    words = words_of_vectors(tokenizer.get_added_vocab())
    return [write_out(tokenizer, prompt, words) for prompt in prompts] if words else list(prompts)


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
