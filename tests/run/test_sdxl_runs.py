"""Whole runs with a tiny SDXL model: stopping, devices, and every option that touches both text encoders."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from sdxl_place import Told, learned_rows, write_place
from sdxl_rows import sdxl_rows
from tiny_folder import write_images
from tiny_run import configure, train_until

from ti_flax import generate
from ti_flax.embedding.learned_embeds import learned_embeds_files, write_learned_embeds
from ti_flax.embedding.read import load_embedding
from ti_flax.run import fit
from ti_flax.run import train as run
from ti_flax.run.inputs import load_inputs
from ti_flax.training.checkpoint import load_checkpoint

ENCODERS, WIDTHS = ("text_encoder", "text_encoder_2"), (24, 40)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, squares, landscapes with masks, squares of the class, and another word's files, `old`."""
    place = write_place(tmp_path_factory.mktemp("place"))
    write_images(place / "class", count=2)
    write_images(place / "mixed", count=2)
    (place / "masks").mkdir()
    rng = np.random.default_rng(1)
    for name in ("wide", "wider"):
        pixels = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((107, 60)).save(place / "mixed" / f"{name}.png")
        mask = np.zeros((60, 107), np.uint8)
        mask[:, 18:36] = 255
        Image.fromarray(mask).save(place / "masks" / f"{name}.png")
    (place / "old").mkdir()
    write_learned_embeds(place / "old", {"<old>": old_rows()})
    return place


def old_rows():
    return {name: 0.1 * rows for name, rows in sdxl_rows(2, WIDTHS).items()}


@pytest.fixture(scope="module")
def whole(place):
    """A run that nothing interrupts."""
    return run.train(configure(place, place / "whole"))


@pytest.fixture(scope="module")
def inputs(place):
    """What that run learns from, encoded."""
    return load_inputs(configure(place, place / "x"))


def moved(rows, start):
    """Whether all rows of both text encoders are finite and somewhere else."""
    return [*rows] == list(ENCODERS) and all(
        np.isfinite(rows[name]).all() and (rows[name] != start[name][: len(rows[name])]).any(axis=1).all()
        for name in ENCODERS
    )


def same_bits(one, other):
    return [one[name].tobytes() == other[name].tobytes() for name in ENCODERS]


def test_a_run_moves_the_rows_of_both_and_leaves_their_files(whole, inputs):
    rows = learned_rows(whole)
    assert [rows[name].shape for name in ENCODERS] == [(2, 24), (2, 40)]
    assert moved(rows, inputs.added.start)
    names = {path.name for path in whole.iterdir() if path.suffix in (".safetensors", ".bin")}
    halves = {f"learned_embeds{half}{suffix}" for half in ("", "_2") for suffix in (".safetensors", ".bin")}
    assert names == halves | {"thing.safetensors"}


def test_a_stopped_run_goes_on_to_the_same_bits(place, whole, tmp_path):
    config = configure(place, tmp_path / "out")
    train_until(config, 4)
    assert not (tmp_path / "out" / "learned_embeds.safetensors").exists()
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    folder = run.train(config.replace(resume_from_checkpoint="latest"))
    for name in learned_embeds_files(["<thing>"], sdxl=True):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert same_bits(load_embedding(whole / "thing.safetensors").rows, learned_rows(whole)) == [True, True]
    one, other = (load_checkpoint(each / "checkpoint-6") for each in (folder, whole))
    assert same_bits(one.rows, other.rows) == [True, True]
    assert [*one.optimizer] == [*other.optimizer]
    assert all(one.optimizer[name].tobytes() == other.optimizer[name].tobytes() for name in one.optimizer)


@pytest.fixture(scope="module")
def with_class(place):
    """Rows of runs on two devices beside images of the class, by what those weigh."""
    rows = {}
    with pytest.MonkeyPatch.context() as patched:
        for module in (run, fit):
            patched.setattr(module, "batch_devices", lambda batch: jax.devices()[:2])
        patched.setattr(run, "batches_at_once", lambda: 2)
        for weight in (0.0, 1.0):
            options = {"class_data_dir": str(place / "class"), "prior_loss_weight": weight}
            config = configure(place, place / f"class-{weight}", train_batch_size=4, **options)
            rows[weight] = learned_rows(run.train(config))
    return rows


def test_two_devices_learn_what_eight_do_and_class_images_of_no_weight_change_nothing(whole, with_class):
    for name in ENCODERS:
        np.testing.assert_allclose(with_class[0.0][name], learned_rows(whole)[name], atol=1e-4)
    assert False in same_bits(with_class[0.0], learned_rows(whole))  # it was another program


def test_class_images_count_with_their_weight(with_class):
    for name in ENCODERS:
        assert np.abs(with_class[1.0][name] - with_class[0.0][name]).max() > 1e-3


def test_rows_begin_with_those_of_a_pair(place, tmp_path):
    config = configure(
        place,
        tmp_path / "out",
        initializer_token=None,
        init_embeds=str(place / "old" / "learned_embeds.bin"),
        learning_rate=0.0,
        max_train_steps=1,
    )
    assert same_bits(learned_rows(run.train(config)), old_rows()) == [True, True]


IN_HALF = {"mixed_precision": "bf16"}


@pytest.fixture(scope="module")
def beside(place):
    """A run in bfloat16 on two shapes beside a loaded pair: its configuration, and its pipeline."""
    (place / "prompts.txt").write_text("a photo of a {} on a <old>\n")
    options = {"extra_embeds": [str(place / "old")], "template_file": str(place / "prompts.txt")}
    options |= {"only_save_embeds": False, "max_train_steps": 3, "optimizer_args": ["weight_decay=0.1"]}
    options |= {"train_data_dir": str(place / "mixed"), "mask_dir": str(place / "masks")}
    options |= {"enable_bucket": True, "bucket_reso_steps": 8}
    config = configure(place, place / "beside", **options, **IN_HALF)
    return config, run.train(config)


def test_shapes_with_masks_tell_their_sizes(beside):
    square, wide = load_inputs(beside[0]).examples.buckets
    assert wide.loss_weights.shape == (2, 2, 6, 10) and (wide.loss_weights == 0).any()
    # Original size, crop top and left, target size. Of three columns too many the image loses one at
    # its left, and so the mirror image two.
    np.testing.assert_array_equal(square.time_ids, np.broadcast_to([40, 40, 0, 0, 32, 32], (2, 2, 6)))
    of_sides = [[60, 107, 0, 1, 24, 40], [60, 107, 0, 2, 24, 40]]
    np.testing.assert_array_equal(wide.time_ids, np.broadcast_to(of_sides, (2, 2, 6)))


def test_the_rows_of_a_loaded_pair_keep_their_bits(beside, whole, inputs):
    _, folder = beside
    rows, saved = learned_rows(folder), load_checkpoint(folder / "checkpoint-3").rows
    assert moved(rows, inputs.added.start) and same_bits(rows, learned_rows(whole)) == [False, False]
    assert {len(each) for each in rows.values()} == {2} and {len(each) for each in saved.values()} == {4}
    assert {each.dtype.name for each in saved.values()} == {"float32"}
    assert same_bits({name: saved[name][2:] for name in ENCODERS}, old_rows()) == [True, True]
    told = Told(folder)
    tokens = told.tokenizer.convert_tokens_to_ids(["<thing>", "<old>_1"])
    assert tokens == [told.first_added_id - 4, told.first_added_id - 1]
    for name in ENCODERS:
        table = told.model.params[name]["text_model"]["embeddings"]["token_embedding"]["embedding"]
        np.testing.assert_array_equal(table[-4:], np.concatenate([rows[name], old_rows()[name]]))


def test_bfloat16_computes_latents_in_float32(place, inputs):
    # From a cache of its own, so that they are computed.
    config = configure(place, place / "x", latents_cache_dir=str(place / "cache of half"), **IN_HALF)
    half = load_inputs(config)
    [latents], [expected] = half.examples.buckets, inputs.examples.buckets
    assert latents.posteriors.dtype == np.float32
    assert latents.posteriors.tobytes() == expected.posteriors.tobytes()
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.model.params)} == {"bfloat16"}


def test_prompts_with_several_embeddings_are_drawn(place, whole):
    """What a word draws does not depend on what else is loaded before it or after."""
    prompts = ["a <thing>", "an <old>", "a <thing> on an <old>"]
    embeds = [whole / "learned_embeds.safetensors", place / "old"]
    images, again = (
        [
            np.asarray(image).astype(int)
            for image in generate(
                place / "model", prompts, learned_embeds=order, resolution=32, num_inference_steps=2
            )
        ]
        for order in (embeds, embeds[::-1])
    )
    assert all(each.shape == (32, 32, 3) and np.ptp(each) > 20 for each in images)
    for one, other in zip(images, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(np.abs(images[one] - images[other]).max() > 1 for one, other in ((0, 1), (0, 2), (1, 2)))
