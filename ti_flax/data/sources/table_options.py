"""Which columns of a dataset or metadata file are read."""

from collections.abc import Sequence
from dataclasses import dataclass

from ti_flax.errors import DataError

# Columns that hold captions where none is named: of the diffusers scripts, of others, of webdataset shards.
_CAPTION_COLUMNS = ("text", "caption", "txt")


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What of a dataset is read; None leaves the choice to the dataset.

    Attributes:
      image_column: with the images.
      caption_column: with the captions.
      dataset_config_name: of a dataset that has several configurations.
      dataset_split: such as train.
    """

    image_column: str | None = None
    caption_column: str | None = None
    dataset_config_name: str | None = None
    dataset_split: str | None = None

    def given(self) -> tuple[str, ...]:
        """Return the names of the options that are not None."""
        return tuple(name for name, value in vars(self).items() if value is not None)


ALL_AS_FOUND = TableOptions()


def caption_column(columns: Sequence[str], table: TableOptions, where: object) -> str | None:
    """Return the column of the captions, or None where none is named and none has a usual name.

    Raises:
      DataError: the named one is missing.
    """
    if table.caption_column is None:
        return next((name for name in _CAPTION_COLUMNS if name in columns), None)
    if table.caption_column not in columns:
        raise missing_column("caption_column", table.caption_column, columns, where)
    return table.caption_column


def missing_column(option: str, name: str, columns: Sequence[str], where: object) -> DataError:
    """Return the error for a column that is not there, which lists those that are."""
    remedy = f"Set {option} to one of them."
    return DataError(
        where, expected=f"the column {name}", found=f"columns {', '.join(columns)}", remedy=remedy
    )


def caption_text(value: object, where: str) -> str | None:
    """Return a caption; of several the first, and None for an empty one.

    Raises:
      DataError: it is no text.
    """
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    if value is not None and not isinstance(value, str):
        remedy = "Set caption_column to a column of text."
        raise DataError(where, expected="a caption", found=type(value).__name__, remedy=remedy)
    return (value or "").strip() or None
