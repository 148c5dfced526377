"""What is written about each image: beside it, in its name, in one file for all, or in its source."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ti_flax.data.sources.file_names import FilesOnDisk, NamedValues
from ti_flax.data.sources.text_tables import (
    FILE_COLUMNS,
    TEXT_COLUMNS,
    TableRow,
    begins_table,
    delimited_table,
    is_json,
    json_table,
)
from ti_flax.errors import DataError
from ti_flax.files.folder_files import LINK_REMEDY, LeavingLinkError, lies_in, require_inside
from ti_flax.files.text import read_text

CAPTION_EXTENSIONS = (".txt", ".caption")

# A thousand times what the text encoder sees; a longer file beside an image is no caption.
_LONGEST_CAPTION = 2**20

# A number in front and what separates it from the words: "01-", "3. ", "00012-0-".
_LEADING_NUMBER = re.compile(r"^\d[\d\-_.\s]*")


@dataclass(frozen=True)
class CaptionedImage:
    """An image as far as its caption is concerned.

    Attributes:
      name: what messages call it; a file name, or a place in a dataset.
      path: its full path; None for one that is no local file.
      caption: what its source says about it; None if nothing.
    """

    name: str
    path: str | None = None
    caption: str | None = None


def captions_beside(
    images: Sequence[CaptionedImage], extensions: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Read the text file beside each image: `cat.txt`, or else `cat.png.txt`, for `cat.png`.

    Args:
      images: in the order of the result.
      extensions: of text files; of several files beside an image the first one counts. None: `.txt`,
        `.caption`.

    Raises:
      DataError: an image has none, or one is in another encoding.
    """
    chosen = [f".{extension.strip().lstrip('.')}" for extension in extensions or CAPTION_EXTENSIONS]
    for extension in chosen:
        if not extension[1:] or "/" in extension or "\0" in extension:
            raise DataError(f"caption_extension {extension!r}", expected="the end of a name, such as txt")

    disk = FilesOnDisk()

    def find(image: CaptionedImage) -> str | None:
        if image.path is None:
            return None
        path = Path(image.path)
        file = text_beside(path, chosen, disk)
        if file is None:
            return None
        _require_beside(file, path)
        return read_text(file, f"caption {file}", most=_LONGEST_CAPTION)

    return _for_all(
        images,
        find,
        option="captions files",
        expected=f"a {' or '.join(chosen)} file beside each image",
        remedy="Write the missing ones (scripts/caption_images.py does), or set captions to another source.",
    )


def text_beside(image: Path, extensions: Sequence[str], disk: FilesOnDisk) -> Path | None:
    """Return the text file of an image, `cat.txt` or else `cat.png.txt`, in any spelling of the name.

    Args:
      image: its path.
      extensions: with their dots; the first that is there counts.
      disk: what has been listed of it.
    """
    names = [image.with_suffix(extension).name for extension in extensions]
    names += [image.name + extension for extension in extensions]
    beside = (image.with_name(name) for name in names)
    if file := next((file for file in beside if file.is_file() and file != image), None):
        return file
    found = (disk.find(image.parent, name) for name in names)
    return next((file for file in found if file is not None and file.is_file() and file != image), None)


def _require_beside(file: Path, image: Path) -> None:
    """Refuse a link that leads elsewhere than beside its image, or beside what the image is a link to."""
    try:
        require_inside(file, file.parent)
    except LeavingLinkError as error:
        if lies_in(file, image.resolve().parent):
            return
        raise DataError(
            f"caption {file}",
            expected="a file beside its image",
            found=error.strerror or "",
            remedy=LINK_REMEDY,
        ) from None


def captions_in_names(images: Sequence[CaptionedImage], pattern: str | None = None) -> tuple[str, ...]:
    """Take each image's caption from its file name without suffix.

    Args:
      images: in the order of the result.
      pattern: regular expression searched for in the name. Of each match the group `words`, else group 1,
        else all of it counts; several matches are joined by blanks. None: the name without a number in
        front, with `_` as a blank: "01-cat_sitting" is "cat sitting".

    Raises:
      DataError: nothing is left of a name.
    """
    expression = None if pattern is None else re.compile(pattern)

    def find(image: CaptionedImage) -> str | None:
        stem = PurePosixPath(image.name.replace("\\", "/")).stem
        if expression is None:
            return _LEADING_NUMBER.sub("", stem).replace("_", " ").strip() or None
        found = (_words_of(match) for match in expression.finditer(stem))
        return " ".join(words for words in found if words) or None

    return _for_all(
        images,
        find,
        option="captions filename",
        expected="words in each file name" if pattern is None else f"{pattern!r} in each file name",
        remedy="Rename the images, change filename_pattern, or set captions to another source.",
    )


def _words_of(match: re.Match[str]) -> str:
    if "words" in match.re.groupindex:
        return (match["words"] or "").strip()
    return (match[1 if match.re.groups else 0] or "").strip()


def captions_of_source(images: Sequence[CaptionedImage]) -> tuple[str, ...]:
    """Take the captions that the images' dataset or metadata file holds.

    Raises:
      DataError: an image has none.
    """
    return _for_all(
        images,
        lambda image: image.caption,
        option="captions metadata",
        expected="a text for each image in the dataset or in metadata.jsonl",
        remedy="Complete it, set caption_column to the column with the captions, or set captions to files, "
        "filename or caption_file.",
    )


def captions_in_file(images: Sequence[CaptionedImage], path: str) -> tuple[str, ...]:
    """Read one file with the captions of all images.

    It is JSON with `file_name` and `text` (an object a line, or a list of them), a JSON object from name to
    text (or to an object that holds `caption` or `tags`), a table with these columns (comma, semicolon or
    tab), or lines `name|caption` or `name<TAB>caption`. Its content says which. A name is the file's, with as
    much of its path as tells it from others, with or without suffix, spelled as any system spells it.

    Raises:
      DataError: the file cannot be read, names an image twice, or lacks one.
    """
    listed = _entries(read_text(path, f"caption_file {path}"), f"caption_file {path}")

    def find(image: CaptionedImage) -> str | None:
        parts = PurePosixPath((image.path or image.name).replace("\\", "/")).parts
        ends = [PurePosixPath(*parts[first:]) for first in range(len(parts))]
        names = (*ends, PurePosixPath(image.name))
        return listed.find(
            spelled for name in names if name.name for spelled in (str(name), str(name.with_suffix("")))
        )

    return _for_all(
        images,
        find,
        option=f"caption_file {path}",
        expected="a caption for each image",
        remedy="Add the missing lines, with the images' names as they are in the folder.",
    )


def _for_all(
    images: Sequence[CaptionedImage],
    find: Callable[[CaptionedImage], str | None],
    *,
    option: str,
    expected: str,
    remedy: str,
) -> tuple[str, ...]:
    found = [find(image) for image in images]
    missing = [image.name for image, caption in zip(images, found, strict=True) if caption is None]
    if missing:
        count = f"none for {len(missing)} of {len(images)}, first {missing[0]}"
        raise DataError(option, expected=expected, found=count, remedy=remedy)
    return tuple(caption or "" for caption in found)


def _entries(text: str, where: str) -> NamedValues[str]:
    """Return the captions of a caption file of any kind, by name."""
    if is_json(text):
        rows = [_record(row) for row in json_table(text, where, by_name=True).rows]
    else:
        rows = _table_rows(text, where) or _line_rows(text, where)
    if not rows:
        raise DataError(where, expected="captions", found="an empty file")
    listed: NamedValues[str] = NamedValues()
    for place, name, caption in rows:
        listed.add(name, caption, place)
    return listed


_Row = tuple[str, str, str]  # place for messages, name, caption


def _record(row: TableRow) -> _Row:
    name = row.cell(FILE_COLUMNS)
    if not isinstance(name, str):
        found = f"the keys {', '.join(row.cells)}"
        raise DataError(row.where, expected="an object with file_name and text", found=found)
    return row.where, name, _caption_in(row, TEXT_COLUMNS)


def _caption_in(row: TableRow, columns: Sequence[str]) -> str:
    value = row.cell(columns)
    if isinstance(value, list):  # several, of which the first counts
        value = value[0]
    if value is None and row.has_text(columns):
        return ""
    if not isinstance(value, str):
        raise DataError(
            row.where,
            expected=f"a text under {', '.join(columns[:-1])} or {columns[-1]}" if columns[1:] else "a text",
            found=repr(value),
        )
    return value


def _table_rows(text: str, where: str) -> list[_Row]:
    """Return the rows of a table whose first line names the columns; nothing for other text."""
    if not begins_table(text):
        return []
    table, columns = delimited_table(text, where), TEXT_COLUMNS
    if not table.has(columns):
        others = [name for name in table.columns if TableRow("", {name: name}).cell(FILE_COLUMNS) is None]
        if len(others) != 1:
            raise DataError(
                where,
                expected=f"the column {TEXT_COLUMNS[0]}",
                found=f"columns {', '.join(table.columns)}",
                remedy="Call the column with the captions so.",
            )
        columns = others  # the only one that can hold captions
    named = [(row, row.cell(FILE_COLUMNS)) for row in table.rows]
    return [(row.where, name, _caption_in(row, columns)) for row, name in named if isinstance(name, str)]


def _line_rows(text: str, where: str) -> list[_Row]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, mark, caption = line.partition("\t" if "\t" in line else "|")
        if not mark:
            raise DataError(
                f"{where}:{number}",
                expected="`name|caption`, or a first line that names columns file_name and text",
                found=repr(line if len(line) <= 60 else f"{line[:57]}..."),
            )
        rows.append((f"{where}:{number}", name, caption.strip()))
    return rows
