"""What a value of train_data_dir names: a folder, an image, a list, a link or a dataset."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ti_flax.console.messages import say
from ti_flax.data.images.masks import split_masks
from ti_flax.data.sources.file_names import FilesOnDisk, NamedValues, is_of_windows
from ti_flax.data.sources.formats import is_image
from ti_flax.data.sources.links import Fetch, fetch_image, is_link, kept_file, link_name
from ti_flax.data.sources.metadata import SUFFIXES, is_metadata, looks_like_table, read_rows
from ti_flax.data.sources.source_image import SourceImage
from ti_flax.data.sources.table_options import TableOptions
from ti_flax.data.sources.tables import BUILDERS, hub_images, is_hub_id, is_saved_dataset, local_images
from ti_flax.errors import DataError
from ti_flax.files.folder_files import LINK_REMEDY, LeavingLinkError, lies_in, require_inside
from ti_flax.files.system_files import is_system_file, is_system_folder
from ti_flax.files.text import read_text

_REMEDY = "Set train_data_dir to the folder that holds your images."
_COLUMNS = frozenset(("image_column", "caption_column"))
_ALL_OPTIONS = frozenset(TableOptions.__dataclass_fields__)


@dataclass(frozen=True)
class Found:
    """What one value of train_data_dir names.

    Attributes:
      images: in order.
      passed_over: names of files in a folder that are no images.
      notes: lines that the user should see.
      used: names of the `TableOptions` that could make a difference.
      leaving: names of images that symbolic links take from outside of the folder.
    """

    images: tuple[SourceImage, ...]
    passed_over: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    used: frozenset[str] = frozenset()
    leaving: tuple[str, ...] = ()


def find_images(source: str, table: TableOptions, fetch: Fetch = fetch_image) -> Found:
    """Find out what a value of train_data_dir is, and which images it names.

    A folder's sub-folders belong to it: its own files come first, sorted by name, then theirs. What is hidden
    is skipped, what systems keep for themselves is skipped and counted in a note, and no folder is read
    twice, whatever symbolic links lead to it.

    Args:
      source: a folder, a file, an http(s) link, or, where there is no such folder, a Hub id `owner/name`.
      table: columns, configuration and split, where it is a dataset or has a metadata file.
      fetch: `fetch_image`, or that with other rules.

    Raises:
      DataError: nothing of that name, or no images in it.
    """
    if is_link(source):
        content = fetch(source, where=f"train_data_dir {source}")
        return Found((SourceImage(link_name(source), source, content),))
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):
        return _in_folder(path, table, fetch)
    if os.path.exists(path):
        return _in_file(path, table, fetch)
    if is_hub_id(source):
        return Found(tuple(hub_images(source, table, fetch)), used=_ALL_OPTIONS)
    raise DataError(f"train_data_dir {path}", found="no such folder or file", remedy=_REMEDY)


def _in_folder(folder: Path, table: TableOptions, fetch: Fetch) -> Found:
    if is_saved_dataset(folder):
        return Found(tuple(local_images(folder, table, fetch)), used=_ALL_OPTIONS)
    files, skipped = _files_below(folder)
    paths, _ = split_masks(path for path in files if is_image(path))
    if not paths:
        if any(path.suffix.lower() in BUILDERS for path in files):
            return Found(tuple(local_images(folder, table, fetch)), used=_ALL_OPTIONS)
        raise _no_images(folder, files, skipped)
    tables = [path for path in files if is_metadata(path) and path.is_file()]
    captions, notes = _captions(tables, paths, table)
    names = {path: path.relative_to(folder).as_posix() for path in files}
    kept = {*paths, *tables}
    leaving = [names[path] for path in paths if not lies_in(path, folder)]
    return Found(
        tuple(
            SourceImage(names[path], str(path), str(path), str(path), captions.get(path)) for path in paths
        ),
        passed_over=tuple(names[path] for path in files if path not in kept),
        notes=(*skipped.notes(), *notes, *_leaving_note(leaving)),
        leaving=tuple(leaving),
        used=_COLUMNS if tables else frozenset(),
    )


def _leaving_note(names: list[str]) -> list[str]:
    if not names:
        return []
    return [f"images that are links out of the folder: {len(names)}, such as {names[0]}"]


@dataclass
class _Skipped:
    """Folders and files, relative to the folder that is read, that systems keep for themselves."""

    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def counted(self) -> str:
        """How many there are and the first, empty if there are none."""
        counts = [
            f"{len(names)} {kind if len(names) == 1 else f'{kind}s'}"
            for kind, names in (("folder", self.folders), ("file", self.files))
            if names
        ]
        first = next(iter(self.folders + self.files), "")
        return f"{' and '.join(counts)}, such as {first}" if counts else ""

    def notes(self) -> list[str]:
        """A line, if there are any."""
        counted = self.counted()
        return [f"passed over, as systems keep them for themselves: {counted}"] if counted else []


def _files_below(root: Path) -> tuple[list[Path], _Skipped]:
    """Return the files of a folder and of the visible folders below it, each folder once."""
    files: list[Path] = []
    skipped = _Skipped()
    seen: set[tuple[int, int]] = set()
    left = [root]
    while left:
        folder = left.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = _entries(folder)
        except OSError as error:
            inside = "" if folder == root else f" (folder {folder})"
            found = f"{error.strerror or error}{inside}"
            raise DataError(f"train_data_dir {root}", found=found, remedy=_REMEDY) from error
        visible = []
        for is_folder, entry in entries:
            path = folder / entry.name
            if (is_system_folder if is_folder else is_system_file)(entry.name):
                (skipped.folders if is_folder else skipped.files).append(path.relative_to(root).as_posix())
            elif not is_folder:
                files.append(path)
            elif not entry.name.startswith("."):
                visible.append(entry)
        # A folder before the links to it, so that its images have its name.
        ordered = sorted(visible, key=lambda entry: entry.is_symlink())
        left += [folder / entry.name for entry in reversed(ordered)]
    return files, skipped


def _entries(folder: Path) -> list[tuple[bool, os.DirEntry[str]]]:
    """What a folder holds, by name, each with whether it is a folder."""
    with os.scandir(folder) as found:
        return [(_is_folder(entry), entry) for entry in sorted(found, key=lambda entry: entry.name)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _no_images(folder: Path, files: list[Path], skipped: _Skipped) -> DataError:
    found, remedy = "none", "Put three to five images of the concept into it."
    if files:
        found = f"only other files ({len(files)}, such as {files[0].name})"
    elif counted := skipped.counted():
        found = f"only what systems keep for themselves ({counted})"
    return DataError(f"train_data_dir {folder}", expected="images", found=found, remedy=remedy)


def _captions(
    tables: Iterable[Path], images: Iterable[Path], table: TableOptions
) -> tuple[dict[Path, str], list[str]]:
    """Return captions by path, and lines on tables that name files which are not there, or no captions."""
    captions, notes = {}, []
    for path in tables:
        _require_text_inside(path)
        rows, missing = read_rows(path, table)
        below = str(path.parent / "_")[:-1]
        listed: NamedValues[str] = NamedValues()
        for row in rows:
            listed.add(_in_table(row.file_name, path.parent), row.caption or "", row.where)
        for image in images:
            if str(image).startswith(below):
                name = str(image)[len(below) :]
                if found := listed.find((name, os.path.splitext(name)[0])):
                    captions[image] = found
        notes += missing
        if stray := listed.unused():
            notes.append(f"{path}: {len(stray)} rows name no image of the folder, such as {stray[0]}")
    return captions, notes


def _in_table(name: str, folder: Path) -> str:
    """A name that a table gives, relative to the table's folder where it is a whole path into it."""
    if not os.path.isabs(name):
        return name
    path, root = Path(os.path.normpath(name)), Path(os.path.abspath(folder))
    return str(path.relative_to(root)) if path.is_relative_to(root) else name


def _require_text_inside(path: Path) -> None:
    try:
        require_inside(path, path.parent)
    except LeavingLinkError as error:
        raise DataError(path, expected="a table", found=error.strerror or "", remedy=LINK_REMEDY) from None


def _in_file(path: Path, table: TableOptions, fetch: Fetch) -> Found:
    suffix = path.suffix.lower()
    if suffix in BUILDERS:
        return Found(tuple(local_images(path, table, fetch)), used=_ALL_OPTIONS)
    if suffix in SUFFIXES:
        return _in_table_file(path, table, fetch)
    if is_image(path):
        return Found((SourceImage(path.name, str(path), str(path), str(path)),))
    text = _text(path)
    if looks_like_table(text, table):
        return _in_table_file(path, table, fetch)
    lines = [(line.strip(), f"{path}:{number}") for number, line in enumerate(text.split("\n"), start=1)]
    named = [(line, where) for line, where in lines if line and not line.startswith("#")]
    if not named:
        raise DataError(f"train_data_dir {path}", expected="a path or a link a line", found="none")
    return Found(tuple(_named(named, path.parent, fetch)))


def _in_table_file(path: Path, table: TableOptions, fetch: Fetch) -> Found:
    """The images that a table names, in its order, with their captions."""
    rows, notes = read_rows(path, table)
    images = _named([(row.file_name, row.where) for row in rows], path.parent, fetch, own=True)
    captioned = [
        SourceImage(each.name, each.where, each.content, each.path, row.caption)
        for each, row in zip(images, rows, strict=True)
    ]
    return Found(tuple(captioned), notes=tuple(notes), used=_COLUMNS)


def _require_own(path: Path, folder: Path, where: str) -> None:
    """Refuse files outside of the table's folder: a table often comes with somebody else's images."""
    if not lies_in(path, folder):
        raise DataError(
            where,
            expected="an image in the table's folder",
            found="a path out of it",
            remedy="Move the image there, or name it in a text file with a path a line.",
        )


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except DataError:
        raise DataError(
            f"train_data_dir {path}",
            expected="a folder, an image, a list of images in UTF-8 text, or a dataset",
            found="a file of another kind",
            remedy=_REMEDY,
        ) from None


def _named(
    named: list[tuple[str, str]], folder: Path, fetch: Fetch, *, own: bool = False
) -> list[SourceImage]:
    """Return images by path, relative to a folder, or link, each with the place that names it.

    Args:
      named: paths or links, and their places.
      folder: of the list.
      fetch: what takes links.
      own: whether the images have to lie in the folder.
    """
    links = {text for text, _ in named if is_link(text)}
    missing = sum(not kept_file(link).is_file() for link in links)
    if missing > 1:
        say(f"downloading {missing} images")
    disk = FilesOnDisk()
    paths = [None if is_link(text) else disk.find(folder, text) for text, _ in named]
    if own:
        for (text, where), path in zip(named, paths):
            if not is_link(text):
                written = folder / os.path.expanduser(text.replace("\\", "/"))
                _require_own(written if path is None else path, folder, f"{where}: {text}")
    return [_one(text, path, where, fetch) for (text, where), path in zip(named, paths)]


def _one(text: str, path: Path | None, where: str, fetch: Fetch) -> SourceImage:
    if is_link(text):
        return SourceImage(link_name(text), text, fetch(text, where=f"{where}: {text}"))
    if path is None or not os.path.isfile(path):
        there = path is not None and os.path.exists(path)
        other = "a pipe, socket or device" if there else "no such file"
        found = "a folder" if path is not None and os.path.isdir(path) else other
        remedy = "Paths are relative to the folder of the list."
        if is_of_windows(text):
            remedy = f"It is a path of another machine. {remedy}"
        raise DataError(f"{where}: {text}", expected="an image", found=found, remedy=remedy)
    return SourceImage(path.name, str(path), str(path), str(path))
