"""Says in words what is in an embedding file, and what its vectors are like beside a model's vocabulary."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.embedding_files import EmbeddingFile

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
_LONGEST_DETAIL, _MOST_ROWS = 100, 64


@dataclass(frozen=True)
class Vocabulary:
    """The words of a model and their vectors.

    Attributes:
      model: its name, for messages.
      table: `[words, width]` float32.
      words: `[words]`, as a person reads them; a piece that others follow ends in a hyphen.
    """

    model: str
    table: np.ndarray
    words: list[str]

    def nearest(self, row: np.ndarray, count: int) -> list[tuple[str, float]]:
        """The words whose vectors have the largest cosine with one, and that cosine."""
        lengths = np.linalg.norm(self.table, axis=1) * np.linalg.norm(row)
        cosines = self.table @ row / np.maximum(lengths, np.finfo(np.float32).tiny)
        best = np.argsort(-cosines, kind="stable")[:count]
        return [(self.words[place], float(cosines[place])) for place in best]


def load_vocabulary(base: Any, tokenizer: Any, name: str) -> Vocabulary:
    """Reads the token table of a base model, as far as the tokenizer names it.

    Args:
      base: a `ModelSource` with a text encoder.
      tokenizer: the one that goes with it.
      name: of the model, for messages.
    """
    from ti_flax.embedding import check_table
    from ti_flax.models.stable_diffusion import load_stable_diffusion

    params = load_stable_diffusion(base, components=("text_encoder",)).params["text_encoder"]
    table = np.asarray(params["text_model"]["embeddings"]["token_embedding"]["embedding"], np.float32)
    check_table(table, len(tokenizer))
    count = len(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(list(range(count)))
    return Vocabulary(name, table[:count], [_plain(tokenizer, token) for token in tokens])


def describe_embeddings(
    path: Path, found: Sequence[EmbeddingFile], vocabulary: Vocabulary | None = None
) -> str:
    """Everything that a person may want to know about an embedding file, in lines.

    Args:
      path: of the file.
      found: its tokens, from `read_embeddings`.
      vocabulary: to compare with; None leaves that out.
    """
    content = path.read_bytes()
    lines = [f"{path}", _line("form", _FORMS[found[0].kind])]
    lines.append(_line("file", f"{len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}"))
    for name, value in sorted(found[0].details.items()):
        shown = value if len(value) <= _LONGEST_DETAIL else f"{value[:_LONGEST_DETAIL]}..."
        lines.append(_line(name, " ".join(shown.split())))
    for embedding in found:
        lines += ["", *_one(embedding, path, vocabulary)]
    if vocabulary is None:
        lines += ["", "For the nearest words, name a model: --pretrained_model_name_or_path MODEL"]
    return "\n".join(lines)


def _one(embedding: EmbeddingFile, path: Path, vocabulary: Vocabulary | None) -> list[str]:
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
    if vocabulary is None:
        return [*lines, _norms(embedding.rows, second)]
    theirs = vocabulary.table.shape[1]
    if second is not None or theirs != width:
        lines.append(_line("", f"not {vocabulary.model}, whose text encoder is {theirs} wide"))
        return [*lines, _norms(embedding.rows, second)]
    lines.append(_line("", f"{vocabulary.model}: yes, its text encoder is {theirs} wide"))
    return [*lines, *_beside(embedding.rows, vocabulary)]


def _norms(rows: np.ndarray, second: np.ndarray | None) -> str:
    """A line with the length of every row."""
    if second is not None:
        return _line("norms", f"clip_l {_lengths(rows)}; clip_g {_lengths(second)}")
    return _line("norms", _lengths(rows))


def _lengths(rows: np.ndarray) -> str:
    more = f" and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    return ", ".join(f"{norm:.4g}" for norm in np.linalg.norm(rows[:_MOST_ROWS], axis=1)) + more


def _beside(rows: np.ndarray, vocabulary: Vocabulary) -> list[str]:
    """A line a row: its length among the vocabulary's, and the nearest words."""
    known = np.linalg.norm(vocabulary.table, axis=1)
    least, median, most = np.percentile(known, (0, 50, 100))
    lines = [
        _line(
            "vocabulary",
            f"{len(known):,} words, norms from {least:.4g} to {most:.4g}, half of them below {median:.4g}",
        ),
        "",
        f"  {'row':>5}  {'norm':>8}  {'longer than':<14}  nearest words (cosine)",
    ]
    for place, row in enumerate(rows[:_MOST_ROWS], start=1):
        norm = float(np.linalg.norm(row))
        share = f"{100 * float(np.mean(known < norm)):.0f} % of words"
        words = ", ".join(f"{word} {cosine:.2f}" for word, cosine in vocabulary.nearest(row, 5))
        lines.append(f"  {place:>5}  {norm:>8.4g}  {share:<14}  {words}")
    if len(rows) > _MOST_ROWS:
        lines.append(f"  and {len(rows) - _MOST_ROWS} more rows")
    return lines


def _line(label: str, text: str) -> str:
    return f"  {label:<12}{text}" if len(label) < 12 else f"  {label}  {text}"


def _plain(tokenizer: Any, token: str) -> str:
    """A token as a person reads it; one that is part of a letter stays as it is in the vocabulary."""
    text = tokenizer.convert_tokens_to_string([token]).removesuffix("</w>").strip()
    whole = token.endswith("</w>") or token.startswith("<|")
    text = text if text and "\ufffd" not in text else token.removesuffix("</w>")
    return text if whole else f"{text}-"
