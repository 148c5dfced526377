"""Where encoded images are during whole runs: in memory or in files; and what pixels stay."""

from collections import namedtuple

import pytest
from tiny_folder import write_images
from tiny_run import configure, learned
from tiny_vae import entries

from ti_flax.data import encoding
from ti_flax.data.posteriors import PosteriorFiles
from ti_flax.errors import DataError
from ti_flax.run import train as run
from ti_flax.run.inputs import load_inputs


def test_what_exceeds_the_memory_is_read_from_the_cache(place, tmp_path, monkeypatch, capsys):
    config = configure(place, tmp_path / "out", latents_cache_dir=str(tmp_path / "cache"))
    expected = learned(run.train(config))
    monkeypatch.setattr(encoding, "memory_of_machine", lambda: 1)
    assert isinstance(load_inputs(config).examples.buckets[0].posteriors, PosteriorFiles)
    again = config.replace(output_dir=str(tmp_path / "again"))
    assert learned(run.train(again)).tobytes() == expected.tobytes()
    assert "of disk" in capsys.readouterr().err
    assert len(entries(tmp_path / "cache")) == 6


def test_what_fits_nowhere_is_refused_before_anything_is_encoded(place, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "memory_of_machine", lambda: 1)
    monkeypatch.setattr(encoding.shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(0))
    monkeypatch.setattr(encoding, "encode_posteriors", lambda *_, **__: 1 / 0)
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match="^latents_cache_dir .*: expected room for "):
        run.train(configure(place, tmp_path / "out", latents_cache_dir=str(cache)))
    assert entries(cache) == []


def test_a_run_keeps_the_pixels_that_it_shows(place, tmp_path):
    write_images(tmp_path / "many", count=30)
    config = configure(place, tmp_path / "out", train_data_dir=str(tmp_path / "many"))
    assert [len(group.pixels) for group in load_inputs(config).images.groups] == [20]
    few = config.replace(hub_concept_images=False, validation_prompt="a <thing>", validation_steps=3)
    assert [len(group.pixels) for group in load_inputs(few).images.groups] == [5]
    none = config.replace(hub_concept_images=False)
    assert load_inputs(none).images.groups == ()
