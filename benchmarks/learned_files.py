"""Embeddings that any trainer made of concepts: found by their names, and put under each concept's word."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from concepts import BY_NAME, Concept

from ti_flax.embedding.bases import rows_to_draw_with
from ti_flax.embedding.file_names import LEARNED_EMBEDS, PAIRED
from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.embedding.read import load_embedding
from ti_flax.errors import ConfigError

# Of the files that `ti_flax.embedding.read` takes.
SUFFIXES = (".safetensors", ".pt", ".bin", ".png", ".webp", ".npy")
_RULE = "Call each file after its concept, as in ruby.safetensors, or each folder with a learned_embeds file."


def find_embeds(paths: Sequence[Path], asked: Sequence[str] | None) -> dict[str, Path]:
    """Finds the file of each concept.

    Args:
      paths: files and folders called after concepts, and folders of such; or whatever holds the one that is
        asked for.
      asked: names of concepts, each of which has to be there; None: all that are.

    Returns:
      What `load_embedding` reads, by the concept's name, in the order of the concepts.

    Raises:
      ConfigError: a path is not there, or no concept's; a concept that is asked for has no file, or two.
    """
    found: dict[str, Path] = {}
    for path in paths:
        here = _of_path(path)
        if not here and asked and (len(asked), len(paths)) == (1, 1):
            here = {asked[0]: path}
        if not here:
            expected = "a name of a concept" if path.is_file() else "files called after concepts"
            raise ConfigError(f"--embeds {path}", expected=expected, found="none", remedy=_RULE)
        if path.is_file() and asked and not set(here) & set(asked):
            expected = f"a file of {' or '.join(asked)}"
            raise ConfigError(f"--embeds {path}", expected=expected, found=f"that of {next(iter(here))}")
        for name, file in here.items():
            found[name] = _only([found[name], file] if name in found else [file], name)
    missing = [name for name in asked or () if name not in found]
    if missing:
        where = f"--embeds {', '.join(map(str, paths))}"
        raise ConfigError(where, expected="a file of each concept", found=f"none of {', '.join(missing)}")
    return {name: found[name] for name in BY_NAME if name in (asked or found)}


def _of_path(path: Path) -> dict[str, Path]:
    """The files of concepts that a path stands for; empty if it is called after none and holds none."""
    if not path.exists():
        remedy = "Relative paths start at the current folder."
        raise ConfigError(f"--embeds {path}", expected="a file or folder", found="nothing", remedy=remedy)
    if path.is_file():
        return {path.stem: path} if path.stem in BY_NAME else {}
    inside = {name: list(_candidates(path, name)) for name in BY_NAME}
    held = {name: _only(files, name) for name, files in inside.items() if files}
    return held or ({path.name: path} if path.name in BY_NAME and _holds_embeds(path) else {})


def _candidates(folder: Path, name: str) -> Iterable[Path]:
    yield from (file for suffix in SUFFIXES if (file := folder / f"{name}{suffix}").is_file())
    if _holds_embeds(folder / name):
        yield folder / name


def _holds_embeds(folder: Path) -> bool:
    """Whether a training run's folder has its result in it, as diffusers and this project write it."""
    return any((folder / f"{LEARNED_EMBEDS}{suffix}").is_file() for suffix in PAIRED)


def _only(files: Sequence[Path], name: str) -> Path:
    if len(files) > 1:
        found = " and ".join(map(str, files))
        remedy = "Move all but one elsewhere."
        raise ConfigError(f"--embeds of {name}", expected="one file", found=found, remedy=remedy)
    return files[0]


def placed(concept: Concept, path: Path, folder: Path, widths: Mapping[str, int]) -> Path:
    """Writes an embedding as a file that has it under the concept's own word, whatever its trainer called it.

    Args:
      concept: whose it is.
      path: of what `load_embedding` reads.
      folder: where the file goes.
      widths: of the model's text encoders, by name.

    Raises:
      WeightsError: it is no embedding, one for another model, or of several words.
    """
    rows = rows_to_draw_with(load_embedding(path, concept.placeholder), path, widths)
    file = folder / f"{concept.name}.safetensors"
    save_learned_embeds(file, concept.placeholder, rows)
    return file
