"""Whole runs whose devices get images call by call: the rows of a run whose devices hold them all."""

import numpy as np
import pytest
from PIL import Image
from tiny_folder import write_images
from tiny_run import configure, learned, train_until
from tiny_vae import entries

from ti_flax.data import encoding
from ti_flax.data.posteriors import PosteriorFiles
from ti_flax.errors import DataError
from ti_flax.monitoring.row_statistics import read_evaluations
from ti_flax.run import train as run
from ti_flax.run.inputs import load_inputs

SHAPES = {"enable_bucket": True, "bucket_reso_steps": 8, "eval_steps": 2, "max_eval_samples": 6}


@pytest.fixture(scope="module")
def mixed(place):
    """Squares and landscapes with masks, and images of the class."""
    write_images(place / "mixed", count=2)
    write_images(place / "class", count=2)
    (place / "masks").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 9, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((90, 60)).save(place / "mixed" / f"wide-{number}.png")
        mask = np.zeros((60, 90), np.uint8)
        mask[:, 18:36] = 255
        Image.fromarray(mask).save(place / "masks" / f"wide-{number}.png")
    names = {"train_data_dir": "mixed", "mask_dir": "masks", "class_data_dir": "class"}
    return {name: str(place / folder) for name, folder in names.items()}


def in_shapes(place, output, mixed, **changes):
    return configure(place, output, **mixed | SHAPES | {"max_train_steps": 4} | changes)


@pytest.fixture(scope="module")
def resident(place, mixed):
    return run.train(in_shapes(place, place / "resident", mixed))


def losses(folder):
    return [each.validation_loss for each in read_evaluations(folder / "signals.csv")]


def test_streamed_rows_and_evaluations_are_those_of_images_on_the_devices(
    place, mixed, resident, tmp_path, capsys
):
    folder = run.train(in_shapes(place, tmp_path / "out", mixed, stream_latents="always"))
    assert "18 encoded pictures" in capsys.readouterr().err.split("and stay in memory; each call")[0]
    assert learned(folder).tobytes() == learned(resident).tobytes()
    assert losses(folder) == losses(resident)


def test_a_streamed_run_goes_on_from_one_that_was_not_and_the_other_way(place, tmp_path):
    expected = learned(run.train(configure(place, tmp_path / "whole", max_train_steps=4)))
    for first, then in (("always", "never"), ("never", "always")):
        config = configure(place, tmp_path / then, max_train_steps=4, stream_latents=first)
        train_until(config, 2)
        again = config.replace(stream_latents=then, resume_from_checkpoint="latest")
        assert learned(run.train(again)).tobytes() == expected.tobytes()


def test_what_exceeds_the_memory_is_read_from_the_cache(place, tmp_path, monkeypatch, capsys):
    config = configure(place, tmp_path / "out", latents_cache_dir=str(tmp_path / "cache"))
    expected = learned(run.train(config))
    monkeypatch.setattr(encoding, "memory_of_device", lambda: 1)
    monkeypatch.setattr(encoding, "memory_of_machine", lambda: 1)
    assert isinstance(load_inputs(config).examples.buckets[0].posteriors, PosteriorFiles)
    again = config.replace(output_dir=str(tmp_path / "again"))
    assert learned(run.train(again)).tobytes() == expected.tobytes()
    assert "stay in files; each call sends" in capsys.readouterr().err
    assert len(entries(tmp_path / "cache")) == 6


def test_what_fits_nowhere_is_refused_before_anything_is_encoded(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoding, "memory_of_device", lambda: 1)
    monkeypatch.setattr(encoding, "memory_of_machine", lambda: 1)
    monkeypatch.setattr(encoding, "encode_posteriors", lambda *_, **__: 1 / 0)
    cache = tmp_path / "cache"
    config = configure(place, tmp_path / "out", latents_cache_dir=str(cache), stream_latents="never")
    with pytest.raises(
        DataError, match="^stream_latents never: expected encoded images that fit on a device"
    ):
        run.train(config)
    assert entries(cache) == []


def test_a_run_keeps_the_pixels_that_it_shows(place, tmp_path):
    write_images(tmp_path / "many", count=30)
    config = configure(place, tmp_path / "out", train_data_dir=str(tmp_path / "many"))
    assert [len(group.pixels) for group in load_inputs(config).images.groups] == [20]
    few = config.replace(hub_concept_images=False, validation_prompt="a <thing>", validation_steps=3)
    assert [len(group.pixels) for group in load_inputs(few).images.groups] == [5]
    none = config.replace(hub_concept_images=False)
    assert load_inputs(none).images.groups == ()
