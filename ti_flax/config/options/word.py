"""One word of a concept, and what it starts from."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordOptions:
    """What the options that a concept may give for each of its words say of one of them.

    Args:
      placeholder_token: the word.
      initializer_token: known words that it starts as; None without.
      initializer_mode: spread, mean or random.
      init_embeds: embedding file that it starts from; None without.
      num_vectors: how many vectors it has; None: as many as the start has.
    """

    placeholder_token: str
    initializer_token: str | None = None
    initializer_mode: str = "spread"
    init_embeds: str | None = None
    num_vectors: int | None = 1

    @property
    def start(self) -> str:
        """What the vectors start as, in a few words."""
        if self.initializer_mode == "random":
            return "random vectors"
        source = repr(self.initializer_token) if self.init_embeds is None else self.init_embeds
        return f"the mean of {source}" if self.initializer_mode == "mean" else source

    @property
    def vectors(self) -> str:
        """How many vectors there are, in words."""
        if self.num_vectors is None:
            return "as many vectors as that has"
        return "1 vector" if self.num_vectors == 1 else f"{self.num_vectors} vectors"


def of_word(value: tuple | None, place: int) -> object:
    """The value that an option has for the word at a place; one value is that of all words."""
    if value is None:
        return None
    return value[place if len(value) > 1 else 0]
