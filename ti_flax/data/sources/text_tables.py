"""Tables in text, as people and programs write them: CSV of any locale, TSV, JSON, JSON lines.

Excel separates by comma, semicolon or tab, as the locale and the chosen format say, and writes UTF-8 with a
mark, or UTF-16. What a table's text is, its content says, not its suffix.
"""

import csv
import functools
import io
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ti_flax.errors import DataError
from ti_flax.files.text import parse_json

# Names of the columns and keys of images and captions: of `datasets`, of diffusers' scripts, of other
# trainers, of webdataset shards. The first that is there counts.
FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path", "image_file")
TEXT_COLUMNS = ("text", "caption", "captions", "prompt", "txt", "tags")
OBJECT = 'an object such as {"file_name": "1.png", "text": "a cat"}'

_JSON = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[\"{])")
# Letters of a line that names columns, and names that begin a table even alone in their line, as no file has
# them.
_LONGEST_HEAD = 10_000
_ALONE = ("file_name", "image_path", "image_file")
_DELIMITERS = ",;\t"
# Excel's own first line, which names the separator.
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
      where: file and row, for errors.
      cells: by names of columns.
    """

    where: str
    cells: dict[str, Any]

    def cell(self, names: Iterable[str]) -> Any:
        """The first cell under one of these names, in any spelling, that is not blank; None if all are."""
        spelled = {_key(name): value for name, value in self.cells.items()}
        values = (spelled.get(_key(name)) for name in names)
        return next((value for value in values if not _is_blank(value)), None)

    def has_text(self, names: Iterable[str]) -> bool:
        """Whether a cell under one of these names is text, blank or not."""
        wanted = {_key(name) for name in names}
        return any(isinstance(value, str) and _key(name) in wanted for name, value in self.cells.items())


@dataclass(frozen=True)
class TextTable:
    """Rows, and the names of all their columns."""

    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]

    def has(self, names: Iterable[str]) -> bool:
        """Whether one of the columns has one of these names, in any spelling."""
        return not {_key(name) for name in names}.isdisjoint(map(_key, self.columns))


def same_column(name: str, other: str) -> bool:
    """Whether two names differ in case, blanks, hyphens and underscores at most."""
    return _key(name) == _key(other)


def _is_blank(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


@functools.lru_cache(maxsize=1024)
def _key(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", unicodedata.normalize("NFC", str(name)).strip().casefold())


def is_json(text: str) -> bool:
    """Whether a text begins as JSON with objects does, and not as a file's name may."""
    return _JSON.match(text) is not None


def json_table(text: str, where: str, *, by_name: bool = False) -> TextTable:
    """Read JSON lines, a JSON array of objects, or one object.

    Args:
      text: of the file.
      where: the file, for errors.
      by_name: whether one object may be one of captions (or of objects with captions) by names of files.

    Raises:
      DataError: it is something else.
    """
    rows = _json_rows(text, where, by_name)
    return TextTable(tuple(dict.fromkeys(name for row in rows for name in row.cells)), tuple(rows))


def _json_rows(text: str, where: str, by_name: bool) -> list[TableRow]:
    try:
        whole = parse_json(text)
    except ValueError:
        whole = None
    if isinstance(whole, list) and whole and all(isinstance(each, dict) for each in whole):
        return [TableRow(f"{where}: object {number}", row) for number, row in enumerate(whole, start=1)]
    if isinstance(whole, dict) and by_name and not isinstance(TableRow("", whole).cell(FILE_COLUMNS), str):
        return [
            TableRow(
                f"{where}: {name}",
                (value if isinstance(value, dict) else {TEXT_COLUMNS[0]: value}) | {FILE_COLUMNS[0]: name},
            )
            for name, value in whole.items()
        ]
    if isinstance(whole, dict) and "\n" in text.strip():  # one object over several lines
        return [TableRow(f"{where}:1", whole)]
    lines = enumerate(text.split("\n"), start=1)
    return [_json_line(line, f"{where}:{number}") for number, line in lines if line.strip("\ufeff \t\r")]


def _json_line(line: str, where: str) -> TableRow:
    try:
        row = parse_json(line)
    except ValueError as error:
        row = error
    if not isinstance(row, dict):
        found = f"no JSON ({row})" if isinstance(row, Exception) else type(row).__name__
        raise DataError(where, expected=f"{OBJECT} on each line", found=found)
    return TableRow(where, row)


def begins_table(text: str, names: Sequence[str] = FILE_COLUMNS) -> bool:
    """Tell a table with names of columns from lines of another kind, by its first line.

    Args:
      text: of a file.
      names: of which the column of files has one.
    """
    head = text.lstrip("\ufeff \r\n").partition("\n")[0].strip()
    if len(head) > _LONGEST_HEAD:
        return False
    if _SEPARATOR_LINE.match(head + "\n") or any(same_column(head, name) for name in _ALONE):
        return True
    try:
        found = delimited_table(head, "", names)
    except DataError:  # a quotation mark in a file's name
        return False
    dotted = any("." in column for column in found.columns)  # a file's name with the separator in it
    return len(found.columns) > 1 and found.has(names) and not dotted


def delimited_table(text: str, where: str, names: Sequence[str] = FILE_COLUMNS) -> TextTable:
    """Read a table whose first line names its columns, whatever separates them.

    Args:
      text: of the file.
      where: the file, for errors.
      names: the column of one of these names, if there is one, tells the separator.

    Raises:
      DataError: a quotation mark is open, or a row has more cells than there are columns.
    """
    begun = text.lstrip("\ufeff \r\n")
    given = _SEPARATOR_LINE.match(begun)
    if given:
        begun = begun[given.end() :]
    delimiter = given[1] if given else _delimiter(begun, where, names)
    skipped = text[: len(text) - len(begun)].count("\n")
    (head, _), *rows = _cells(begun, delimiter, where) or [([], 0)]
    columns = [cell.strip() for cell in head]
    made = []
    for cells, line in rows:
        if any(cell.strip() for cell in cells):
            place = f"{where}:{line + skipped}"
            _require_named(cells, columns, delimiter, place)
            made.append(TableRow(place, {name: cell for name, cell in zip(columns, cells) if name}))
    return TextTable(tuple(dict.fromkeys(filter(None, columns))), tuple(made))


def _delimiter(text: str, where: str, names: Sequence[str]) -> str:
    """The one that leaves a known name in the first line, else the one that is there most often."""
    head = text.partition("\n")[0]
    wanted = {_key(name) for name in names}
    rows = {each: next(iter(_cells(head, each, where, strict=False)), ([], 0)) for each in _DELIMITERS}
    columns = {each: cells for each, (cells, _) in rows.items()}
    return max(
        _DELIMITERS,
        key=lambda each: (not wanted.isdisjoint(map(_key, columns[each])), len(columns[each])),
    )


def _cells(text: str, delimiter: str, where: str, *, strict: bool = True) -> list[tuple[list[str], int]]:
    """The cells of each row, and the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
    try:
        return [(cells, reader.line_num) for cells in reader]
    except csv.Error as error:
        if strict and "expected after" in str(error):  # letters behind a quotation mark, which are kept
            return _cells(text, delimiter, where, strict=False)
        raise DataError(
            f"{where}:{reader.line_num}",
            expected="a table",
            found=str(error),
            remedy="A quotation mark may be open.",
        ) from None


def _require_named(cells: list[str], columns: list[str], delimiter: str, where: str) -> None:
    """Refuse a row of which a cell would be lost: the end of a text with the separator in it."""
    nameless = (cell for cell, name in itertools.zip_longest(cells, columns, fillvalue="") if not name)
    if any(cell.strip() for cell in nameless):
        raise DataError(
            where,
            expected=f"{len([name for name in columns if name])} columns as in the first line",
            found=str(len(cells)),
            remedy=f"Put texts that hold {delimiter!r} in double quotes.",
        )
