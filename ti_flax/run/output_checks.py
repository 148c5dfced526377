"""Whether a run may write into its output folder: it replaces nobody's files and none of its inputs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ti_flax.config import RunConfig
from ti_flax.embedding.file_names import files_of_words
from ti_flax.errors import OutputError
from ti_flax.files.atomic_folders import is_sealed
from ti_flax.files.written_files import CARD, LIST, PARTS, can_be_written, is_list, written
from ti_flax.run.named_paths import named_paths
from ti_flax.training.checkpoint import NEWEST, checkpoint_steps, find_checkpoint

# What may be in a folder that counts as empty, beside hidden files and logs.
_HARMLESS = frozenset(("lost+found", "Thumbs.db", "desktop.ini"))
_IMAGE_SOURCES = ("train_data_dir", "class_data_dir", "mask_dir")
_IMAGE_FOLDERS = ("validation", "concept_images", "example_images")
_ANOTHER = "Choose another output_dir."
_MOST_NAMED = 3


def refuse_output(config: RunConfig, output_dir: Path) -> None:
    """Raises what keeps a run from writing into a folder; reads alone.

    Raises:
      OutputError: it is no folder, holds a run or files that would be replaced, or is one of the inputs.
      CheckpointError: there is no checkpoint of the name to resume from.
    """
    _require_folder(output_dir)
    words = config.concept.words
    named = files_of_words(words, sdxl=True) if len(words) > 1 else ()
    for option, given in named_paths(config, "input"):
        _refuse_input(option, given, output_dir, named)
    output, resumed = config.output, config.output.resume_from_checkpoint
    many = config.concept_list.concepts is not None  # whose folders have the checkpoints
    if resumed not in (None, *NEWEST) and not many:
        find_checkpoint(output_dir, resumed)  # a wrong name is said at once
    if not output.overwrite_output_dir:
        _refuse_earlier_run(output_dir, resumed)
        _refuse_others_folder(output_dir)
    _refuse_replacing(
        output_dir,
        pipeline=config.concept_list.save_joint_pipeline if many else not output.only_save_embeds,
        many=many,
        resumed=resumed is not None,
    )


def _require_folder(output_dir: Path) -> None:
    for place in (output_dir, *output_dir.parents):
        if not os.path.lexists(place):
            continue
        if place.is_dir():
            return
        raise OutputError(
            f"output_dir {output_dir}",
            expected="a folder, or a name for a new one",
            found=_kind(place) + ("" if place == output_dir else f" at {place}"),
            remedy=_ANOTHER,
        )


def _kind(place: Path) -> str:
    if place.is_symlink() and not place.exists():
        return f"a link to {os.readlink(place)}, which does not exist"
    return "a file" if place.is_file() else "something that is no folder"


def _refuse_input(option: str, given: Path, output_dir: Path, named: Collection[str]) -> None:
    """Keeps results out of the folders that are read for images, and inputs out of what is written."""
    source, output = given.resolve(), output_dir.resolve()
    where = f"output_dir {output_dir}"
    if option in _IMAGE_SOURCES and source.is_dir() and output.is_relative_to(source):
        place = "the same folder" if source == output else "a folder inside it"
        expected = f"a folder outside of {option} {given}"
        raise OutputError(
            where, expected=expected, found=place, remedy=f"Results would become training images. {_ANOTHER}"
        )
    inside = source.relative_to(output).as_posix() if source.is_relative_to(output) else None
    if inside is not None and (inside == "." or inside in named or _is_replaced(inside)):
        raise OutputError(
            where,
            expected="a folder whose files this run does not read",
            found=f"{option} {given}, which it would write over",
            remedy=_ANOTHER,
        )


def _is_replaced(name: str) -> bool:
    first = name.partition("/")[0]
    return can_be_written(name) or first in (*PARTS, *_IMAGE_FOLDERS)


def _refuse_earlier_run(output_dir: Path, resumed: str | None) -> None:
    steps = checkpoint_steps(output_dir)
    finished = (output_dir / "learned_embeds.safetensors").exists()
    # Without a checkpoint, going on is to begin anew: only a result could be lost.
    vectors = [] if resumed is not None else [name for name in written(output_dir) if "-steps-" in name]
    goes_on = resumed is not None and bool(steps or resumed not in NEWEST)
    if goes_on or not (is_list(output_dir) and (finished or steps or vectors)):
        return
    last = (
        f"checkpoint-{steps[-1]}" if steps else max(vectors, key=lambda name: (len(name), name), default="")
    )
    raise OutputError(
        f"output_dir {output_dir}",
        expected="a folder without a run in it",
        found="a finished run" if finished else f"an unfinished run, {last}",
        remedy=("Give resume_from_checkpoint auto to go on, " if steps else "Give ")
        + "overwrite_output_dir to start again, or another output_dir.",
    )


def _refuse_others_folder(output_dir: Path) -> None:
    """Refuses a folder that holds other things than a run, as nobody wants a run's files between them."""
    if is_list(output_dir) or any(map(is_sealed, _checkpoints(output_dir))):
        return
    place = output_dir.resolve()
    if Path.cwd().is_relative_to(place):
        found = "the current folder" if place == Path.cwd() else "a folder that the current one is in"
    elif place == Path(os.path.expanduser("~")).resolve():
        found = "your home folder"
    else:
        names = sorted(path.name for path in output_dir.iterdir()) if output_dir.is_dir() else []
        others = [name for name in names if not _is_harmless(output_dir / name)]
        if not others:
            return
        found = f"{_named(others)} in it, and no run"
    raise OutputError(
        f"output_dir {output_dir}",
        expected="a new or empty folder, or one with a run in it",
        found=found,
        remedy="Choose another, or give overwrite_output_dir to write beside what is there, which stays.",
    )


def _is_harmless(path: Path) -> bool:
    name = path.name
    return name.startswith(".") or name in _HARMLESS or name.endswith(".log") or _is_empty(path)


def _is_empty(path: Path) -> bool:
    """Whether it is the list that a run was about to begin."""
    return path.name == LIST and path.is_file() and not path.stat().st_size


def refuse_files_of_words(output_dir: Path, words: Iterable[str], *, sdxl: bool) -> None:
    """Refuses to write over a file that has the name of one of a word's and that no run wrote.

    Args:
      output_dir: of the run.
      words: that it learns.
      sdxl: whether they are for SDXL.

    Raises:
      OutputError: there is one.
    """
    ours = written(output_dir)
    for name in files_of_words([*words], sdxl=sdxl):
        if os.path.lexists(output_dir / name) and name not in ours:
            raise OutputError(
                output_dir / name,
                expected="no file that this run would write over",
                found="one that no run wrote or somebody has edited since",
                remedy="Move it, or choose another output_dir.",
            )


def _refuse_replacing(output_dir: Path, *, pipeline: bool, many: bool, resumed: bool) -> None:
    """Refuses to write over files that no run wrote; going on without a list, all are an older run's."""
    if not output_dir.is_dir() or (resumed and not is_list(output_dir)):
        return
    ours = written(output_dir) | ({CARD} if resumed else set())  # an edited card is left alone
    found = [name for name in _present(output_dir) if can_be_written(name, pipeline=pipeline, many=many)]
    others = sorted(set(found) - ours)
    if not resumed:
        others += [folder.name for folder in _checkpoints(output_dir) if not is_sealed(folder)]
    others += [
        name for name in (*_IMAGE_FOLDERS, *(PARTS if pipeline else ())) if (output_dir / name).is_symlink()
    ]
    path = output_dir / LIST
    if os.path.lexists(path) and not is_list(output_dir) and not _is_empty(path):
        others.append(LIST)
    if others:
        raise OutputError(
            f"output_dir {output_dir}",
            expected="no files that this run would write over",
            found=f"{_named(others)}, which no run wrote or somebody has edited since",
            remedy="Move them away, or choose another output_dir.",
        )


def _checkpoints(output_dir: Path) -> list[Path]:
    return [output_dir / f"checkpoint-{step}" for step in checkpoint_steps(output_dir)]


def _present(output_dir: Path) -> Iterator[str]:
    """Names of the files where a run writes, relative to its folder."""
    for folder in (output_dir, *(output_dir / name for name in (*_IMAGE_FOLDERS, *PARTS))):
        deep = folder.name in PARTS and folder != output_dir
        for path in (folder.rglob("*") if deep else folder.glob("*")) if folder.is_dir() else ():
            if path.is_symlink() or not path.is_dir():
                yield path.relative_to(output_dir).as_posix()


def _named(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
