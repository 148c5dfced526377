"""The CLIP tokenizer and the placeholder tokens that stand for a learned concept."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.config.words import spelled_plainly
from ti_flax.console.messages import say
from ti_flax.errors import TokenError, shortened
from ti_flax.files.folder_files import LINK_REMEDY, LeavingLinkError, require_inside
from ti_flax.files.regular import open_regular
from ti_flax.models.prompts.chunks import in_chunks
from ti_flax.models.word_places import Concept, Word, all_written_out, require_text

_LARGEST_FILE = 2**26
# What transformers reads of a tokenizer's folder, and writes again beside the learned word.
_READ_BY_LIBRARY, _CHAT_TEMPLATES = (".json", ".txt", ".jinja", ".model"), "additional_chat_templates"
# Begin, one token and end.
_SHORTEST = 3
_LONGEST_WORD = 255
# A key of safetensors files that is no tensor.
_RESERVED = "__metadata__"


def vector_tokens(placeholder_token: str, num_vectors: int) -> tuple[str, ...]:
    """Names the tokens of a word the way diffusers does: `tok`, `tok_1`, ..., `tok_{n-1}`."""
    return (placeholder_token, *(f"{placeholder_token}_{i}" for i in range(1, num_vectors)))


def expand_known(tokenizer: Any, prompt: str) -> str:
    """Writes out the tokens of every multi-vector concept that the tokenizer sees in a prompt."""
    return all_written_out(tokenizer, [prompt])[0]


def load_tokenizer(
    folder: Path, name: str | None = None, *, pad_token: str | None = None, part: str = "tokenizer"
) -> Any:
    """Loads the CLIP tokenizer of a model folder, or another one by name or path.

    Args:
      folder: the model's.
      name: folder or Hub id of another tokenizer.
      pad_token: what fills short prompts up, where that is not the tokenizer's own choice.
      part: which of the model's, `tokenizer` or `tokenizer_2`.

    Raises:
      TokenError: there is no readable CLIP tokenizer.
    """
    # transformers warns at import that it has no PyTorch, which is no fault here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import CLIPTokenizer

    place = name or str(folder / part)
    try:
        _require_plain_files(Path(place))
        # In place of what tokenizer_config.json says, which may be the path of any file on this machine.
        tokenizer = CLIPTokenizer.from_pretrained(place, vocab=None, merges=None, tokenizer_object=None)
        length = tokenizer.model_max_length
        if not isinstance(length, (int, float)) or length < _SHORTEST:
            raise ValueError(f"model_max_length {length!r}")
    except Exception as error:  # of the tokenizers library's own parser, which has no class for its errors
        raise TokenError(
            place,
            expected="a CLIP tokenizer (vocab.json, merges.txt, tokenizer_config.json)",
            found=getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0],
            remedy=LINK_REMEDY
            if isinstance(error, LeavingLinkError)
            else "Check the model folder, or name another with tokenizer_name.",
        ) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        # transformers 5 makes an empty tokenizer where it finds no files, as it does without a connection.
        raise TokenError(
            place,
            expected="a CLIP tokenizer with a vocabulary, here or on the Hugging Face Hub",
            found="none (no such folder, no connection, or no such repository)",
            remedy="Name a folder with vocab.json and merges.txt as tokenizer_name, or check the network.",
        )
    if pad_token is not None:
        tokenizer.pad_token = pad_token
    if tokenizer.model_max_length > 77:
        # Old tokenizer folders leave the length out; the text encoder has 77 positions.
        tokenizer.model_max_length = 77
    return tokenizer


def _require_plain_files(folder: Path) -> None:
    """Refuses what the library would wait for, read without end, or take from elsewhere into the result."""
    if not folder.is_dir():
        return
    templates = folder / _CHAT_TEMPLATES
    for path in (*folder.iterdir(), *(templates.iterdir() if templates.is_dir() else ())):
        if path.suffix in _READ_BY_LIBRARY and not path.is_dir():
            with open_regular(path) as file:
                if os.fstat(file.fileno()).st_size > _LARGEST_FILE:
                    raise ValueError(f"{path.name}, which is larger than {_LARGEST_FILE // 2**20} MiB")
            require_inside(path, folder)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes a tokenizer folder that transformers 5 reads, and 4 as well.

    Version 5 writes `tokenizer.json` alone; 4 wants `vocab.json`, `merges.txt` and `added_tokens.json`.
    """
    tokenizer.save_pretrained(str(folder))
    _drop_local_keys(folder / "tokenizer_config.json")
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = described["model"]["vocab"]
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in described["model"]["merges"])
    added = {
        entry["content"]: entry["id"]
        for entry in described["added_tokens"]
        if entry["content"] not in vocabulary
    }
    _write(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
    _write(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    _write(folder / "added_tokens.json", json.dumps(added, ensure_ascii=False, indent=2) + "\n")


def save_tokenizers(tokenizer: Any, folder: Path, pad_token_ids: Mapping[str, int]) -> None:
    """Writes the tokenizer folder of each text encoder: one vocabulary, and each encoder's own pad token.

    Args:
      tokenizer: the model's first; it is as before afterwards.
      folder: the model's.
      pad_token_ids: by encoder, `text_encoder` and of an SDXL model `text_encoder_2`.
    """
    own = tokenizer.pad_token
    try:
        for encoder, pad_token_id in pad_token_ids.items():
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_token_id)
            save_tokenizer(tokenizer, folder / encoder.replace("text_encoder", "tokenizer"))
    finally:
        tokenizer.pad_token = own


def _drop_local_keys(path: Path) -> None:
    """Takes out what only says how the tokenizer was loaded here."""
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: value for name, value in config.items() if name not in ("is_local", "local_files_only")}
    _write(path, json.dumps(kept, ensure_ascii=False, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def split_text(tokenizer: Any, text: str) -> list[str]:
    """Shows how the tokenizer cuts a text, one string a token."""
    require_text(text)
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))


def add_word(
    tokenizer: Any, *, placeholder_token: str, num_vectors: int = 1, option: str = "placeholder_token"
) -> Word:
    """Adds a word's tokens to the tokenizer, after everything about them has been checked.

    Args:
      tokenizer: a CLIP tokenizer; it learns `tok`, `tok_1`, ..., one token a vector.
      placeholder_token: the new word. With several vectors it is added as the tokenizer spells it, which a
        line then says: under another spelling diffusers would find the first vector alone.
      num_vectors: how many tokens it has.
      option: where the word comes from, for messages.

    Raises:
      TokenError: the placeholder is empty, already a word, or holds one.
    """
    written, placeholder_token = placeholder_token, stored_word(placeholder_token, num_vectors)
    tokens = vector_tokens(placeholder_token, num_vectors)
    for token in tokens:
        _check_placeholder(tokenizer, token, option)
    first_id = len(tokenizer)
    tokenizer.add_tokens(list(tokens))
    token_ids = tuple(tokenizer.convert_tokens_to_ids(list(tokens)))
    if token_ids != tuple(range(first_id, first_id + num_vectors)):
        raise TokenError(
            f"{option} {placeholder_token!r}",
            expected=f"new token ids from {first_id}",
            found=str(list(token_ids)),
            remedy="The tokenizer's vocabulary has gaps; use the tokenizer of the base model.",
        )
    if written != placeholder_token:
        say(
            f"note: {option} {written!r} is stored as {placeholder_token!r}, as the tokenizer reads both: "
            f"under the first name diffusers would use only one of its {num_vectors} vectors"
        )
    return Word(placeholder_token, tokens, token_ids, tokenizer)


def stored_word(word: str, num_vectors: int) -> str:
    """The spelling under which all tools find a word: with several vectors, the tokenizer's own."""
    return word if num_vectors == 1 else spelled_plainly(word)


def check_names_apart(words: Sequence[str], option: str = "extra_embeds") -> None:
    """Refuses words that contain one another as the tokenizer reads them: a text could stand for either.

    Args:
      words: placeholders, first those that were there first.
      option: where the later ones come from, for messages.

    Raises:
      TokenError: names two such words.
    """
    spelled = [spelled_plainly(word) for word in words]
    for place, word in enumerate(words):
        for other, plain in zip(words[:place], spelled, strict=False):
            if plain in spelled[place] or spelled[place] in plain:
                same = plain == spelled[place]
                raise TokenError(
                    f"{option} {word!r}",
                    expected="a word that nothing else goes by"
                    if same
                    else "a word that neither contains another nor is part of it",
                    found="it twice" if word == other else f"{other!r} beside it",
                    remedy=f"Give one of them another name: {option} takes TOKEN=FILE.",
                )


def _check_placeholder(tokenizer: Any, token: str, option: str) -> None:
    where = f"{option} {shortened(repr(token), 80)}"
    if not token.strip() or token != token.strip():
        raise TokenError(
            where,
            expected="a word without blanks around it",
            found="an empty or padded one",
            remedy="Write for example <my-cat>.",
        )
    if not token.isprintable() or len(token) > _LONGEST_WORD or token == _RESERVED:
        raise TokenError(
            where,
            expected=f"a word of up to {_LONGEST_WORD} letters and signs that can be printed",
            found="a name that files use themselves"
            if token == _RESERVED
            else f"{len(token)} signs, "
            f"{sum(not each.isprintable() for each in token)} of which cannot be printed",
            remedy="Write for example <my-cat>.",
        )
    pieces = split_text(tokenizer, token)
    vocabulary = tokenizer.get_vocab()
    example = f"for example <{token.strip('<>')}-concept>"
    if token in vocabulary or len(pieces) == 1:
        raise TokenError(
            where,
            expected="a new word",
            found=f"one that the tokenizer knows, as {pieces}",
            remedy=f"Choose one that is not in the vocabulary, {example}.",
        )
    _check_apart_from_added(tokenizer, token, where)


def _check_apart_from_added(tokenizer: Any, token: str, where: str) -> None:
    """Refuses a word that contains one that was added before, as the tokenizer reads them, or vice versa."""
    plain, special = spelled_plainly(token), tokenizer.all_special_tokens
    for known in tokenizer.get_added_vocab():
        other = spelled_plainly(known)
        if other in plain or (known not in special and plain in other):
            raise TokenError(
                where,
                expected="a word that neither contains another of the tokenizer's nor is part of it",
                found=f"{known!r} beside it",
                remedy="A prompt could stand for either: choose another.",
            )


def initializer_ids(tokenizer: Any, initializer_token: str) -> tuple[int, ...]:
    """Ids of the known tokens that a concept starts from, one for each piece of the text.

    Raises:
      TokenError: the text has no token, or one that the tokenizer does not know.
    """
    where = f"initializer_token {initializer_token!r}"
    pieces = split_text(tokenizer, initializer_token)
    if not pieces:
        raise TokenError(
            where,
            expected="a known word",
            found="no token",
            remedy="Name the kind of thing that is learned, for example toy.",
        )
    if tokenizer.unk_token in pieces and initializer_token != tokenizer.unk_token:
        raise TokenError(
            where,
            expected="known words",
            found=f"one that the tokenizer reads as unknown, {pieces}",
            remedy="Choose words of the vocabulary, for example toy.",
        )
    return tuple(tokenizer.convert_tokens_to_ids(pieces))


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    concept: Concept | None = None,
    origins: Mapping[str, str] | None = None,
    chunks: int = 1,
) -> np.ndarray:
    """Token ids of prompts, padded to the text encoder's length: `[prompts, chunks * tokens]` int32.

    Args:
      tokenizer: a CLIP tokenizer that already has the added tokens.
      prompts: texts, in which a placeholder stands for all of its tokens; with `concept` each must name one
        of its words, and hold all tokens of those that it names in order.
      concept: what must be in every prompt, for training prompts.
      origins: prompt to the file it was made from, for messages.
      chunks: how often the text encoder's length each prompt has, every chunk with a begin and an end; what
        does not need all has empty ones.

    Raises:
      TokenError: a concept's tokens are cut off or split in one of the prompts.
    """
    length = tokenizer.model_max_length
    written_out = all_written_out(tokenizer, prompts)
    if chunks > 1:
        token_ids = in_chunks(tokenizer, written_out, chunks)
    else:
        encoded = tokenizer(written_out, padding="max_length", truncation=True, max_length=length)
        token_ids = np.asarray(encoded["input_ids"], np.int32)
    if concept is not None:
        named = _named(tokenizer, written_out, concept)
        for prompt, row, words in zip(prompts, token_ids, named, strict=True):
            _check_whole(prompt, row, words, (origins or {}).get(prompt, ""))
    return token_ids


def _named(tokenizer: Any, prompts: Sequence[str], concept: Concept) -> list[tuple[Word, ...]]:
    """The words that each prompt names, wherever in it; all words of the concept where it names none."""
    if len(concept.words) == 1 or not prompts:
        return [concept.words] * len(prompts)
    whole = tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
    named = [tuple(word for word in concept.words if word.token_ids[0] in {*ids}) for ids in whole]
    return [words or concept.words for words in named]


def prompts_cut_off(tokenizer: Any, prompts: Sequence[str], token_ids: np.ndarray) -> list[str]:
    """Returns the prompts of which the text encoder does not see the end.

    Args:
      tokenizer: the one that encoded them.
      prompts: texts.
      token_ids: `[prompts, tokens]`, what they became.
    """
    length = tokenizer.model_max_length
    rows = token_ids.reshape(len(prompts), token_ids.shape[1] // length, length)
    ends = np.argmax(rows == tokenizer.eos_token_id, axis=2)
    # Of one chunk the end tells; the last of several may have room left, as borders come before words.
    full = ends[:, -1] == length - 1 if rows.shape[1] == 1 else ends[:, -1] > 1
    seen = np.sum(ends - 1, axis=1)
    return [
        prompt
        for prompt, candidate, tokens in zip(prompts, full, seen, strict=True)
        if candidate and _length(tokenizer, prompt) > tokens
    ]


def _length(tokenizer: Any, prompt: str) -> int:
    written_out = expand_known(tokenizer, prompt)
    return len(tokenizer(written_out, add_special_tokens=False, verbose=False)["input_ids"])


def _check_whole(prompt: str, row: np.ndarray, words: Sequence[Word], origin: str) -> None:
    for word in words:
        first, count = word.token_ids[0], len(word.token_ids)
        found = [int(i) for i in row if first <= i < first + count]
        if tuple(found[:count]) == word.token_ids:
            continue
        shown = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."
        raise TokenError(
            f"prompt {shown!r}{f' of {origin}' if origin else ''}",
            expected=f"all {count} tokens of {word.placeholder_token} within {len(row)} tokens",
            found=f"{len(set(found))} of them",
            remedy="Use a smaller num_vectors or a shorter prompt, or move the word to its beginning.",
        )
