"""How to use an embedding with diffusers, as the card and the page of a run show it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ti_flax.embedding.file_names import LEARNED_EMBEDS, file_of_word, second_half

_FIRST = Path(f"{LEARNED_EMBEDS}.safetensors")
# Stock copies of SDXL name another end of the text, and PyTorch then takes the place of the new word for it.
_END_OF_TEXT = "pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id\n"


def pipeline_code(
    model: str,
    prompt: str,
    *,
    loader: str = "from_pretrained",
    sdxl: bool = False,
    repository: str | None = None,
    clip_skip: int = 0,
    note: str = "",
    words: Sequence[str] = (),
) -> str:
    """Python that draws an image with the embedding.

    Args:
      model: name or path of the base model.
      prompt: that names the word.
      loader: the pipeline's method that reads the model.
      sdxl: whether the embedding is of two text encoders, in two files.
      repository: where the files are on the Hub; None: here.
      clip_skip: layers left out at the end of the text encoder.
      note: a comment above the line that reads the model.
      words: of several, each is loaded from its own file.
    """
    name = f"StableDiffusion{'XL' if sdxl else ''}Pipeline"
    lines = f"from diffusers import {name}\n\n{note}pipe = {name}.{loader}({json.dumps(model)})\n"
    if sdxl:
        lines += _END_OF_TEXT
    several = len(words) > 1
    for file in (Path(file_of_word(word)) for word in words) if several else (_FIRST,):
        lines += f"pipe.load_textual_inversion({_place(file, repository, named=sdxl or several)})\n"
        if sdxl:
            second = _place(second_half(file), repository, named=True)
            lines += "pipe.load_textual_inversion(\n"
            lines += f"    {second}, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2\n)\n"
    skip = f", clip_skip={clip_skip}" if clip_skip else ""
    shown = json.dumps(prompt, ensure_ascii=False)
    return f'{lines}pipe({shown}{skip}).images[0].save("picture.png")'


def _place(file: Path, repository: str | None, *, named: bool) -> str:
    """A file as an argument: of a repository, diffusers finds the one that it expects by itself."""
    if repository is None:
        return json.dumps(file.name)
    return json.dumps(repository) + (f", weight_name={json.dumps(file.name)}" if named else "")
