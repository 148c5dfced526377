"""The step is compiled while images are still to be encoded, from shapes alone."""

import threading

import jax
import numpy as np
import pytest
from tiny_run import configure

from ti_flax.data import encoding
from ti_flax.errors import DataError
from ti_flax.run import fit, inputs
from ti_flax.run import train as run
from ti_flax.training.devices import replicate, shapes_on


def test_the_step_is_lowered_before_the_images_are_encoded(place, tmp_path, monkeypatch):
    begun, lower_step, encode = threading.Event(), fit.lower_step, encoding.encode_posteriors
    found = []

    def lower(*args):
        begun.set()
        return lower_step(*args)

    def encode_later(*args, **named):
        found.append(begun.wait(30))
        return encode(*args, **named)

    monkeypatch.setattr(fit, "lower_step", lower)
    monkeypatch.setattr(encoding, "encode_posteriors", encode_later)
    run.train(configure(place, tmp_path))
    assert found == [True]


def test_shapes_give_the_program_that_arrays_give(place, tmp_path, monkeypatch):
    """Or the compiled program would not be found in the cache, or would copy what it is called with."""
    # Runs of tests share compiled steps; here each lowers its own.
    lowered, lower_step = [], fit.lower_step.__wrapped__

    def lower(*given):
        lowered.append(lower_step(*given))
        return lowered[-1]

    monkeypatch.setattr(fit, "lower_step", lower)
    config = configure(place, tmp_path / "shapes", max_train_steps=1)
    run.train(config)
    monkeypatch.setattr(run, "begin_compiling", lambda *args: None)
    run.train(config.replace(output_dir=str(tmp_path / "arrays")))
    by_shapes, by_arrays = lowered
    assert by_shapes.as_text() == by_arrays.as_text()


def test_shapes_are_those_of_the_replicated_arrays():
    tree = {"a": np.zeros((2, 3)), "b": 1.5, "c": np.int32(1)}
    arrays, shapes = replicate(tree, jax.devices()), shapes_on(tree, jax.devices())
    for array, shape in zip(jax.tree.leaves(arrays), jax.tree.leaves(shapes), strict=True):
        assert (array.shape, array.dtype, array.sharding) == (shape.shape, shape.dtype, shape.sharding)


def test_what_cannot_be_encoded_ends_a_run_before_anything_is_cleared_away(place, tmp_path, monkeypatch):
    config = configure(place, tmp_path, overwrite_output_dir=True)
    run.train(config)
    before = sorted(path.name for path in run.Path(config.output.output_dir).iterdir())

    def refuse(*args, **named):
        raise DataError("train_data_dir", expected="images with finite posteriors", found="none")

    monkeypatch.setattr(encoding, "encode_posteriors", refuse)
    with pytest.raises(DataError):
        run.train(config)
    assert sorted(path.name for path in run.Path(config.output.output_dir).iterdir()) == before


def test_a_run_that_has_its_steps_encodes_nothing(place, tmp_path, monkeypatch):
    config = configure(place, tmp_path, checkpointing_steps=2, max_train_steps=2)
    run.train(config)
    (run.Path(config.output.output_dir) / "learned_embeds.safetensors").unlink()
    monkeypatch.setattr(encoding, "encode_posteriors", lambda *args, **named: pytest.fail("encoded"))
    run.train(config.replace(resume_from_checkpoint="auto"))
    assert (run.Path(config.output.output_dir) / "learned_embeds.safetensors").exists()


def test_inputs_are_read_without_encoding_anything(place, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "encode_posteriors", lambda *args, **named: pytest.fail("encoded"))
    read = inputs.read_inputs(configure(place, tmp_path))
    assert read.examples.buckets[0].posteriors.shape[0] == len(read.images.names)
