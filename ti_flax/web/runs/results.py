"""What comes of a run: images of prompts of one's own, and the word in other programs' forms."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

from ti_flax.embedding.file_names import word_stem
from ti_flax.errors import ConfigError, DataError
from ti_flax.export.convert import ConvertRequest, convert_embedding
from ti_flax.files.regular import read_regular
from ti_flax.files.written_files import is_list
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.report.files import is_there
from ti_flax.monitoring.sample_request import MOST_IMAGES, SampleRequest
from ti_flax.web.runs.processes import Program
from ti_flax.web.runs.view import RunView

# Programs that people use: what each is called, the form that it reads and the file's suffix.
READERS = {
    "diffusers": ("diffusers", ".safetensors"),
    "Web UI, Forge, ComfyUI": ("automatic1111", ".pt"),
    "InvokeAI": ("invoke", ".safetensors"),
    "OneTrainer": ("onetrainer", ".safetensors"),
}
# Options of the model that decide how it draws, which `generate` has as well.
_OF_MODEL = ("revision", "variant", "tokenizer_name", "config_name", "pretrained_vae_model_name_or_path")
_OF_MODEL += ("clip_skip", "prediction_type", "resolution")
_DRAWN = re.compile(r"(\d{1,9})\.png")
_LARGEST_IMAGE = 2**26


def sample(view: RunView, prompt: str, images: int, vectors: str) -> str:
    """Asks for images of a prompt, `{}` in which is the word; what happens now, in a sentence.

    A run that is at work draws them itself, with the vectors of that moment, as it has the device; else
    `ti-flax generate` does, with the vectors chosen.

    Args:
      view: of the run.
      prompt: what to draw.
      images: how many.
      vectors: the name of the file of the run, where it is not at work.

    Raises:
      ConfigError: there is no prompt, or too many images.
      DataError: there is nothing to draw with yet.
      OutputError: something is being drawn already.
    """
    if not prompt.strip():
        raise ConfigError(
            "prompt", expected="what to draw", found="nothing", remedy="Such as a photo of a {}."
        )
    if view.learns:
        if not is_list(view.output):  # a file in the folder before the run has made it its own would end it
            raise DataError(
                "sample",
                expected="a run that has begun",
                found="one that is starting",
                remedy="Ask again in a moment.",
            )
        try:
            SampleRequest((prompt.strip(),), images).write(view.output)
        except ValueError as error:
            raise ConfigError("sample", found=str(error)) from None
        return "The run is asked; it draws between two updates, as soon as it can."
    if not 1 <= images <= MOST_IMAGES:
        raise ConfigError("images", expected=f"a whole number from 1 to {MOST_IMAGES}", found=str(images))
    if view.facts is None or vectors not in view.vectors.values():
        raise DataError("sample", expected="a run that has written vectors", found="none so far")
    view.samples.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = view.samples / f"{max(drawn_after(view), default=0) + 1}.png"
    arguments = generate_arguments(view.facts, view.output / vectors, prompt.strip(), images, target)
    Program(view.folder, "sample").start(arguments, view.folder.parent.parent)
    return "It is being drawn; loading the model comes first."


def generate_arguments(facts: RunFacts, vectors: Path, prompt: str, images: int, target: Path) -> list[str]:
    """The arguments of `ti-flax generate` that draw with a run's vectors."""
    told = {"pretrained_model_name_or_path": facts.config.get("pretrained_model_name_or_path", facts.base)}
    told |= {name: facts.config[name] for name in _OF_MODEL if facts.config.get(name) not in (None, 0)}
    if facts.config.get("mixed_precision") in ("bf16", "fp16"):
        told["mixed_precision"] = "bf16"
    told |= {"learned_embeds": vectors, "prompt": prompt.replace("{}", facts.token)}
    told |= {"num_images": images, "output": target}
    zero = facts.config.get("rescale_betas_zero_snr")
    switch = [] if zero is None else [f"--{'' if zero else 'no-'}rescale_betas_zero_snr"]
    return ["generate", *(f"--{name}={value}" for name, value in told.items()), *switch]


def drawn_after(view: RunView) -> dict[int, Path]:
    """The samples that were drawn while no run was at work, from number to file."""
    found = ((_DRAWN.fullmatch(path.name), path) for path in view.samples.glob("*.png"))
    return dict(
        sorted(
            (int(match[1]), path)
            for match, path in found
            if match and is_there(view.folder, path.relative_to(view.folder).as_posix())
        )
    )


def samples_of(view: RunView) -> list[tuple[Path, str]]:
    """All samples that somebody asked for, the newest first, each with what it shows."""
    paths = [*view.asked.values(), *drawn_after(view).values()]
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [(path, _caption(path)) for path in paths]


def _caption(path: Path) -> str:
    """The prompts and the step that a sample says itself."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(read_regular(path, _LARGEST_IMAGE)), formats=["PNG"]) as image:
            texts = getattr(image, "text", {})
        prompts = json.loads(texts["prompts"]) if "prompts" in texts else [texts.get("prompt", "")]
        step = f"step {int(texts['step'])}: " if "step" in texts else ""
        return f"{step}{'; '.join(map(str, prompts))}"[:500]
    except (OSError, ValueError, TypeError):
        return path.stem


def files_for(view: RunView, vectors: str, reader: str, place: Path) -> list[Path]:
    """Writes the word, or each of several, for another program; the files, which carry the word's name.

    Args:
      view: of the run.
      vectors: the name of a file of the run.
      reader: one of `READERS`.
      place: a folder that Gradio gives files from.

    Raises:
      DataError: the run has no such file.
      TiFlaxError: it has none that can be converted.
    """
    if view.facts is None or vectors not in view.vectors.values():
        raise DataError("download", expected="a run that has written vectors", found="none so far")
    if reader not in READERS:
        raise ConfigError("download", expected=", ".join(READERS), found=repr(reader))
    form, suffix = READERS[reader]
    sdxl = view.facts.second_width > 0
    if sdxl and form != "diffusers":
        suffix = ".safetensors"
    folder = Path(tempfile.mkdtemp(dir=place))
    made = []
    for word in [*view.facts.words] or [view.facts.token]:
        target = folder / f"{word_stem(word)}{suffix}"
        request = ConvertRequest(form=form, token=word if view.facts.words else None)
        convert_embedding(view.output / vectors, target, request)
        made += [
            target,
            *([target.with_name(f"{target.stem}_2{suffix}")] if sdxl and form == "diffusers" else []),
        ]
    return [path for path in made if os.path.isfile(path)]
