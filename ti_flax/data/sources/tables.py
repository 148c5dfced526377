"""Images of the `datasets` library's datasets: on the Hub, in files, or saved by it in a folder."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ti_flax.data.sources.formats import cause
from ti_flax.data.sources.links import Fetch, fetch_image, is_link, link_name
from ti_flax.data.sources.source_image import SourceImage
from ti_flax.data.sources.table_options import TableOptions, caption_column, caption_text, missing_column
from ti_flax.errors import DataError
from ti_flax.files.folder_files import lies_in

# Files whose rows are images, and the builder of `datasets` that reads a single one.
BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(text: str) -> bool:
    """Tell what may be `owner/name` on the Hub."""
    return _HUB_ID.fullmatch(text) is not None


def is_saved_dataset(folder: Path) -> bool:
    """Tell a folder that `save_to_disk` wrote."""
    one = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return one or (folder / "dataset_dict.json").is_file()


def hub_images(dataset_id: str, table: TableOptions, fetch: Fetch = fetch_image) -> list[SourceImage]:
    """Download a dataset of the Hub and return its images.

    Raises:
      DataError: no `datasets`, no such dataset, no such configuration, split or column.
    """
    remedy = "Run `pip install datasets` to read it as a dataset of the Hub."
    datasets = _library(f"train_data_dir {dataset_id}", "no such folder", remedy)
    _require_own_files(datasets, dataset_id, table, f"train_data_dir {dataset_id}", _is_on_hub)
    try:
        splits = datasets.load_dataset(dataset_id, name=table.dataset_config_name)
    except Exception as error:  # the Hub's client and `datasets` share no base class
        if _is_about_configuration(error):
            raise _which_configuration(error, f"train_data_dir {dataset_id}") from error
        raise DataError(
            f"train_data_dir {dataset_id}",
            found=f"no such folder, and no such dataset could be had from the Hub ({cause(error)})",
            remedy="Name a folder with images; --config configs/demo.yaml runs without the Hub.",
        ) from error
    return _images(splits, table, dataset_id, own=_Own(_hub_folders(dataset_id), fetch))


def local_images(path: Path, table: TableOptions, fetch: Fetch = fetch_image) -> list[SourceImage]:
    """Return the images of a dataset on disk.

    Args:
      path: a parquet file, a webdataset shard, a folder of such, or one that `save_to_disk` wrote.
      table: what of it is read.

    Raises:
      DataError: no `datasets`, it cannot be read, no such configuration, split or column.
    """
    where = f"train_data_dir {path}"
    remedy = "Run `pip install datasets` to read it."
    datasets = _library(where, "a dataset", remedy)
    saved = path.is_dir() and is_saved_dataset(path)
    if table.dataset_config_name is not None and (saved or path.is_file()):
        found = f"dataset_config_name {table.dataset_config_name}"
        raise DataError(where, expected="no configuration, as it has one only", found=found)
    try:
        if saved:
            splits = datasets.load_from_disk(str(path))
        elif path.is_file():
            builder = BUILDERS[path.suffix.lower()]
            splits = datasets.load_dataset(builder, data_files={"train": str(path)})
        else:
            _require_own_files(
                datasets,
                str(path),
                table,
                where,
                lambda file: not is_link(file) and lies_in(Path(file), path),
            )
            splits = datasets.load_dataset(str(path), name=table.dataset_config_name)
    except DataError:
        raise
    except Exception as error:  # pyarrow, tarfile and `datasets` share no base class
        if _is_about_configuration(error):
            raise _which_configuration(error, where) from error
        found = f"a dataset that cannot be read ({cause(error)})"
        raise DataError(where, found=found, remedy="Replace it, or name a folder with images.") from error
    folder = path if path.is_dir() else path.parent
    return _images(splits, table, str(path), own=_Own((folder, *_unpacked_folders()), fetch))


def _require_own_files(
    datasets: Any, name: str, table: TableOptions, where: str, owns: Callable[[str], bool]
) -> None:
    """Refuse a dataset whose README.md names files that are not its own, of this machine or of a network.

    Raises:
      DataError: names the first.
    """
    try:
        builder = datasets.load_dataset_builder(name, name=table.dataset_config_name)
    except Exception:  # which loading meets as well, and tells
        return
    for files in (builder.config.data_files or {}).values():
        for file in map(str, files):
            if not owns(file):
                raise DataError(
                    where,
                    expected="data files of its own",
                    found=f"{file}, which its README.md names",
                    remedy="Take that line out, or name the file as train_data_dir.",
                )


def _is_on_hub(file: str) -> bool:
    return file.rpartition("::")[2].startswith("hf://")  # a file in an archive is named `zip://...::hf://...`


def _library(where: str, found: str, remedy: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(where, found=found, remedy=remedy) from error
    return datasets


def _is_about_configuration(error: Exception) -> bool:
    return isinstance(error, ValueError) and "onfig" in str(error)


def _which_configuration(error: Exception, where: str) -> DataError:
    lines = [line for line in str(error).splitlines() if "xample" not in line and "load_dataset" not in line]
    return DataError(where, found=" ".join(lines), remedy="Set dataset_config_name.")


def _images(splits: Any, table: TableOptions, where: str, *, own: "_Own") -> list[SourceImage]:
    """Return the rows of one split as images, whose bytes are read when they are decoded."""
    import datasets

    rows = _split(splits, table, where) if isinstance(splits, Mapping) else _unsplit(splits, table, where)
    if not len(rows):
        raise DataError(f"train_data_dir {where}", expected="images", found="a dataset without rows")
    name = _image_column(rows.features, table, where)
    captions = caption_column(list(rows.features), table, f"train_data_dir {where}")
    try:
        images = rows.cast_column(name, datasets.Image(decode=False))[name]
    except Exception as error:  # pyarrow's
        found = f"{rows.features[name]} in column {name}"
        remedy = f"Set image_column to one of {', '.join(rows.features)}."
        raise DataError(f"train_data_dir {where}", expected="images", found=found, remedy=remedy) from error
    texts = rows[captions] if captions else None
    return [
        _image(
            images,
            index,
            where,
            own=own,
            caption=caption_text(texts[index], f"{where}: row {index + 1}: {captions}") if texts else None,
        )
        for index in range(len(images))
    ]


def _split(splits: Mapping[str, Any], table: TableOptions, where: str) -> Any:
    wanted = table.dataset_split
    if wanted is None:
        return splits["train"] if "train" in splits else next(iter(splits.values()))
    if wanted not in splits:
        raise DataError(
            f"train_data_dir {where}",
            expected=f"the split {wanted}",
            found=f"splits {', '.join(splits)}",
            remedy="Set dataset_split to one of them.",
        )
    return splits[wanted]


def _unsplit(rows: Any, table: TableOptions, where: str) -> Any:
    if table.dataset_split is not None:
        found = f"a dataset without splits and dataset_split {table.dataset_split}"
        raise DataError(f"train_data_dir {where}", expected="no dataset_split", found=found)
    return rows


def _image_column(features: Mapping[str, Any], table: TableOptions, where: str) -> str:
    """Return the named column, or the first of images, or the one called image."""
    import datasets

    if table.image_column is not None:
        if table.image_column not in features:
            raise missing_column(
                "image_column", table.image_column, list(features), f"train_data_dir {where}"
            )
        return table.image_column
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if images or "image" in features:
        return next(iter(images), "image")
    raise DataError(
        f"train_data_dir {where}",
        expected="images",
        found=f"a dataset with columns {', '.join(features)}",
        remedy="Set image_column to one of them.",
    )


@dataclass(frozen=True)
class _Own:
    """Where files of a dataset's rows may lie, relative paths in the first, and what fetches their links."""

    folders: tuple[Path, ...]
    fetch: Fetch


def _hub_folders(dataset_id: str) -> tuple[Path, ...]:
    """Return where the libraries keep what they download of a dataset."""
    from huggingface_hub import constants

    repository = f"datasets--{dataset_id.replace('/', '--')}"
    return (Path(constants.HF_HUB_CACHE) / repository, *_unpacked_folders())


def _unpacked_folders() -> tuple[Path, ...]:
    """Return where `datasets` keeps downloads of all datasets under hashed names, and unpacks archives."""
    from datasets import config

    return Path(config.DOWNLOADED_DATASETS_PATH), Path(config.EXTRACTED_DATASETS_PATH)


def _image(images: Sequence[Any], index: int, where: str, *, own: _Own, caption: str | None) -> SourceImage:
    row = images[index] or {}
    named, has_bytes = row.get("path"), row.get("bytes") is not None
    name = f"image {index}"
    if named:
        name = link_name(named) if is_link(named) else Path(named).name
    full = f"{where}: {name}"
    if has_bytes:
        return SourceImage(name, full, partial(_bytes, images, index), caption=caption)
    if not named:
        raise DataError(f"{where}: row {index + 1}", expected="an image", found="none")
    if is_link(named):
        return SourceImage(name, full, own.fetch(named, where=f"{where}: {named}"), caption=caption)
    path = own.folders[0] / named
    if not any(lies_in(path, folder) for folder in own.folders):
        raise DataError(
            f"{where}: row {index + 1}: {named}",
            expected="an image in the dataset's folder",
            found="a path out of it",
            remedy="Move the image there, or name it in a text file with a path a line.",
        )
    return SourceImage(name, str(path), str(path), path=str(path), caption=caption)


def _bytes(images: Sequence[Any], index: int) -> bytes:
    return images[index]["bytes"]
