"""Training images from a dataset on the Hub, and from a Hub that cannot be reached."""

from pathlib import Path

import numpy as np
import pytest
from drawn_images import checkered, encoded, only, photograph, save

from ti_flax.data.images.load import load_images
from ti_flax.errors import DataError


def hub_dataset(rows, monkeypatch, split="train"):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image()})
    table = datasets.Dataset.from_list(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name: {split: table})


@pytest.mark.parametrize("split", ["train", "test"])
def test_hub_dataset(tmp_path, monkeypatch, split):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"text": "one", "image": {"path": "cat/1.png", "bytes": encoded(checkered(), "PNG")}},
        {"text": "two", "image": {"path": None, "bytes": encoded(255 - checkered(), "BMP")}},
    ]
    hub_dataset(rows, monkeypatch, split)
    loaded = load_images("someone/cats", resolution=8, interpolation="nearest")
    assert loaded.names == ("1.png", "image 1")
    np.testing.assert_array_equal(loaded.pixels, [checkered(), 255 - checkered()])


def test_broken_image_of_a_hub_dataset_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = encoded(photograph(200, 200), "PNG")[:5000]
    hub_dataset([{"text": "", "image": {"path": "1.png", "bytes": broken}}], monkeypatch)
    with pytest.raises(DataError, match=r"someone/cats: 1\.png: found an image that cannot be decoded"):
        load_images("someone/cats", resolution=8)


@pytest.fixture
def unreachable_hub(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(path, name):
        raise ConnectionError(f"Couldn't reach '{path}' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_hub_that_cannot_be_reached(tmp_path, monkeypatch, unreachable_hub):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="someone/cats: found no such folder, .*reach.*configs/demo.yaml"):
        load_images("someone/cats", resolution=8)


def test_a_folder_goes_before_a_hub_dataset(tmp_path, monkeypatch, unreachable_hub):
    monkeypatch.chdir(tmp_path)
    Path("someone/cats").mkdir(parents=True)
    save(Path("someone/cats"), "a.png", checkered())
    np.testing.assert_array_equal(only("someone/cats"), checkered())
