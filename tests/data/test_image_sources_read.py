"""Sources of images with options of their own: crops, weights, flips and prompts of each."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_vae import VAE

from ti_flax.config import RunConfig
from ti_flax.data.encoding import settle_encoding, sides_of
from ti_flax.data.latents import Encoder
from ti_flax.data.prompts.prompt_table import MOST_ROWS, PromptTable, joined_tables
from ti_flax.data.training_images import make_buckets, read_images
from ti_flax.monitoring.validation import eval_set
from ti_flax.run.inputs import prompt_sources
from ti_flax.run.named_paths import named_paths
from ti_flax.training.timesteps import TimestepRules


@pytest.fixture
def configured(tmp_path):
    for number, (name, size) in enumerate({"one": (20, 20), "two": (40, 20)}.items()):
        (tmp_path / name).mkdir()
        for place in range(2):
            pixels = np.random.default_rng([number, place]).integers(0, 256, (size[1], size[0], 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{place}.png")

    def config(own, **changes):
        given = {
            "pretrained_model_name_or_path": "model",
            "placeholder_token": "<thing>",
            "initializer_token": "toy",
            "train_data_dir": [str(tmp_path / "one"), {"path": str(tmp_path / "two"), **own}],
            "output_dir": str(tmp_path / "out"),
            "resolution": 16,
        }
        return RunConfig.from_dict(given | changes)

    return config


def test_crops_and_repeats_are_those_of_each_source(configured):
    config = configured({"center_crop": True, "repeats": 3}, repeats=[7, 5])
    images = read_images(config.images, "none")
    assert images.weights == (7, 7, 3, 3) and images.sources == (0, 0, 1, 1)
    squeezed = read_images(configured({}).images, "none").pixels
    cropped = read_images(configured({}, center_crop=True).images, "none").pixels
    np.testing.assert_array_equal(images.pixels, [*squeezed[:2], *cropped[2:]])
    assert not (squeezed[2:] == cropped[2:]).all()
    assert images.of_source(1).names == images.names[2:] and images.of_source(1).weights == (3, 3)


@pytest.mark.parametrize(
    ("run", "own", "chances", "sides"),
    [
        (0.5, {}, None, 2),
        (0.0, {"flip_p": 0.0}, None, 1),
        (0.5, {"flip_p": 0.0}, [0.5, 0.5, 0, 0], 2),
        (0.0, {"flip_p": 1.0}, [0, 0, 1, 1], 2),
    ],
)
def test_images_are_mirrored_as_their_source_says(params, configured, run, own, chances, sides):
    config = configured(own, flip_p=run)
    images = read_images(config.images, "none")
    flips = set(config.images.of_each_source("flip_p"))
    encoding = settle_encoding(Encoder(VAE, params, jnp.float32), images, None, flip_p=flips, cache=None)
    [bucket] = make_buckets(config.images, images, encoding, prompts=[0] * 4, weights=images.weights)
    assert bucket.posteriors.shape[1] == sides == len(sides_of(*flips))
    assert (bucket.flip_p is None) == (chances is None)
    if chances is not None:
        np.testing.assert_array_equal(bucket.flip_p, np.float32(chances))
        evaluated = eval_set(
            [bucket], TimestepRules(first=0, end=9), flip_p=run, samples=8, batch_size=8, devices=1
        ).places[0]
        shown = {*zip(evaluated.image[0, 0].tolist(), evaluated.mirrored[0, 0].tolist())}
        assert shown == {(image, side) for image in range(4) for side in sides_of(chances[image])}


def test_each_source_has_templates_and_captions_of_its_own(configured):
    config = configured({"learnable_property": "style", "captions": "filename", "caption_prefix": "no"})
    first, second = prompt_sources(config)
    assert len(first.templates) == 27 and len(second.templates) == 19
    assert (first.options.captions, second.options.captions) == ("none", "filename")
    [alone] = prompt_sources(config.of_source(0))
    assert alone.options == first.options


def test_tables_are_joined_group_after_group():
    one = PromptTable((("a", "b"),), (0, 0), {"a": "x", "b": "y"}, "two")
    other = PromptTable((("c", "d", "e"), ("f", "g", "h")), (1, 0), dict.fromkeys("cdefgh", "z"), "three")
    found = joined_tables([one, other])
    assert found.prompts == (tuple("ababab"), tuple("cdecde"), tuple("fghfgh"))
    assert found.groups == (0, 0, 2, 1) and found.origins["b"] == "y" and found.origins["h"] == "z"
    assert found.description == "2 images: two; 2 images: three"
    assert joined_tables([one]) is one
    rows = tuple(tuple(map(str, range(count))) for count in (997, 1009))  # of no common multiple in room
    wide = joined_tables([PromptTable((row,), (0,), {}, "") for row in rows])
    assert {len(row) for row in wide.prompts} == {MOST_ROWS // 2}


def test_folders_of_mappings_are_named_as_inputs(configured, tmp_path):
    paths = [
        path for name, path in named_paths(configured({"repeats": 2}), "input") if name == "train_data_dir"
    ]
    assert paths == [tmp_path / "one", tmp_path / "two"]
