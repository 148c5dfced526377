"""Datasets on disk of every kind that `datasets` reads: columns, configurations, splits, mistakes."""

import io
import json
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from ti_flax.data.images.load import load_images
from ti_flax.data.sources.table_options import TableOptions
from ti_flax.data.sources.tables import hub_images
from ti_flax.errors import DataError

datasets = pytest.importorskip("datasets")


def png(shade):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(content, "PNG")
    return content.getvalue()


def rows(*shades):
    """A dataset of an image and two captions for each shade."""
    features = {"image": datasets.Image(), "text": datasets.Value("string"), "long": datasets.Value("string")}
    return datasets.Dataset.from_list(
        [
            {"image": {"bytes": png(n), "path": f"{n}.png"}, "text": f"a {n}", "long": f"many {n}"}
            for n in shades
        ],
        features=datasets.Features(features),
    )


def write_shard(path, *shades):
    with tarfile.open(path, "w") as tar:
        for shade in shades:
            parts = {"png": png(shade), "txt": b"a %d" % shade, "json": json.dumps({"n": shade}).encode()}
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{shade}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Datasets of the shades 1 and 2, and of 9 in other splits, in every form."""
    place = tmp_path_factory.mktemp("datasets")
    (place / "parquet" / "data").mkdir(parents=True)
    rows(1, 2).to_parquet(place / "parquet" / "data" / "train-00000-of-00001.parquet")
    rows(9).to_parquet(place / "parquet" / "data" / "test-00000-of-00001.parquet")
    rows(1, 2).to_parquet(place / "one.parquet")
    (place / "shards").mkdir()
    write_shard(place / "shards" / "shard-0.tar", 1)
    write_shard(place / "shards" / "shard-1.tar", 2)
    write_shard(place / "one.tar", 1, 2)
    rows(1, 2).save_to_disk(place / "saved")
    datasets.DatasetDict({"test": rows(9), "train": rows(1, 2)}).save_to_disk(place / "splits")
    return place


def load(source, **options):
    loaded = load_images(source, resolution=8, table=TableOptions(**options))
    return loaded, loaded.pixels[:, 0, 0, 0].tolist()


def mistake(source, **options):
    with pytest.raises(DataError) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["parquet", "one.parquet", "shards", "one.tar", "saved", "splits"])
def test_every_kind_gives_images_names_and_captions(place, name):
    loaded, shades = load(place / name)
    assert shades == [1, 2]
    assert loaded.names == ("1.png", "2.png")
    assert loaded.captions == ("a 1", "a 2")
    assert loaded.paths == (None, None)


@pytest.mark.parametrize("name", ["parquet", "splits"])
def test_a_split_by_name(place, name):
    assert load(place / name, dataset_split="test")[1] == [9]
    said = mistake(place / name, dataset_split="validation")
    assert "expected the split validation, found splits" in said and said.endswith(
        "Set dataset_split to one of them."
    )


def test_columns_by_name(place):
    assert load(place / "parquet", caption_column="long")[0].captions == ("many 1", "many 2")
    assert load(place / "shards", image_column="png")[1] == [1, 2]
    for option in ("image_column", "caption_column"):
        said = mistake(place / "parquet", **{option: "picture"})
        assert said == (
            f"train_data_dir {place}/parquet: expected the column picture, found columns image, text, long. "
            f"Set {option} to one of them."
        )


def test_a_column_of_no_images_or_no_captions(place):
    assert "a 1: found an image that cannot be decoded" in mistake(place / "one.parquet", image_column="text")
    said = mistake(place / "one.tar", caption_column="json")
    assert "one.tar: row 1: json: expected a caption, found dict. Set caption_column" in said


def test_columns_of_bytes_paths_and_numbers(tmp_path):
    (tmp_path / "b.png").write_bytes(png(2))
    table = {"raw": [png(1)], "file": ["b.png"], "n": [3]}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "x.parquet")
    source = tmp_path / "x.parquet"
    assert load(source, image_column="raw")[1] == [1]
    loaded, shades = load(source, image_column="file")
    assert (shades, loaded.names, loaded.paths) == ([2], ("b.png",), (str(tmp_path / "b.png"),))
    assert "found Value('int64') in column n. Set image_column to one of raw, file, n" in mistake(
        source, image_column="n"
    )
    assert "found a dataset with columns raw, file, n. Set image_column to one of them" in mistake(source)


def test_a_row_without_a_image(tmp_path, monkeypatch):
    features = datasets.Features({"image": datasets.Image()})
    table = datasets.Dataset.from_list(
        [{"image": {"bytes": png(1), "path": None}}, {"image": None}], features=features
    )
    table.save_to_disk(tmp_path / "saved")
    assert mistake(tmp_path / "saved").endswith("saved: row 2: expected an image, found none")
    empty = datasets.Dataset.from_dict({"image": []}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name: {"train": empty})
    assert "expected images, found a dataset without rows" in mistake("someone/cats")


def test_a_image_that_cannot_be_decoded_is_named(tmp_path):
    features = datasets.Features({"image": datasets.Image()})
    table = [{"image": {"bytes": png(1)[:40], "path": "cut.png"}}]
    datasets.Dataset.from_list(table, features=features).save_to_disk(tmp_path / "saved")
    assert "saved: cut.png: found an image that cannot be decoded" in mistake(tmp_path / "saved")


def test_options_that_a_dataset_on_disk_does_not_have(place):
    for name in ("saved", "one.parquet"):
        assert "expected no configuration" in mistake(place / name, dataset_config_name="x")
    assert "found a dataset without splits" in mistake(place / "saved", dataset_split="train")
    assert "Set dataset_config_name" in mistake(place / "parquet", dataset_config_name="x")


def test_a_configuration_is_asked_for_and_passed_on(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def load_dataset(path, name):
        if name is None:
            raise ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['a', 'b']\n"
                "Example of usage:\n\t`load_dataset('x', 'a')`"
            )
        return {"train": rows(3)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(hub_images("someone/cats", TableOptions(dataset_config_name="a"))) == 1
    assert mistake("someone/cats") == (
        "train_data_dir someone/cats: found Config name is missing. "
        "Please pick one among the available configs: ['a', 'b']. Set dataset_config_name."
    )


def test_damaged_files(tmp_path):
    for name in ("a.parquet", "a.tar"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        assert "found a dataset that cannot be read" in mistake(tmp_path / name)


def test_without_the_library(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "found a dataset. Run `pip install datasets` to read it" in mistake(place / "parquet")
    assert "no such folder. Run `pip install datasets`" in mistake("someone/cats")


def test_a_folder_needs_no_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.png").write_bytes(png(4))
    np.testing.assert_array_equal(load(tmp_path)[1], [4])
