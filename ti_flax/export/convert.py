"""From an embedding file of any kind, or two of them, to one of another kind."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.console.program import started_alike
from ti_flax.embedding.contents import FIRST
from ti_flax.embedding.file_names import LEARNED_EMBEDS, file_of_word, word_stem
from ti_flax.embedding.formats import (
    Embedding,
    check_new,
    embedding_files,
    form_of,
    has_name,
    write_embedding,
)
from ti_flax.embedding.mixing import mixed
from ti_flax.embedding.read import EmbeddingFile, load_embedding
from ti_flax.errors import ConfigError, WeightsError
from ti_flax.export.embedding_card import captioned, plain_card
from ti_flax.files.regular import read_regular
from ti_flax.models.tokenizer import stored_word

_LONGEST_PICTURE = 2**28


@dataclass(frozen=True)
class ConvertRequest:
    """What a person wants of a converted file.

    Attributes:
      form: one of `FORMS`; None takes the one that the suffix means.
      token: the word; None keeps the file's own, or takes its name.
      name: of the embedding where a form has one beside the word; None is the word.
      dtype: float32 or float16.
      image: file to draw an embedding image upon; None is a plain card.
      overwrite: whether a file that is there may be replaced.
    """

    form: str | None = None
    token: str | None = None
    name: str | None = None
    dtype: str = "float32"
    image: Path | None = None
    overwrite: bool = False


def other_forms(folder: Path, words: Sequence[str], *, sdxl: bool = False) -> list[str]:
    """Lines for the tools that do not read a run's own file: commands, or for SDXL where their files are.

    Args:
      folder: of the run.
      words: that it learned.
      sdxl: whether they are for SDXL.
    """
    if sdxl:
        made = " and ".join(str(folder / f"{word_stem(word)}.safetensors") for word in words)
        return [f"for the Web UI, Forge, ComfyUI, InvokeAI, kohya's scripts and OneTrainer: {made}"]
    program, lines = started_alike("convert", "convert_embeds"), []
    for word in words:
        learned = folder / (file_of_word(word) if len(words) > 1 else f"{LEARNED_EMBEDS}.safetensors")
        command = shlex.join([*program, str(learned), f"{word_stem(word)}.safetensors"])
        lines.append(f"for InvokeAI: {command} --to invoke; for OneTrainer: --to onetrainer")
    return lines


def convert_embedding(source: Path, target: Path, request: ConvertRequest | None = None) -> str:
    """Reads an embedding, writes it in another form, and says in a sentence what was written.

    Raises:
      WeightsError: the source is no embedding, or its numbers do not fit the dtype.
      ConfigError: the wishes contradict one another or the source.
      OutputError: the target cannot be written.
    """
    request = request or ConvertRequest()
    _check(target, request)
    return _write(load_embedding(source, request.token), source, target, request)


def mix_embeddings(
    sources: tuple[Path, Path], weight: float, target: Path, request: ConvertRequest | None = None
) -> str:
    """Writes the word between two others, and says in a sentence what was written.

    Each vector's direction lies on the great circle between theirs, and its norm between their norms.

    Args:
      sources: two embeddings of any kind, of the same base model and with as many vectors.
      weight: from 0, which gives the first, to 1, which gives the second.
      target: where to.
      request: how; its token is the new word, the target's name if left out.

    Raises:
      WeightsError: a source is no embedding, holds several words, or does not go with the other.
      ConfigError: the weight is none, or the wishes contradict one another or the sources.
      OutputError: the target cannot be written.
    """
    request = request or ConvertRequest()
    _check(target, request)
    if not 0 <= weight <= 1:
        raise ConfigError("--mix", expected="a weight from 0 (A) to 1 (B)", found=f"{weight:g}")
    one, other = (load_embedding(source) for source in sources)
    way = f", {weight:g} of the way from {sources[0]} to {sources[1]}"
    return _write(mixed(one, other, weight, sources), target, target, request, way=way)


def _check(target: Path, request: ConvertRequest) -> None:
    check_new(target, overwrite=request.overwrite)
    for option, value in (("--token", request.token), ("--name", request.name)):
        if value is not None and not value.strip():
            raise ConfigError(option, expected="a word", found="an empty one")


def _write(
    found: EmbeddingFile, source: Path, target: Path, request: ConvertRequest, *, way: str = ""
) -> str:
    """Writes an embedding; the source names one without a word, and `way` says what it lies between."""
    form = form_of(target, request.form, sdxl=found.is_sdxl)
    _refuse_nothing(source, found, form)
    suffix = target.suffix.lower()
    if request.image is not None and suffix != ".png":
        raise ConfigError("--picture", expected="a .png as the file to write", found=target.name)
    if request.name is not None and not has_name(form, suffix):
        raise ConfigError(
            "--name", expected="a form that has a name beside the token", found=f"{form} {suffix}"
        )
    spelled = request.token or found.token or source.stem
    # diffusers takes the word from these two forms.
    token = stored_word(spelled, found.vectors) if form in ("diffusers", "automatic1111") else spelled
    embedding = _embedding(found, source, request, token)
    image = _image(embedding, request.image) if suffix == ".png" else None
    files = embedding_files(embedding, form, target, image=image)
    write_embedding(files, overwrite=request.overwrite)
    said = _said(
        embedding, found, form, suffix=suffix, chosen=request.token is not None, spelled=spelled, way=way
    )
    places = " and ".join(str(path) for path in reversed(files))
    return f"{places}: {said}. {_use(target, form, embedding)}"


def _refuse_nothing(source: Path, found: EmbeddingFile, form: str) -> None:
    """Refuses to leave out what goes behind the text encoders where there is nothing else.

    Raises:
      ConfigError: all else is zeros, and the form has no place for that.
    """
    if found.behind and form != "onetrainer" and not any(rows.any() for rows in found.rows.values()):
        raise ConfigError(
            source,
            expected=f"vectors that go before the text encoder, which is all that {form}'s form holds",
            found="an output embedding of OneTrainer, whose vectors all go behind it",
            remedy="Keep OneTrainer's form: --to onetrainer and a .safetensors file.",
        )


def _embedding(found: EmbeddingFile, source: Path, request: ConvertRequest, token: str) -> Embedding:
    return Embedding(
        token=token,
        name=request.name or token,
        rows={name: _as(source, rows, request.dtype) for name, rows in found.rows.items()},
        sdxl=found.is_sdxl,
        details=found.details,
        behind={name: _as(source, rows, request.dtype) for name, rows in found.behind.items()},
    )


def _as(source: Path, rows: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = rows.astype(dtype)
    if not np.isfinite(cast).all():
        raise WeightsError(
            source,
            expected=f"numbers that {dtype} holds",
            found=f"one of {np.abs(rows).max():.4g}",
            remedy="Leave --dtype out.",
        )
    return cast


def _image(embedding: Embedding, file: Path | None) -> Any:
    from ti_flax.data.images.decode import decode_image

    step = embedding.details.get("step")
    footer = _counted(embedding.vectors, "vector") + f" of {embedding.first.shape[1]}"
    footer += f", step {step}" if step else ""
    if file is None:
        return plain_card(embedding.name, footer)
    try:
        content = read_regular(file, _LONGEST_PICTURE)
    except OSError as error:
        raise ConfigError(
            f"--picture {file}", expected="an image", found=error.strerror or str(error)
        ) from None
    return captioned(decode_image(content, str(file)), embedding.name, footer)


def _said(
    embedding: Embedding,
    found: EmbeddingFile,
    form: str,
    *,
    suffix: str,
    chosen: bool,
    spelled: str,
    way: str,
) -> str:
    widths = " and ".join(str(rows.shape[1]) for rows in embedding.rows.values())
    unnamed = "as no --token is given" if way else "as it holds no word"
    note = f" (the file's name, {unnamed})" if not (found.token or chosen) else ""
    if spelled != embedding.token:
        note = f" (for {spelled}, as diffusers finds several vectors only so)"
    count = _counted(embedding.vectors, "vector")
    left = ""
    if found.behind:
        left = ", with" if form == "onetrainer" else ", without"
        left += " those that go behind the text encoder" + ("s" if len(found.behind) > 1 else "")
    token = f"token {embedding.token}{note}, " if form == "diffusers" or has_name(form, suffix) else ""
    said = f"{form} form, {token}{count} of {widths} numbers in {embedding.first.dtype}{left}"
    if embedding.sdxl and len(embedding.rows) == 1:
        there = "first" if FIRST in embedding.rows else "second"
        said += f", for SDXL's {there} text encoder alone, which few programs but ComfyUI take"
    return said + way


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _use(target: Path, form: str, embedding: Embedding) -> str:
    """What to write in prompts, which in most programs is the file's name."""
    if form == "diffusers":
        return f"The word in prompts is {embedding.token}."
    if form == "rinongal":
        return "The word in prompts is *."
    if target.suffix.lower() == ".png":
        return f"The word in prompts is {embedding.name}."
    return f"The word in prompts is the file's name, {target.stem}."
