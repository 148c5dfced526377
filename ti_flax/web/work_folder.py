"""The folder that the page works in, and which places it may name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ti_flax.embedding.file_names import word_stem
from ti_flax.errors import ConfigError

# What people choose instead of a path.
DEMO_MODEL, DEMO_IMAGES = "the demo's model", "the demo's images"
# A repository on the Hub; nothing of the kind begins with a sign that a path may begin with.
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_LINK = re.compile(r"https?://\S+")
# Suffixes of a model that is one file.
_MODEL_FILES = (".safetensors", ".ckpt")
_MOST_SHOWN = 500


@dataclass(frozen=True)
class WorkFolder:
    """The page's folder: `images/SET`, `runs/NAME`, `models`, and what it needs itself.

    Attributes:
      root: an absolute path without links in it.
      allowed: other folders that may be read, likewise.
      demo_model: the base model that comes with the program.
      demo_images: the images that do.
    """

    root: Path
    allowed: tuple[Path, ...]
    demo_model: Path
    demo_images: Path

    @classmethod
    def made(cls, root: Path, allowed: tuple[Path, ...], demo_model: Path, demo_images: Path) -> WorkFolder:
        """Makes the folders, for the eyes of their owner alone where they are new.

        Raises:
          OSError: they cannot be made.
        """
        root = root.expanduser()
        for name in ("images", "runs", "models", "looks", "temporary"):
            (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        others = tuple(Path(os.path.realpath(each.expanduser())) for each in allowed)
        return cls(Path(os.path.realpath(root)), others, demo_model.resolve(), demo_images.resolve())

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def temporary(self) -> Path:
        """Where Gradio keeps what browsers send and are given."""
        return self.root / "temporary"

    def inside(self, text: str, where: str) -> Path:
        """The place that somebody names, with all links followed.

        Args:
          text: an absolute path, or one that begins in the work folder.
          where: the option or field that it is said in, for the message.

        Raises:
          ConfigError: it lies neither in the work folder nor in one that the operator allowed.
        """
        try:
            path = Path(os.path.realpath(self.root / text))
        except (OSError, ValueError):
            path = Path("/")
        roots = (self.root, *self.allowed, self.demo_model, self.demo_images)
        if not any(path.is_relative_to(root) for root in roots):
            raise ConfigError(
                where,
                expected="a place in the work folder, or in a folder that the page was given with --allow",
                found=repr(text),
            )
        return path

    def model(self, text: str) -> str:
        """The value of pretrained_model_name_or_path that somebody chose or wrote.

        Raises:
          ConfigError: it is no Hub id, and names no place that may be read.
        """
        where = "pretrained_model_name_or_path"
        if not (text := text.strip()):
            raise ConfigError(where, expected="a base model", found="none", remedy="Choose one.")
        if text == DEMO_MODEL:
            return str(self.demo_model)
        return self.readable(text, where)

    def readable(self, text: str, where: str) -> str:
        """What an option is set to that takes a path, a Hub id or a link.

        Raises:
          ConfigError: it names a place that may not be read.
        """
        is_here = os.path.lexists(self.root / text) if "\0" not in text else True
        if not is_here and (_HUB_ID.fullmatch(text) or _LINK.fullmatch(text)):
            return text
        return str(self.inside(text, where))

    def image_folder(self, text: str | None) -> Path:
        """The folder of training images that somebody chose or wrote.

        Raises:
          ConfigError: it is none, or may not be read.
        """
        where = "train_data_dir"
        if not (text or "").strip():
            raise ConfigError(where, expected="images", found="none", remedy="Drop some, or choose a folder.")
        folder = self.demo_images if text == DEMO_IMAGES else self.inside(str(text).strip(), where)
        if not folder.is_dir():
            raise ConfigError(where, expected="a folder of images", found=f"{text!r}, which is none")
        return folder

    def shown(self, path: Path) -> str:
        """A place as people read it: from the work folder on, where it lies there."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def models_here(self) -> list[str]:
        """Models to choose from: folders and files directly below `models` and the allowed folders."""
        found = []
        for folder in (self.root / "models", *self.allowed):
            for path in _entries(folder):
                if (path / "model_index.json").is_file() or path.suffix in _MODEL_FILES:
                    found.append(self.shown(path))
        return found[:_MOST_SHOWN]

    def image_sets(self) -> list[str]:
        """Folders of images to choose from, the newest first."""
        folders = [path for path in _entries(self.images) if path.is_dir()]
        return [self.shown(path) for path in sorted(folders, key=_age)][:_MOST_SHOWN]

    def run_names(self) -> list[str]:
        """Runs of the work folder, the newest first."""
        folders = [path for path in _entries(self.runs) if path.is_dir()]
        return [path.name for path in sorted(folders, key=_age)][:_MOST_SHOWN]

    def run(self, name: object) -> Path | None:
        """The folder of a run; None if there is none of the name."""
        return self.runs / str(name) if name in self.run_names() else None

    def new_run(self, word: str) -> Path:
        """Makes the folder of a new run, named by its word."""
        return _new_folder(self.runs, word_stem(word, "word"))

    def new_images(self) -> Path:
        """Makes a folder for new images."""
        return _new_folder(self.images, "set")


def _entries(folder: Path) -> Iterator[Path]:
    """What is in a folder itself, without links and what is hidden."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return
    yield from (path for path in paths if not path.is_symlink() and not path.name.startswith("."))


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def _new_folder(parent: Path, stem: str) -> Path:
    """Makes a folder of a name that is free, with a number behind it where it is not."""
    number = 1
    while True:
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(mode=0o700)
            return folder
        except FileExistsError:
            number += 1
