"""Which files of a run's folder are uploaded: those named here that a run wrote; others stay where they are.

A link that leaves the folder is refused with a `LeavingLinkError`, so that no other file is uploaded by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ti_flax.embedding.file_names import files_of_words
from ti_flax.files.atomic_folders import sealed_files
from ti_flax.files.folder_files import require_inside
from ti_flax.files.regular import read_regular
from ti_flax.files.written_files import CARD, recorded

CONCEPT_IMAGES, EXAMPLE_IMAGES = "concept_images", "example_images"

_RESULT = (
    "README.md",
    "learned_embeds.bin",
    "learned_embeds.safetensors",
    "learned_embeds-best.safetensors",
    "learned_embeds_2.bin",
    "learned_embeds_2.safetensors",
    "learned_embeds_2-best.safetensors",
    "token_identifier.txt",
    "type_of_concept.txt",
    "metrics.csv",
    "signals.csv",
    f"{EXAMPLE_IMAGES}/*.jpeg",
    "validation/*.png",
)
# The training images themselves, and what shows them too.
_WITH_CONCEPT_IMAGES = (f"{CONCEPT_IMAGES}/*.jpeg", "contact_sheet*.png", "report.html")
_PIPELINE = (
    *("model_index.json", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
    *("unet", "vae"),
)
_CARRIED = ("safety_checker", "feature_extractor")
_LONGEST_TOKEN = 2**16
_CHECKPOINT = re.compile(r"checkpoint-\d+")

# Images of an earlier upload, which go where a new one has none of the name; regular expressions.
REPLACED = (rf"({CONCEPT_IMAGES}|{EXAMPLE_IMAGES})/\d+\.jpeg", r"validation/step-\d+\.png")


def result_files(folder: Path) -> list[str]:
    """The embedding, its card, curves and images; training images only if `concept_images/` has some."""
    shows = any((folder / CONCEPT_IMAGES).glob("*.jpeg"))
    return _found(folder, [*_RESULT, *_word_files(folder), *(_WITH_CONCEPT_IMAGES if shows else ())])


def pipeline_files(folder: Path) -> list[str]:
    """The whole pipeline, gigabytes."""
    return _found(folder, [f"{name}/**/*" if "." not in name else name for name in (*_PIPELINE, *_CARRIED)])


def checkpoint_files(folder: Path) -> list[str]:
    """All checkpoints to resume from."""
    names = sorted(entry.name for entry in folder.iterdir() if _CHECKPOINT.fullmatch(entry.name))
    found = []
    for name in names:
        sealed = sealed_files(folder / name)
        inside = _found(folder, [name, f"{name}/**/*"], listed=False)
        found += [each for each in inside if sealed is None or each.removeprefix(f"{name}/") in sealed]
    return found


def _word_files(folder: Path) -> list[str]:
    """The names of the files that the words of a run's folder name: of each of several, and for SDXL."""
    try:
        token = read_regular(folder / "token_identifier.txt", _LONGEST_TOKEN).decode(errors="replace")
    except OSError:
        return []
    sdxl = (folder / "learned_embeds_2.safetensors").is_file()
    words = [line for line in token.splitlines() if line.strip()]
    return [*files_of_words(words, sdxl=sdxl)]


def megabytes(folder: Path, files: Iterable[str]) -> float:
    """How much the files are, in 10^6 bytes."""
    return sum((folder / name).stat().st_size for name in files) / 1e6


def _found(folder: Path, patterns: Iterable[str], *, listed: bool = True) -> list[str]:
    """Names of the files that patterns find; where runs keep a list, of those in it and the card."""
    ours = recorded(folder) if listed else None
    paths = {
        path.relative_to(folder).as_posix(): path for pattern in patterns for path in folder.glob(pattern)
    }
    for path in paths.values():
        require_inside(path, folder, kind="run's folder")
    return sorted(
        name for name, path in paths.items() if path.is_file() and (ours is None or name in {*ours, CARD})
    )
