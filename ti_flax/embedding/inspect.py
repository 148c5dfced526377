"""Says in words what is in an embedding file, and what its vectors are like beside a model's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.embedding.read import EmbeddingFile
from ti_flax.embedding.vocabulary import Vocabulary
from ti_flax.files.regular import file_digest

_FORMS = {
    "diffusers": "diffusers: the token is the key",
    "automatic1111": "AUTOMATIC1111's Web UI: string_to_param with a name",
    "kohya": "kohya and invoke-training: emb_params",
    "onetrainer": "OneTrainer: emp_params",
    "sdxl": "SDXL, vectors of two text encoders in one file",
    "rinongal": "the original repository of Textual Inversion: string_to_param without a name",
    "flax": "NumPy's, as the first Flax script of diffusers wrote it",
}
_BASES = {
    768: "Stable Diffusion 1.x (768 wide)",
    1024: "Stable Diffusion 2.x (1024 wide)",
    1280: "the second text encoder of SDXL alone (1280 wide)",
}
_LONGEST_DETAIL, _MOST_ROWS, _NEAREST = 100, 64, 5


@dataclass(frozen=True)
class Model:
    """A base model to compare with.

    Attributes:
      name: for messages.
      width: of its text encoder.
      words: how many its tokenizer knows.
      vocabulary: they themselves.
    """

    name: str
    width: int
    words: int
    vocabulary: Vocabulary


def load_model(base: Any, tokenizer: Any, name: str) -> Model:
    """Reads the token table of a base model, as far as the tokenizer names it.

    Args:
      base: a `ModelSource` with a text encoder.
      tokenizer: the one that goes with it.
      name: of the model, for messages.
    """
    # What is in a file is shown without JAX.
    from ti_flax.embedding.rows import check_table
    from ti_flax.models.stable_diffusion import load_stable_diffusion

    params = load_stable_diffusion(base, components=("text_encoder",)).params["text_encoder"]
    table = np.asarray(params["text_model"]["embeddings"]["token_embedding"]["embedding"], np.float32)
    count = len(tokenizer)
    check_table(table, count)
    names = tokenizer.convert_ids_to_tokens(list(range(count)))
    vocabulary = Vocabulary(
        table[:count], names, lambda token_id: tokenizer.decode([token_id]), tokenizer.all_special_ids
    )
    return Model(name, table.shape[1], count, vocabulary)


def describe_embeddings(path: Path, found: Sequence[EmbeddingFile], model: Model | None = None) -> str:
    """Everything that a person may want to know about an embedding file, in lines.

    Args:
      path: of the file.
      found: its tokens, from `read_embeddings`.
      model: to compare with; None leaves that out.
    """
    size, digest = file_digest(path)
    lines = [f"{path}", _line("form", _FORMS[found[0].kind])]
    lines.append(_line("file", f"{size:,} bytes, sha256 {digest}"))
    for name, value in sorted(found[0].details.items()):
        shown = value if len(value) <= _LONGEST_DETAIL else f"{value[:_LONGEST_DETAIL]}..."
        lines.append(_line(name, " ".join(shown.split())))
    for embedding in found:
        lines += ["", *_one(embedding, path, model)]
    if model is None:
        lines += ["", "For the nearest words, name a model: --pretrained_model_name_or_path MODEL"]
    return "\n".join(lines)


def _one(embedding: EmbeddingFile, path: Path, model: Model | None) -> list[str]:
    token = embedding.token or f"none in the file; the Web UI takes the file's name, {path.stem}"
    count, width = embedding.rows.shape
    lines = [_line("token", token), _line("vectors", str(count))]
    second = embedding.second_rows
    if second is None:
        lines.append(_line("width", str(width)))
        fits = _BASES.get(width, "no base model that this width is known of")
    else:
        lines.append(_line("widths", f"{width} (clip_l) and {second.shape[1]} (clip_g)"))
        known = (width, second.shape[1]) == (768, 1280)
        fits = "SDXL (768 and 1280 wide)" if known else "no base model that these widths are known of"
    lines += [_line("dtype", embedding.dtype), _line("fits", fits)]
    if model is None:
        return [*lines, _norms(embedding.rows, second)]
    if second is not None or model.width != width:
        lines.append(_line("", f"not {model.name}, whose text encoder is {model.width} wide"))
        return [*lines, _norms(embedding.rows, second)]
    lines.append(_line("", f"{model.name}: yes, its text encoder is {model.width} wide"))
    return [*lines, *_beside(embedding.rows, model)]


def _norms(rows: np.ndarray, second: np.ndarray | None) -> str:
    """A line with the length of every row."""
    if second is not None:
        return _line("norms", f"clip_l {_lengths(rows)}; clip_g {_lengths(second)}")
    return _line("norms", _lengths(rows))


def _lengths(rows: np.ndarray) -> str:
    more = f" and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    return ", ".join(f"{norm:.4g}" for norm in np.linalg.norm(rows[:_MOST_ROWS], axis=1)) + more


def _beside(rows: np.ndarray, model: Model) -> list[str]:
    """A line a row: its length among the vocabulary's, and the nearest words."""
    vocabulary = model.vocabulary
    lines = [
        _line(
            "vocabulary", f"{model.words:,} words, half of them with norms below {vocabulary.median_norm:.4g}"
        ),
        "",
        f"  {'row':>5}  {'norm':>8}  {'longer than':<14}  nearest words (cosine)",
    ]
    shown = rows[:_MOST_ROWS]
    for place, (row, found) in enumerate(zip(shown, vocabulary.measure(shown, shown), strict=True), start=1):
        share = f"{found.norm_percentile:.0f} % of words"
        words = ", ".join(f"{word} {cosine:.2f}" for word, cosine in vocabulary.nearest(row, _NEAREST))
        lines.append(f"  {place:>5}  {found.norm:>8.4g}  {share:<14}  {words}")
    if len(rows) > _MOST_ROWS:
        lines.append(f"  and {len(rows) - _MOST_ROWS} more rows")
    return lines


def _line(label: str, text: str) -> str:
    return f"  {label:<12}{text}" if len(label) < 12 else f"  {label}  {text}"
