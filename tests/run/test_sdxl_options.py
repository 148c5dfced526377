"""What an SDXL run takes and refuses: text encoders, resolution, the file named by the word."""

import itertools

import numpy as np
import pytest
from drawn_images import photograph, save
from tiny_folder import write_folder, write_images
from tiny_run import configure

from ti_flax.data.images.focal_crop import Box
from ti_flax.data.images.origin import Origin, exif_of
from ti_flax.embedding.read import load_embedding
from ti_flax.errors import ConfigError, OutputError
from ti_flax.run import train as run
from ti_flax.run.inputs import read_inputs


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    """A folder with an SDXL model and images."""
    place = tmp_path_factory.mktemp("xl")
    write_folder(place / "model", "sdxl")
    write_images(place / "pictures")
    return place


@pytest.fixture(scope="module")
def start(xl, tmp_path_factory):
    return read_inputs(configure(xl, tmp_path_factory.mktemp("start"))).added.start


@pytest.mark.parametrize("learned", ["both", "first", "second"])
def test_the_vectors_of_the_chosen_text_encoders_learn(xl, tmp_path, start, learned):
    folder = run.train(configure(xl, tmp_path, learned_text_encoders=learned, max_train_steps=2))
    rows = load_embedding(folder / "learned_embeds.safetensors").rows
    assert {name: each.shape for name, each in rows.items()} == {
        "text_encoder": (2, 24),
        "text_encoder_2": (2, 40),
    }
    moved = {name: bool((each != start[name]).all()) for name, each in rows.items()}
    kept = {name: each.tobytes() == start[name].astype(np.float32).tobytes() for name, each in rows.items()}
    assert moved == {"text_encoder": learned != "second", "text_encoder_2": learned != "first"}
    assert kept == {name: not each for name, each in moved.items()}


def test_a_model_with_one_text_encoder_has_no_second(place, tmp_path):
    with pytest.raises(
        ConfigError, match="learned_text_encoders: expected both or first for a model with one"
    ):
        run.train(configure(place, tmp_path, learned_text_encoders="second"))


def test_a_resolution_far_below_the_models_is_told(xl, tmp_path, capsys):
    run.train(configure(xl, tmp_path / "small", resolution=16, max_train_steps=1))
    assert "note: resolution 16 is far below the 32 pixels that this SDXL model was trained at" in (
        capsys.readouterr().err
    )
    run.train(configure(xl, tmp_path / "right", max_train_steps=1))
    assert "far below" not in capsys.readouterr().err


def test_a_file_named_by_the_word_that_no_run_wrote_stays(xl, tmp_path):
    config = configure(xl, tmp_path, overwrite_output_dir=True, max_train_steps=1)
    tmp_path.joinpath("thing.safetensors").write_text("somebody's own")
    with pytest.raises(
        OutputError, match="thing.safetensors: expected no file that this run would write over"
    ):
        run.train(config)
    assert tmp_path.joinpath("thing.safetensors").read_text() == "somebody's own"
    tmp_path.joinpath("thing.safetensors").unlink()
    run.train(config)
    run.train(config)  # its own is replaced
    assert load_embedding(tmp_path / "thing.safetensors").is_sdxl


def test_images_tell_the_model_their_sizes(xl, place, tmp_path):
    (bucket,) = read_inputs(configure(xl, tmp_path / "xl")).examples.buckets
    assert bucket.time_ids.shape == (3, 2, 6) and bucket.time_ids[0, 0].tolist() == [40, 40, 0, 0, 32, 32]
    (bucket,) = read_inputs(configure(place, tmp_path / "sd")).examples.buckets
    assert bucket.time_ids is None


def test_images_of_the_class_tell_theirs(xl, tmp_path):
    (tmp_path / "class").mkdir()
    save(tmp_path / "class", "a.png", photograph(48, 64))
    options = {"class_data_dir": str(tmp_path / "class"), "center_crop": True}
    (bucket,) = read_inputs(configure(xl, tmp_path / "out", **options)).examples.class_buckets
    assert bucket.time_ids.tolist() == [[[48, 64, 0, 5, 32, 32], [48, 64, 0, 6, 32, 32]]]


def test_sdxl_alone_is_told_of_the_originals_of_prepared_images(xl, place, tmp_path):
    """So a checkpoint of one is not gone on with beside the other."""
    original = Origin((90, 60), Box(0, 0, 60, 60))
    for name, exif in (("plain", None), ("prepared", exif_of(original, (40, 40)))):
        (tmp_path / name).mkdir()
        save(tmp_path / name, "a.png", photograph(40, 40), exif=exif)
    found = {}
    for base, name in itertools.product((xl, place), ("plain", "prepared")):
        config = configure(base, tmp_path / "out", train_data_dir=str(tmp_path / name))
        found[base, name] = read_inputs(config)
    [told] = found[xl, "prepared"].examples.buckets
    assert told.time_ids.tolist() == [[[60, 90, 0, 0, 32, 32], [60, 90, 0, 16, 32, 32]]]
    differing = {
        base: [
            part
            for part, digest in found[base, "plain"].fingerprint.items()
            if digest != found[base, "prepared"].fingerprint[part]
        ]
        for base in (xl, place)
    }
    assert differing == {xl: ["images"], place: []}
