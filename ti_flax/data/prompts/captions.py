"""What is written about each image: beside it, in its name, in one file for all, or in its source."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ti_flax.errors import DataError
from ti_flax.files.folder_files import LINK_REMEDY, LeavingLinkError, lies_in, require_inside
from ti_flax.files.text import parse_json, read_text

CAPTION_EXTENSIONS = (".txt", ".caption")

# A thousand times what the text encoder sees; a longer file beside an image is no caption.
_LONGEST_CAPTION = 2**20

# Names of the columns and keys of a caption file; the first that is there counts.
_NAME_KEYS = ("file_name", "filename", "file", "path", "image", "image_path")
_TEXT_KEYS = ("text", "caption", "captions", "prompt", "tags")

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

    def find(image: CaptionedImage) -> str | None:
        if image.path is None:
            return None
        path = Path(image.path)
        beside = [path.with_suffix(extension) for extension in chosen]
        beside += [path.with_name(path.name + extension) for extension in chosen]
        file = next((file for file in beside if file.is_file() and file != path), None)
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
        remedy="Complete it, or set captions to files, filename or caption_file.",
    )


def captions_in_file(images: Sequence[CaptionedImage], path: str) -> tuple[str, ...]:
    """Read one file with the captions of all images.

    It is JSON Lines with `file_name` and `text`, a JSON object from name to text (or to an object that holds
    `caption` or `tags`), a table with these columns (comma, semicolon or tab), or lines `name|caption` or
    `name<TAB>caption`. Its content says which. A name is the file's, with as much of its path as tells it
    from others, with or without suffix.

    Raises:
      DataError: the file cannot be read, names an image twice, or lacks one.
    """
    listed = _entries(read_text(path, f"caption_file {path}"), f"caption_file {path}")

    def find(image: CaptionedImage) -> str | None:
        parts = PurePosixPath((image.path or image.name).replace("\\", "/")).parts
        ends = [PurePosixPath(*parts[first:]) for first in range(len(parts))]
        for name in (*ends, PurePosixPath(image.name)):
            for spelled in (str(name), str(name.with_suffix("")) if name.name else ""):
                if spelled in listed:
                    return listed[spelled]
        return None

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


def _entries(text: str, where: str) -> dict[str, str]:
    """Return name to caption of a caption file of any kind."""
    if text.lstrip().startswith("{"):
        rows = _json_rows(text, where)
    else:
        rows = _table_rows(text, where) or _line_rows(text, where)
    listed: dict[str, str] = {}
    places: dict[str, str] = {}
    for place, name, caption in rows:
        name = name.strip().replace("\\", "/").removeprefix("./")
        if name in listed and listed[name] != caption:
            raise DataError(
                place,
                expected="one caption for each image",
                found=f"another one for {name}, first at {places[name]}",
                remedy="Leave one of them out.",
            )
        listed[name], places[name] = caption, place
    if not listed:
        raise DataError(where, expected="captions", found="an empty file")
    return listed


_Row = tuple[str, str, str]  # place for messages, name, caption


def _json_rows(text: str, where: str) -> list[_Row]:
    try:
        whole = parse_json(text)
    except ValueError:
        return [
            _record(_parsed(line, f"{where}:{number}"), f"{where}:{number}")
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    if any(key in whole and isinstance(whole[key], str) for key in _NAME_KEYS):
        return [_record(whole, where)]
    return [
        (f"{where}: {name}", name, _caption_in(value, f"{where}: {name}")) for name, value in whole.items()
    ]


def _parsed(line: str, where: str) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise DataError(
            where, expected='an object such as {"file_name": "1.png", "text": "a cat"}', found=str(error)
        ) from None


def _record(row: Any, where: str) -> _Row:
    name = next((row[key] for key in _NAME_KEYS if key in row), None) if isinstance(row, dict) else None
    if not isinstance(name, str):
        found = f"the keys {', '.join(row)}" if isinstance(row, dict) else f"a {type(row).__name__}"
        raise DataError(where, expected="an object with file_name and text", found=found)
    return where, name, _caption_in(row, where)


def _caption_in(value: Any, where: str) -> str:
    if isinstance(value, dict):
        value = next((value[key] for key in _TEXT_KEYS if key in value), None)
    if not isinstance(value, str):
        raise DataError(
            where,
            expected=f"a text under {', '.join(_TEXT_KEYS[:-1])} or {_TEXT_KEYS[-1]}",
            found=repr(value),
        )
    return value


def _table_rows(text: str, where: str) -> list[_Row]:
    """Return the rows of a table whose first line names the columns; nothing for other text."""
    head = text.lstrip().partition("\n")[0]
    for delimiter in ",;\t":
        try:
            columns = [cell.strip().lower() for cell in next(csv.reader([head], delimiter=delimiter), [])]
        except csv.Error as error:
            raise DataError(f"{where}:1", expected="a table, or `name|caption`", found=str(error)) from None
        name = next((columns.index(key) for key in _NAME_KEYS if key in columns), None)
        words = next((columns.index(key) for key in _TEXT_KEYS if key in columns), None)
        if name is None or words is None:
            continue
        rows = _cells(text.lstrip(), delimiter, where)
        return [(place, cells[name], cells[words]) for place, cells in rows]
    return []


def _cells(text: str, delimiter: str, where: str) -> list[tuple[str, list[str]]]:
    """Return the rows below a table's first line, each with its place, blank lines left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = []
    try:
        columns = len(next(reader))
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != columns:
                raise DataError(
                    f"{where}:{reader.line_num}",
                    expected=f"{columns} columns as in the first line",
                    found=str(len(cells)),
                    remedy=f"Put texts that hold {delimiter!r} in double quotes.",
                )
            rows.append((f"{where}:{reader.line_num}", cells))
    except csv.Error as error:
        raise DataError(f"{where}:{reader.line_num}", expected="a table", found=str(error)) from None
    return rows


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
