"""Images on disk: names that replace nothing, and PNG text that says how an image was made.

The text `parameters` is the Web UI's, so that its PNG Info tab and the pages that read it fill their fields
(modules/processing.py: create_infotext, and modules/infotext_utils.py, which takes it apart again).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ti_flax.console.versions import __version__
from ti_flax.errors import OutputError
from ti_flax.files.atomic import atomic_write

# The Web UI's names of the same samplers.
_SAMPLERS = {"ddim": "DDIM", "dpmsolver++": "DPM++ 2M", "euler": "Euler"}
_NUMBERED = re.compile(r"(\d{5,})\D.*\.png")


@dataclass(frozen=True)
class ImageSpec:
    """One image to draw.

    Attributes:
      prompt: what to draw.
      negative_prompt: what to move away from.
      seed: of its starting noise.
      size: height and width in pixels.
      steps: denoising steps.
      sampler: `ddim` or `dpmsolver++`.
      guidance_scale: 1 is no guidance.
      learned: whether the words of embeddings stand for what was learned.
    """

    prompt: str
    negative_prompt: str
    seed: int
    size: tuple[int, int]
    steps: int
    sampler: str
    guidance_scale: float
    learned: bool = True


@dataclass(frozen=True)
class Provenance:
    """What all images were made with.

    Attributes:
      model: name of the base model.
      clip_skip: layers of the text encoder left out.
      embeddings: word, file name and SHA-256 of each embedding.
    """

    model: str
    clip_skip: int = 0
    embeddings: Sequence[tuple[str, str, str]] = ()


def image_texts(spec: ImageSpec, provenance: Provenance) -> dict[str, str]:
    """PNG texts of an image by keyword: `parameters` as the Web UI writes it, and each value by itself."""
    embeddings = provenance.embeddings if spec.learned else ()
    return {
        "parameters": web_ui_text(spec, provenance),
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt,
        "seed": str(spec.seed),
        "steps": str(spec.steps),
        "sampler": spec.sampler,
        "guidance_scale": f"{spec.guidance_scale:g}",
        "model": provenance.model,
        "learned_embeds": json.dumps(
            [{"token": token, "file": file, "sha256": digest} for token, file, digest in embeddings],
            ensure_ascii=False,
        ),
        "Software": f"ti_flax {__version__}",
    }


def web_ui_text(spec: ImageSpec, provenance: Provenance) -> str:
    """An image's settings as the Web UI writes them: prompt, negative prompt, and a line of values."""
    height, width = spec.size
    values = {
        "Steps": spec.steps,
        "Sampler": _SAMPLERS.get(spec.sampler, spec.sampler),
        "CFG scale": f"{spec.guidance_scale:g}",
        "Seed": spec.seed,
        "Size": f"{width}x{height}",
        "Model": provenance.model,
        "Clip skip": provenance.clip_skip + 1 if provenance.clip_skip else None,
        # The first 12 digits, as the Web UI shortens them.
        "TI hashes": ", ".join(f"{token}: {digest[:12]}" for token, _, digest in provenance.embeddings)
        if spec.learned
        else None,
        "Version": f"ti_flax {__version__}",
    }
    line = ", ".join(f"{name}: {_quoted(value)}" for name, value in values.items() if value not in (None, ""))
    negative = f"\nNegative prompt: {spec.negative_prompt}" if spec.negative_prompt else ""
    return f"{spec.prompt}{negative}\n{line}"


def _quoted(value: object) -> str:
    """A value that holds what separates values, in quotes."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:\n"') else text


def save_png(image: Any, path: Path, texts: Mapping[str, str], *, overwrite: bool = False) -> None:
    """Writes a PIL image with texts.

    Raises:
      OutputError: it cannot be written, or the file is there already.
    """
    from PIL import PngImagePlugin

    information = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        information.add_text(name, text)
    try:
        if path.exists() and not overwrite:
            raise _taken(path)
        with atomic_write(path) as file:
            image.save(file, format="PNG", pnginfo=information)
    except OSError as error:
        raise OutputError(path, expected="a file that can be written", found=str(error)) from error


def grid_path(asked: Path | None, output_dir: Path | None, *, overwrite: bool) -> Path:
    """Settles where the grid goes: where it was asked to, or else to the first free name.

    Args:
      asked: a file; one that is there is refused.
      output_dir: of single images, where the grid goes as well if nothing is asked.
      overwrite: whether a file may be replaced.

    Raises:
      OutputError: the file is there already.
    """
    if asked is not None:
        if asked.exists() and not overwrite:
            raise _taken(asked)
        return asked
    folder, stem = (Path(), "pictures") if output_dir is None else (output_dir, "grid")
    path, number = folder / f"{stem}.png", 1
    while path.exists() and not overwrite:
        number += 1
        path = folder / f"{stem}-{number}.png"
    return path


def next_number(folder: Path) -> int:
    """The number after the highest that an image's name in a folder begins with."""
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return max((int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))), default=0) + 1


def image_file_name(number: int, spec: ImageSpec) -> str:
    """`00001-seed.png`, and for an image without the embeddings `00001-seed-without.png`."""
    return f"{number:05d}-{spec.seed}{'' if spec.learned else '-without'}.png"


def _taken(path: Path) -> OutputError:
    return OutputError(
        path,
        expected="a new file",
        found="one that is there already",
        remedy="Choose another name, or give --overwrite.",
    )
