"""A real CLIP tokenizer of a few words: each is one token, anything else falls into pieces."""

import collections
import itertools
import json
import re
from pathlib import Path

from ti_flax.data.prompts.templates import OBJECT_TEMPLATES, STYLE_TEMPLATES

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 77


def byte_alphabet() -> list[str]:
    """Return the 256 characters that stand for bytes, in CLIP's order: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = len(set(range(256)) - set(printable))
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(others)]


def learn_merges(text: str) -> list[str]:
    """Return byte-pair merges, "left right" in order of use, that make each word of an ASCII text one token.

    Written out (arXiv:1508.07909, algorithm 1): the trainer of `tokenizers` breaks ties by chance.
    """
    counts = collections.Counter(re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower()))
    words = {word: (*word[:-1], f"{word[-1]}</w>") for word in counts}
    merges = []
    while words := {word: pieces for word, pieces in words.items() if len(pieces) > 1}:
        pairs = collections.Counter()
        for word, pieces in words.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += counts[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(" ".join(best))
        words = {word: merged(pieces, best) for word, pieces in words.items()}
    return merges


def merged(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Return the pieces of a word with every occurrence of a pair made one piece, from the left."""
    result, rest = [], list(pieces)
    while rest:
        width = 2 if tuple(rest[:2]) == pair else 1
        result.append("".join(rest[:width]))
        del rest[:width]
    return tuple(result)


def write_tokenizer(
    folder: Path, *, words: str, pad_token: str = END, length: int = TOKENS
) -> dict[str, int]:
    """Write the files of a `CLIPTokenizer` and return its vocabulary.

    Laid out as CLIP's: bytes, bytes that end a word, merges, the two special tokens.

    Args:
      folder: made where it does not exist.
      words: text whose words become one token each, besides those of the templates.
      pad_token: the end token in Stable Diffusion 1.x, "!" in 2.x.
      length: tokens of a prompt.
    """
    merges = learn_merges("\n".join([words, *OBJECT_TEMPLATES, *STYLE_TEMPLATES]).replace("{}", ""))
    alphabet = byte_alphabet()
    tokens = alphabet + [f"{character}</w>" for character in alphabet]
    tokens += [merge.replace(" ", "") for merge in merges]
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    special = {"bos_token": START, "eos_token": END, "unk_token": END}
    special = {name: _special_token(token) for name, token in special.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    write_json(folder / "special_tokens_map.json", special | {"pad_token": pad_token})
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    typed = {name: {"__type": "AddedToken"} | token for name, token in special.items()}
    write_json(folder / "tokenizer_config.json", config | typed | {"pad_token": pad_token})
    return vocabulary


def _special_token(content: str) -> dict[str, object]:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def write_json(path: Path, content: dict):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
