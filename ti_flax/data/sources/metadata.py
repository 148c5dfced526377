"""Tables of images in text: metadata.jsonl and metadata.csv, as `datasets` reads them beside images."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ti_flax.data.sources.table_options import TableOptions, caption_column, caption_text, missing_column
from ti_flax.errors import DataError
from ti_flax.files.text import parse_json, read_text

SUFFIXES = (".jsonl", ".csv")
NAMES = tuple(f"metadata{suffix}" for suffix in SUFFIXES)

# Columns that name the image's file: of `datasets`, and of other trainers' tables.
_FILE_COLUMNS = ("file_name", "image")


@dataclass(frozen=True)
class Row:
    """An image and its caption.

    Attributes:
      where: file and row, for errors.
      file_name: path, relative to the table's folder, or link.
      caption: None where there is none.
    """

    where: str
    file_name: str
    caption: str | None


def read_rows(path: Path, table: TableOptions) -> list[Row]:
    """Read the rows of a table in JSON lines or CSV.

    Args:
      path: a file that ends in .jsonl or .csv.
      table: `image_column` and `caption_column`, if they are not to be guessed.

    Raises:
      DataError: not such a file, or a column is missing.
    """
    text = read_text(path)
    numbered = _json_lines(text, path) if path.suffix.lower() == ".jsonl" else _csv_lines(text, path)
    columns = list(dict.fromkeys(name for _, row in numbered for name in row))
    if not numbered:
        raise DataError(path, expected="lines that name images", found="none")
    files = _file_column(columns, table, path)
    captions = caption_column(columns, table, path)
    rows = []
    for number, row in numbered:
        where, name = f"{path}:{number}", row.get(files)
        if not isinstance(name, str) or not name.strip():
            raise DataError(where, expected=f"a file's name in column {files}", found=repr(name))
        caption = caption_text(row.get(captions), f"{where}: {captions}") if captions else None
        rows.append(Row(where, name.strip(), caption))
    return rows


def _json_lines(text: str, path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            row = error
        if not isinstance(row, dict):
            found = f"no JSON ({row})" if isinstance(row, Exception) else type(row).__name__
            expected = 'an object such as {"file_name": "1.png", "text": "a cat"} on each line'
            raise DataError(f"{path}:{number}", expected=expected, found=found)
        rows.append((number, row))
    return rows


def _csv_lines(text: str, path: Path) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return [
            (reader.line_num, {name: value for name, value in row.items() if name is not None})
            for row in reader
        ]
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}",
            expected="a table",
            found=str(error),
            remedy="A quotation mark may be open.",
        ) from None


def _file_column(columns: Sequence[str], table: TableOptions, path: Path) -> str:
    wanted = table.image_column
    if wanted is not None and wanted in columns:
        return wanted
    # What `datasets` makes of a file_name is a column called image.
    usual = _FILE_COLUMNS if wanted is None else _FILE_COLUMNS[:1] if wanted == "image" else ()
    for name in usual:
        if name in columns:
            return name
    raise missing_column("image_column", wanted or _FILE_COLUMNS[0], columns, path)
