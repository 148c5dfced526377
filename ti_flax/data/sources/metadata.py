"""Tables of images in text: metadata.jsonl, metadata.csv and metadata.tsv, as `datasets` reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ti_flax.data.sources.formats import is_named_as_image
from ti_flax.data.sources.table_options import TableOptions, caption_text, missing_column
from ti_flax.data.sources.text_tables import (
    FILE_COLUMNS,
    TEXT_COLUMNS,
    TextTable,
    begins_table,
    delimited_table,
    is_json,
    json_table,
    same_column,
)
from ti_flax.errors import DataError
from ti_flax.files.text import read_text

SUFFIXES = (".jsonl", ".csv", ".tsv")
_NAMES = tuple(f"metadata{suffix}" for suffix in SUFFIXES)


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


def is_metadata(path: Path) -> bool:
    """Tell a table of the images in its folder, by its name in any case."""
    return path.name.lower() in _NAMES


def looks_like_table(text: str, table: TableOptions) -> bool:
    """Tell a table from a list with a path a line, by its beginning.

    Args:
      text: of a file.
      table: its `image_column`, if that has no usual name.
    """
    return is_json(text) or begins_table(text, _file_names(table))


def read_rows(path: Path, table: TableOptions) -> tuple[list[Row], list[str]]:
    """Read the rows of a table in JSON lines or with a separator.

    Args:
      path: its content says what it is.
      table: `image_column` and `caption_column`, if they are not to be guessed.

    Returns:
      the rows, and a line if the table has no column of captions, but others.

    Raises:
      DataError: no such table, or a column is missing.
    """
    text, where = read_text(path), str(path)
    names = _file_names(table)
    as_json = is_json(text) or path.suffix.lower() == ".jsonl"
    found = json_table(text, where) if as_json else delimited_table(text, where, names)
    if not found.columns:
        raise DataError(path, expected="lines that name images", found="none")
    if not found.has(names):
        raise _no_files(found, table, path)
    captions = _caption_columns(found, table, path)
    rows = []
    for row in found.rows:
        name = row.cell(names)
        if not isinstance(name, str):
            column = next(each for each in found.columns if any(same_column(each, name) for name in names))
            raise DataError(row.where, expected=f"a file's name in column {column}", found=repr(name))
        place = f"{row.where}: {captions[0]}" if captions else row.where
        rows.append(Row(row.where, name.strip(), caption_text(row.cell(captions), place)))
    if not rows:
        raise DataError(path, expected="lines that name images", found="none")
    return rows, _caption_notes(found, names, captions, path)


def _file_names(table: TableOptions) -> Sequence[str]:
    if table.image_column is None:
        return FILE_COLUMNS
    # What `datasets` makes of a file_name is a column called image.
    return ("image", "file_name") if table.image_column == "image" else (table.image_column,)


def _caption_columns(found: TextTable, table: TableOptions, path: Path) -> Sequence[str]:
    """The names of the columns that may hold captions, those that are there alone."""
    if table.caption_column is not None:
        if not found.has([table.caption_column]):
            raise missing_column("caption_column", table.caption_column, found.columns, path)
        return (table.caption_column,)
    return [name for name in TEXT_COLUMNS if found.has([name])]


def _caption_notes(found: TextTable, names: Sequence[str], captions: Sequence[str], path: Path) -> list[str]:
    if captions:
        return []
    rest = [each for each in found.columns if not any(same_column(each, name) for name in names)]
    worded = [each for each in rest if any(" " in str(row.cells.get(each, "")) for row in found.rows)]
    if not worded:
        return []
    names_of_worded = ", ".join(worded)
    return [
        f"{path}: no captions, as no column is called text or caption "
        f"(caption_column may be set to one of {names_of_worded})"
    ]


def _no_files(found: TextTable, table: TableOptions, path: Path) -> DataError:
    if any(is_named_as_image(Path(name)) for name in found.columns):
        return DataError(
            path,
            expected="a first line that names the columns",
            found=", ".join(found.columns),
            remedy="Write a line such as file_name,text above it.",
        )
    if table.image_column is not None:
        return missing_column("image_column", table.image_column, found.columns, path)
    return DataError(
        path,
        expected=f"the column {FILE_COLUMNS[0]}",
        found=f"columns {', '.join(found.columns)}",
        remedy="Call the column with the images' files so, or set image_column to its name.",
    )
