"""Whole runs in several shapes and with masks, on a tiny model."""

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_folder import write_folder, write_images
from tiny_run import compilations, configure, learned, train_until

from ti_flax.errors import ConfigError
from ti_flax.monitoring import previews
from ti_flax.run import inputs
from ti_flax.run import train as run
from ti_flax.run.inputs import load_inputs

BUCKETS = {"enable_bucket": True, "bucket_reso_steps": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, squares, and squares with landscapes that have masks."""
    place = tmp_path_factory.mktemp("buckets")
    write_folder(place / "model")
    write_images(place / "pictures")
    write_images(place / "mixed", count=2)
    (place / "masks").mkdir()
    rng = np.random.default_rng(1)
    for name in ("wide", "wider"):
        pixels = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((90, 60)).save(place / "mixed" / f"{name}.png")
        mask = np.zeros((60, 90), np.uint8)
        mask[:, 18:36] = 255
        Image.fromarray(mask).save(place / "masks" / f"{name}.png")
    return place


def in_shapes(place, output, **changes):
    options = {"train_data_dir": str(place / "mixed"), "mask_dir": str(place / "masks")} | BUCKETS
    return configure(place, output, **options | changes)


@pytest.fixture(scope="module")
def whole(place):
    """A run in two shapes with previews that nothing interrupts: its compilations, sheets and words."""
    said, sheets = [], []
    make_sheet = previews.contact_sheet
    options = {"validation_prompt": "a <thing>", "validation_steps": 4, "num_validation_images": 1}
    with compilations() as messages, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ti_flax.data.training_images.say", said.append)
        patch.setattr(
            previews, "contact_sheet", lambda rows, **more: sheets.append(rows) or make_sheet(rows, **more)
        )
        folder = run.train(in_shapes(place, place / "whole", max_train_steps=4, **options))
    return folder, messages, said, sheets


def test_what_is_said_about_shapes_and_masks(whole):
    _, _, said, _ = whole
    assert said == [
        "4 images",
        "2 shapes: 32 x 32 (2 images), 40 x 24 (2 images); 5.0% of the area cropped, at most 10.0% of an "
        "image; compiled: one program with 2 branches, the encoder once for each of 2 shapes",
        "note: without a mask, and counted wholly: 0.png, 1.png",
    ]


def test_as_many_compilations_as_were_said(whole):
    _, messages, _, _ = whole
    # 8 devices. The step takes windows of 500 updates, with room for the larger shape: 6 x 10 places of 8
    # numbers and a weight. The encoder takes a picture on each device.
    steps = [text for text in messages if "float32[8,1,500,1,1,540]" in text]
    assert len(steps) == 1, [text[:200] for text in messages]
    encoders = [text for text in messages if "uint8[8,32,32,3]" in text or "uint8[8,24,40,3]" in text]
    assert len(encoders) == 2, [text[:200] for text in messages]


def test_previews_stay_square_and_the_sheet_shows_whole_images(whole):
    folder, _, _, [_, rows] = whole
    training, before = rows[0][1], rows[1][1]
    assert training.shape == (4, 32, 32, 3) and before.shape == (2, 32, 32, 3)
    assert (training[2:, 0] == 255).all() and (training[:2, 0] != 255).any()
    with Image.open(folder / "validation" / "step-4.png") as image:
        assert image.size == (32, 32)


def test_masks_weigh_the_places_that_are_left_of_the_image(place, tmp_path):
    inputs = load_inputs(in_shapes(place, tmp_path))
    square, wide = inputs.examples.buckets
    assert square.loss_weights is None
    assert wide.posteriors.shape == (2, 2, 6, 10, 8) and wide.loss_weights.shape == (2, 2, 6, 10)
    assert [bucket.sample_indices.tolist() for bucket in (square, wide)] == [[0, 1], [0, 1]]
    # All of 90 columns covers 40, so 18 to 36 are 8 to 16: two cells of 4.
    expected = [0, 0, 5, 5, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(wide.loss_weights[:, 0], np.broadcast_to(expected, (2, 6, 10)))
    np.testing.assert_array_equal(wide.loss_weights[:, 1], wide.loss_weights[:, 0, :, ::-1])


def test_unmasked_weight_reaches_the_examples(place, tmp_path):
    _, wide = load_inputs(in_shapes(place, tmp_path, unmasked_weight=0.5)).examples.buckets
    ratio = wide.loss_weights[0, 0, 0] / wide.loss_weights[0, 0, 0, 2]
    np.testing.assert_allclose(ratio, [0.5, 0.5, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])


def test_a_resumed_run_without_previews_ends_with_the_same_bits(place, tmp_path, whole):
    config = in_shapes(place, tmp_path, max_train_steps=4)
    train_until(config, 2)
    folder = run.train(config.replace(resume_from_checkpoint="latest", seed=None))
    assert learned(folder).tobytes() == learned(whole[0]).tobytes()


def test_class_images_have_every_shape_of_the_training_images(place, tmp_path):
    write_images(tmp_path / "class", count=2)
    plain = load_inputs(in_shapes(place, tmp_path)).examples
    found = load_inputs(in_shapes(place, tmp_path, class_data_dir=str(tmp_path / "class"))).examples
    assert [each.posteriors.shape for each in found.class_buckets] == [
        (2, *each.posteriors.shape[1:]) for each in plain.buckets
    ]
    assert [each.sample_indices.tolist() for each in found.class_buckets] == [[0, 1], [0, 1]]


def test_sizes_reach_all_examples_and_tell_runs_apart(place, tmp_path, monkeypatch):
    write_images(tmp_path / "class", count=2)
    config = in_shapes(place, tmp_path, class_data_dir=str(tmp_path / "class"), flip_p=0.0)
    plain = load_inputs(config)
    make_examples = inputs.make_examples
    monkeypatch.setattr(inputs, "make_examples", lambda *given, sizes: make_examples(*given, sizes=True))
    sized = load_inputs(config)
    # Of what a checkpoint belongs to, sizes change the images alone.
    assert plain.fingerprint.keys() == sized.fingerprint.keys()
    changed = [name for name, value in sized.fingerprint.items() if plain.fingerprint[name] != value]
    assert changed == ["images"]
    square, wide = sized.examples.buckets
    assert square.time_ids.tolist() == [[[40, 40, 0, 0, 32, 32]]] * 2
    assert wide.time_ids.tolist() == [[[60, 90, 1, 0, 24, 40]]] * 2  # becomes 40 x 26.7
    of_class = [bucket.time_ids.tolist() for bucket in sized.examples.class_buckets]
    assert of_class == [[[[40, 40, 0, 0, 32, 32]]] * 2, [[[40, 40, 8, 0, 24, 40]]] * 2]
    buckets = (*plain.examples.buckets, *plain.examples.class_buckets)
    assert all(bucket.time_ids is None for bucket in buckets)


@pytest.fixture(scope="module")
def squares(place):
    return learned(run.train(configure(place, place / "squares")))


def test_squares_are_trained_as_without_buckets_and_white_masks_change_nothing(place, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("ti_flax.data.training_images.say", said.append)
    (tmp_path / "masks").mkdir()
    for index in range(3):
        Image.new("L", (40, 40), "white").save(tmp_path / "masks" / f"{index}.png")
    plain = run.train(configure(place, tmp_path / "plain"))
    folder = run.train(configure(place, tmp_path / "out", mask_dir=str(tmp_path / "masks"), **BUCKETS))
    assert learned(folder).tobytes() == learned(plain).tobytes()
    assert said[-1] == "note: the masks change nothing: every part of every image counts the same"


def test_opaque_images_with_alpha_give_the_examples_of_images_without(place, tmp_path):
    (tmp_path / "pictures").mkdir()
    for path in (place / "pictures").iterdir():
        with Image.open(path) as image:
            image.convert("RGBA").save(tmp_path / "pictures" / path.name)
    changes = {"train_data_dir": str(tmp_path / "pictures"), "alpha_mask": True}
    opaque = load_inputs(configure(place, tmp_path, **changes)).examples
    plain = load_inputs(configure(place, tmp_path)).examples
    assert jax.tree.structure(opaque) == jax.tree.structure(plain)
    found = (map(np.asarray, jax.tree.leaves(examples)) for examples in (opaque, plain))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


def test_captions_beside_the_images_are_mentioned_or_used(place, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("ti_flax.data.training_images.say", said.append)
    folder = write_images(tmp_path / "pictures", count=1)
    (folder / "0.txt").write_text("a thing")
    (folder / "other.txt").write_text("a thing")
    load_inputs(configure(place, tmp_path, train_data_dir=str(folder)))
    assert said == [
        "1 image, 2 other files passed over",
        "note: 0.txt and the like are captions, used with --captions files",
    ]
    said.clear()
    load_inputs(configure(place, tmp_path, train_data_dir=str(folder), captions="files"))
    assert said == ["1 image, 1 other file passed over"]


def test_masks_beside_the_images_are_mentioned(place, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("ti_flax.data.training_images.say", said.append)
    folder = write_images(tmp_path / "pictures", count=1)
    Image.new("L", (40, 40), "white").save(folder / "0-masklabel.png")
    load_inputs(configure(place, tmp_path, train_data_dir=str(folder)))
    assert said[1] == f"note: 0-masklabel.png and the like are masks, used with --mask_dir {folder}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"enable_bucket": True, "center_crop": True}, "center_crop and enable_bucket exclude each other"),
        ({"bucket_reso_steps": 32}, "bucket_reso_steps requires enable_bucket"),
        ({"max_buckets": 3}, "max_buckets requires enable_bucket"),
        ({"enable_bucket": True}, "bucket_reso_steps: expected at most 8 with resolution 32, found 64"),
        ({"enable_bucket": True, "bucket_reso_steps": 12}, "bucket_reso_steps: expected .* a multiple of 8"),
        ({"alpha_mask": True, "mask_dir": "x"}, "alpha_mask and mask_dir exclude each other"),
        ({"unmasked_weight": 0.1}, "unmasked_weight requires alpha_mask or mask_dir"),
        ({"alpha_mask": True, "unmasked_weight": 1.1}, "unmasked_weight: expected a number .*<= 1"),
    ],
)
def test_contradictions_are_refused_with_both_names(place, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        configure(place, tmp_path, **changes)


def test_the_header_says_that_there_are_shapes(place, tmp_path):
    assert "at 32 x 32\n" in configure(place, tmp_path).describe()
    assert "the area of 32 x 32, in at most 4 shapes" in in_shapes(place, tmp_path).describe()
