"""Says in words what is in an embedding file, and what its vectors are like beside a model's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.embedding.bases import base_of
from ti_flax.embedding.contents import FIRST, SECOND, EmbeddingFile
from ti_flax.embedding.vocabulary import Vocabulary, known_vocabularies
from ti_flax.files.regular import file_digest

_FORMS = {
    "diffusers": "diffusers: the token is the key",
    "automatic1111": "AUTOMATIC1111's Web UI: string_to_param with a name",
    "kohya": "kohya and invoke-training: emb_params",
    "onetrainer": "OneTrainer: emp_params",
    "sdxl": "SDXL, the vectors of its text encoders in one file",
    "rinongal": "the original repository of Textual Inversion: string_to_param without a name",
    "flax": "NumPy's, as the first Flax script of diffusers wrote it",
}
_CLIP = {FIRST: "clip_l", SECOND: "clip_g"}
_LONGEST_DETAIL, _MOST_ROWS, _NEAREST = 100, 64, 5


@dataclass(frozen=True)
class Model:
    """A base model to compare with.

    Attributes:
      name: for messages.
      widths: of its text encoders by name, in their order.
      words: how many its tokenizer knows.
      vocabularies: they themselves, by text encoder.
    """

    name: str
    widths: Mapping[str, int]
    words: int
    vocabularies: Mapping[str, Vocabulary]


def load_model(base: Any, tokenizer: Any, name: str, encoders: Sequence[str] = (FIRST,)) -> Model:
    """Reads the token tables of a base model, as far as the tokenizer names them.

    Args:
      base: a `ModelSource` with these text encoders.
      tokenizer: the one that goes with it; SDXL's two have the same words.
      name: of the model, for messages.
      encoders: names of its text encoders.
    """
    # What is in a file is shown without JAX.
    from ti_flax.embedding.rows import check_table
    from ti_flax.models.stable_diffusion import load_stable_diffusion, token_table

    params = load_stable_diffusion(base, components=tuple(encoders)).params
    count = len(tokenizer)
    tables = {encoder: token_table(params, encoder) for encoder in encoders}
    for table in tables.values():
        check_table(table, count)
    widths = {encoder: table.shape[1] for encoder, table in tables.items()}
    return Model(name, widths, count, known_vocabularies(tokenizer, tables, count))


def describe_embeddings(path: Path, found: Sequence[EmbeddingFile], model: Model | None = None) -> str:
    """Everything that a person may want to know about an embedding file, in lines.

    Args:
      path: of the file.
      found: its tokens, from `read_embeddings`.
      model: to compare with; None leaves that out.
    """
    lines = [f"{path}", _line("form", _form(found[0]))]
    for file in found[0].files or (path,):
        size, digest = file_digest(file)
        called = "" if file == path else f"{file.name}, "
        lines.append(_line("file", f"{called}{size:,} bytes, sha256 {digest}"))
    for name, value in sorted(found[0].details.items()):
        shown = value if len(value) <= _LONGEST_DETAIL else f"{value[:_LONGEST_DETAIL]}..."
        lines.append(_line(name, " ".join(shown.split())))
    for embedding in found:
        lines += ["", *_one(embedding, path, model)]
    if model is None:
        lines += ["", "For the nearest words, name a model: --pretrained_model_name_or_path MODEL"]
    return "\n".join(lines)


def _form(embedding: EmbeddingFile) -> str:
    halves = ", a file for each text encoder" if len(embedding.files) > 1 else ""
    return f"{_FORMS[embedding.kind]}{halves}"


def _one(embedding: EmbeddingFile, path: Path, model: Model | None) -> list[str]:
    token = embedding.token or f"none in the file; the Web UI takes the file's name, {path.stem}"
    widths = {name: rows.shape[1] for name, rows in embedding.rows.items()}
    lines = [_line("token", token), _line("vectors", str(embedding.vectors))]
    if embedding.is_sdxl:
        lines.append(
            _line("widths", " and ".join(f"{width} ({_CLIP[name]})" for name, width in widths.items()))
        )
    else:
        lines.append(_line("width", str(widths[FIRST])))
    lines += [_line("dtype", embedding.dtype), _line("fits", base_of(embedding))]
    if embedding.behind:
        lines += _behind(embedding)
    if model is None:
        return [*lines, _norms(embedding)]
    encoders = "text encoder is" if len(model.widths) == 1 else "text encoders are"
    wide = f"{encoders} {' and '.join(map(str, model.widths.values()))} wide"
    if embedding.is_sdxl != (len(model.widths) > 1) or not widths.items() <= model.widths.items():
        return [*lines, _line("", f"not {model.name}, whose {wide}"), _norms(embedding)]
    lines.append(_line("", f"{model.name}: yes, its {wide}"))
    for name, rows in embedding.rows.items():
        lines += ["", _line(_CLIP[name], "")] if embedding.is_sdxl else []
        lines += _beside(rows, model.words, model.vocabularies[name])
    return lines


def _behind(embedding: EmbeddingFile) -> list[str]:
    """What there is to say of vectors that go behind the text encoders."""
    said = "takes the place of the text encoder's output at the word, as OneTrainer's output embeddings do"
    return [_line("behind", said), _line("", f"norms {_all_lengths(embedding, embedding.behind)}")]


def _norms(embedding: EmbeddingFile) -> str:
    """A line with the length of every row."""
    return _line("norms", _all_lengths(embedding, embedding.rows))


def _all_lengths(embedding: EmbeddingFile, rows: Mapping[str, np.ndarray]) -> str:
    if not embedding.is_sdxl:
        return _lengths(rows[FIRST])
    return "; ".join(f"{_CLIP[name]} {_lengths(each)}" for name, each in rows.items())


def _lengths(rows: np.ndarray) -> str:
    more = f" and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    return ", ".join(f"{norm:.4g}" for norm in np.linalg.norm(rows[:_MOST_ROWS], axis=1)) + more


def _beside(rows: np.ndarray, words: int, vocabulary: Vocabulary) -> list[str]:
    """A line a row: its length among the vocabulary's, and the nearest words."""
    lines = [
        _line("vocabulary", f"{words:,} words, half of them with norms below {vocabulary.median_norm:.4g}"),
        "",
        f"  {'row':>5}  {'norm':>8}  {'longer than':<14}  nearest words (cosine)",
    ]
    shown = rows[:_MOST_ROWS]
    for place, (row, found) in enumerate(zip(shown, vocabulary.measure(shown, shown), strict=True), start=1):
        share = f"{found.norm_percentile:.0f} % of words"
        nearest = ", ".join(f"{word} {cosine:.2f}" for word, cosine in vocabulary.nearest(row, _NEAREST))
        lines.append(f"  {place:>5}  {found.norm:>8.4g}  {share:<14}  {nearest}")
    if len(rows) > _MOST_ROWS:
        lines.append(f"  and {len(rows) - _MOST_ROWS} more rows")
    return lines


def _line(label: str, text: str) -> str:
    return f"  {label:<12}{text}".rstrip() if len(label) < 12 else f"  {label}  {text}"
