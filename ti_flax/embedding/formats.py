"""Writes an embedding in the form that another program reads; each form is what its program writes itself.

| form | suffixes | what is in the file |
|---|---|---|
| diffusers | .safetensors .bin | one key, the token |
| automatic1111 | .pt .safetensors .png | string_to_param and a name; `emb_params`; such an image |
| kohya | .safetensors .pt | `emb_params`, with modelspec keys |
| invoke | .safetensors | `emb_params` |
| onetrainer | .safetensors | `emp_params`, and `emp_params_out` for what goes behind the text encoder |
| rinongal | .pt | string_to_token and string_to_param as torch objects |

For SDXL the keys are `clip_l` and `clip_g` in all forms but diffusers', which writes a file for each text
encoder, the second with `_2` in its name. What goes behind the text encoders is in OneTrainer's form alone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.embedding.contents import BEHIND, FIRST, FIRST_WIDTH, SECOND
from ti_flax.embedding.file_names import second_half
from ti_flax.embedding.png import TEXT_CHUNK, hide_bytes, tree_bytes
from ti_flax.embedding.torch_archive import Parameters, torch_bytes
from ti_flax.errors import ConfigError, OutputError
from ti_flax.files.atomic import atomic_write
from ti_flax.models.weights.tensor_files import safetensors_bytes

# The suffixes of each form; without a form asked for, a suffix means the first form that has it here.
FORMS: Mapping[str, tuple[str, ...]] = {
    "diffusers": (".safetensors", ".bin"),
    "automatic1111": (".pt", ".safetensors", ".png"),
    "kohya": (".safetensors", ".pt"),
    "invoke": (".safetensors",),
    "onetrainer": (".safetensors",),
    "rinongal": (".pt",),
}
# Of CLIP's vocabulary, the token of "*", which stands for any word in the files that say it.
_ANY_WORD, _ANY_WORD_ID = "*", 265
# The keys of SDXL's text encoders.
_CLIP = {FIRST: "clip_l", SECOND: "clip_g"}
# What kohya's scripts call a base and its images (library/sai_model_spec.py). 2.x has two names for a width.
_SD1 = ("stable-diffusion-v1", "512x512")
_SDXL = ("stable-diffusion-xl-v1-base", "1024x1024")
# What a run says of the rows that it keeps.
_OURS = ("step", "validation_loss")
_IMPLEMENTATION = "https://github.com/Stability-AI/generative-models"


@dataclass(frozen=True)
class Embedding:
    """What a file is made of.

    Attributes:
      token: the word it stands for.
      name: its name where a form has one beside the token.
      rows: `[vectors, width]` float32 or float16 by text encoder, `text_encoder` and for SDXL
        `text_encoder_2`, of which there may be one alone.
      sdxl: whether they are for SDXL.
      details: what another file said: step, sd_checkpoint, sd_checkpoint_name, modelspec keys.
      behind: like the rows, what takes the place of the text encoders' output at the word.
    """

    token: str
    name: str
    rows: Mapping[str, np.ndarray]
    sdxl: bool = False
    details: Mapping[str, str] = field(default_factory=dict)
    behind: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def vectors(self) -> int:
        """How many there are, the same for each text encoder."""
        return len(self.first)

    @property
    def first(self) -> np.ndarray:
        """Those of the first text encoder that there is."""
        return next(iter(self.rows.values()))


def form_of(path: Path, asked: str | None, *, sdxl: bool) -> str:
    """Settles which form a file gets.

    Args:
      path: where it goes; its suffix decides between containers, and forms where none is asked for.
      asked: the form asked for.
      sdxl: whether the vectors are for SDXL.

    Raises:
      ConfigError: the suffix does not go with the form, or the form has no place for SDXL's vectors.
    """
    suffix = path.suffix.lower()
    every = sorted({known for suffixes in FORMS.values() for known in suffixes})
    if asked is None:
        if suffix not in every:
            raise ConfigError(path, expected=f"a name that ends in {', '.join(every)}", found=repr(suffix))
        form = next(form for form, suffixes in FORMS.items() if suffix in suffixes)
        # Files for SDXL are the same in all programs that keep both encoders in one.
        form = "kohya" if sdxl and suffix in FORMS["kohya"] else form
    else:
        form = asked
        if suffix not in FORMS[form]:
            raise ConfigError(
                path,
                expected=f"a name that ends in {' or '.join(FORMS[form])} for {form}",
                found=repr(suffix),
            )
    if sdxl and (form == "rinongal" or suffix == ".png"):
        raise ConfigError(
            path,
            expected="vectors of one text encoder, which is all this form holds",
            found="those for SDXL",
            remedy="Write a .safetensors file with --to kohya, which the Web UI, ComfyUI, InvokeAI and "
            "OneTrainer read, or --to diffusers.",
        )
    return form


def has_name(form: str, suffix: str) -> bool:
    """Whether files of a form have a name beside the token."""
    return form == "automatic1111" or (form, suffix) == ("kohya", ".safetensors")


def embedding_files(embedding: Embedding, form: str, path: Path, *, image: Any = None) -> dict[Path, bytes]:
    """The files of an embedding and what is in them, in the order to write them in.

    Args:
      embedding: what they hold.
      form: one of `FORMS`.
      path: where to, with one of its suffixes. Of two files it is the first text encoder's, and comes last,
        so that where it is, the other is as well.
      image: a PIL image that a .png carries it in.
    """
    suffix = path.suffix.lower()
    if form != "diffusers" or len(embedding.rows) == 1:
        return {path: embedding_bytes(embedding, form, suffix, image=image)}
    places = {second_half(path): SECOND, path: FIRST}
    return {
        place: embedding_bytes(replace(embedding, rows={name: embedding.rows[name]}), form, suffix)
        for place, name in places.items()
    }


def embedding_bytes(embedding: Embedding, form: str, suffix: str, *, image: Any = None) -> bytes:
    """The content of an embedding's file.

    Args:
      embedding: what it holds; in diffusers' form the vectors of one text encoder.
      form: one of `FORMS`.
      suffix: one of its suffixes.
      image: a PIL image that a .png carries it in.
    """
    if suffix == ".png":
        return _image_bytes(embedding, image)
    if form == "diffusers":
        tensors = {embedding.token: embedding.first}
    else:
        first = "emp_params" if form == "onetrainer" else "emb_params"
        keys = _CLIP if embedding.sdxl else {FIRST: first}
        tensors = {keys[name]: rows for name, rows in embedding.rows.items()}
        if form == "onetrainer":
            tensors |= {f"{keys[name]}{BEHIND}": rows for name, rows in embedding.behind.items()}
    if suffix == ".safetensors":
        return safetensors_bytes(tensors, _metadata(embedding, form))
    if form == "rinongal":
        return torch_bytes(
            {
                "string_to_token": {_ANY_WORD: np.array(_ANY_WORD_ID, np.int64)},
                "string_to_param": Parameters({_ANY_WORD: embedding.first}),
            }
        )
    if form == "automatic1111" and not embedding.sdxl:
        return torch_bytes(_webui_tree(embedding), byteorder=False)
    return torch_bytes(tensors, byteorder=form == "diffusers")


def write_embedding(files: Mapping[Path, bytes], *, overwrite: bool) -> None:
    """Writes the files of an embedding, each in one rename.

    Args:
      files: from `embedding_files`.
      overwrite: whether they may replace others.

    Raises:
      OutputError: one cannot be written, or is there already, and then none is written.
    """
    path = Path()
    try:
        for path in files:
            check_new(path, overwrite=overwrite)
        for path, content in files.items():
            with atomic_write(path) as file:
                file.write(content)
    except OSError as error:
        raise OutputError(
            path, expected="a file that can be written", found=error.strerror or str(error)
        ) from None


def check_new(path: Path, *, overwrite: bool) -> None:
    """Refuses to replace a file.

    Raises:
      OutputError: there is one, and it may not be replaced.
    """
    if path.exists() and not overwrite:
        raise OutputError(
            path,
            expected="a new file",
            found="one that is there already",
            remedy="Choose another name, or give --overwrite.",
        )


def _webui_tree(embedding: Embedding) -> dict[str, Any]:
    details = embedding.details
    step = details.get("step", "")
    return {
        "string_to_token": {_ANY_WORD: _ANY_WORD_ID},
        "string_to_param": {_ANY_WORD: embedding.first},
        "name": embedding.name,
        "step": int(step) if step.isdecimal() and len(step) < 10 else None,
        "sd_checkpoint": details.get("sd_checkpoint"),
        "sd_checkpoint_name": details.get("sd_checkpoint_name"),
    }


def _image_bytes(embedding: Embedding, image: Any) -> bytes:
    from PIL import Image, PngImagePlugin

    content = tree_bytes(_webui_tree(embedding))
    text = PngImagePlugin.PngInfo()
    text.add_text(TEXT_CHUNK, base64.b64encode(content).decode())
    made = io.BytesIO()
    pixels = hide_bytes(np.asarray(image.convert("RGB")), content)
    Image.fromarray(pixels).save(made, format="PNG", pnginfo=text)
    return made.getvalue()


def _metadata(embedding: Embedding, form: str) -> dict[str, str] | None:
    """What the header of a safetensors file says beside the tensors, as far as the form's program says it."""
    if form == "diffusers":
        return {"format": "pt"}
    if form not in ("kohya", "automatic1111"):
        return None
    made = {"modelspec.sai_model_spec": "1.0.1", "modelspec.implementation": _IMPLEMENTATION}
    if embedding.sdxl or embedding.first.shape[1] == FIRST_WIDTH:
        base, side = _SDXL if embedding.sdxl else _SD1
        made |= {"modelspec.architecture": f"{base}/textual-inversion", "modelspec.resolution": side}
    kept = {
        name: value
        for name, value in embedding.details.items()
        if name.startswith("modelspec.") or name in _OURS
    }
    named = {"modelspec.title": embedding.name, "modelspec.trigger_phrase": embedding.token}
    return {**made, **kept, **named}
