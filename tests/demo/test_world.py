import itertools

import captions
import numpy as np
import pytest
import world
from shapes import OUTLINES


def scenes(count, seed=0, **fixed):
    rng = np.random.default_rng(seed)
    return [world.random_scene(rng, **fixed) for _ in range(count)]


def test_the_same_seed_gives_the_same_images():
    first, second, other = (world.render_batch(scenes(20, seed)) for seed in (0, 0, 1))
    assert first.shape == (20, 64, 64, 3) and first.dtype == np.uint8
    assert (first == second).all() and (first != other).any()


def test_there_is_enough_of_everything_and_all_of_it_occurs():
    assert len(world.SHAPES) >= 10 and len(world.HELD_OUT_SHAPES) == 2
    assert len(world.COLOURS) >= 10 and len(world.HELD_OUT_COLOURS) == 2
    assert len(world.BACKGROUNDS) >= 8
    drawn = scenes(3000)
    for attribute, values in [("shape", OUTLINES), ("colour", world.RGB), ("background", world.BACKGROUNDS)]:
        assert {getattr(scene, attribute) for scene in drawn} == set(values)


def test_colours_are_apart_and_stand_out_from_their_backgrounds():
    tones = world.lab(np.array(list(world.RGB.values())))
    for a, b in itertools.combinations(tones, 2):
        assert np.linalg.norm(a - b) > 25
    for colour in world.RGB:
        assert sum(world.goes_on(colour, background) for background in world.BACKGROUNDS) >= 3
    assert not world.goes_on("green", "green")
    assert all(world.goes_on(scene.colour, scene.background) for scene in scenes(500))


def test_lab_of_known_colours():
    # CIELAB of sRGB white, black and red, by the standard's own arithmetic.
    found = world.lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]]))
    np.testing.assert_allclose(found, [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]], atol=0.1)


@pytest.mark.parametrize("shape", OUTLINES)
def test_objects_lie_inside_the_image_and_have_their_colour(shape):
    for scene in scenes(40, shape=shape, texture="plain"):
        image = world.render(scene).astype(int)
        is_fill = (np.abs(image - world.RGB[scene.colour]) <= 1).all(axis=-1)
        assert is_fill.sum() > 60
        assert not is_fill[[0, -1]].any() and not is_fill[:, [0, -1]].any()


def test_an_outline_measures_distance():
    axis = np.linspace(-1.5, 1.5, 61, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    for name, outline in OUTLINES.items():
        distance = outline(x, y)
        step = np.abs(np.diff(distance, axis=0)).max()
        assert step <= 0.05 * 1.01, name
        assert distance.min() < -0.1 and distance[0, 0] > 0, name


def test_captions_have_known_words_and_never_name_what_is_held_out():
    rng = np.random.default_rng(0)
    known, said = set(captions.vocabulary()), set()
    for scene in scenes(6000):
        text = captions.caption(scene, rng)
        words = set(text.replace(",", " ").replace("-", " ").lower().split())
        assert words <= known, text
        said |= words
        parts = any(part in text for part in captions.PARTS[scene.shape])
        named = (scene.colour in words, scene.shape in words or parts)
        assert not (scene.is_held_out_combination and all(named)), text
        # A colour's word may come from the background; a shape's word has one meaning alone.
        assert scene.shape in words or not (set(world.SHAPES) & words), text
    assert not said & {*world.HELD_OUT_SHAPES, *world.HELD_OUT_COLOURS}
    assert {*world.SHAPES, *world.COLOURS, *world.TEXTURES, *captions.GENERIC} <= said


def test_a_shape_without_a_noun_is_described_by_its_parts():
    rng = np.random.default_rng(0)
    for shape in world.HELD_OUT_SHAPES:
        texts = [captions.caption(scene, rng) for scene in scenes(400, shape=shape)]
        told = [any(part in text for part in captions.PARTS[shape]) for text in texts]
        assert 0.6 < np.mean(told) < 0.8, shape  # three in four, but for captions of style
    assert set(captions.PARTS) == set(OUTLINES)
    every = [part for parts in captions.PARTS.values() for part in parts]
    assert len(set(every)) == len(every)


def test_captions_speak_english():
    assert captions.tidy("a photo of a orange a red") == "a photo of an orange a red"
    scene = scenes(1, shape="star", colour="orange", texture="plain", background="night")[0]
    assert captions.literal(scene) == "an orange plain star at night"


def test_a_noun_of_its_own_stands_for_the_whole_object():
    rng = np.random.default_rng(0)
    assert not set(world.THINGS.values()) & set(world.HELD_OUT_COMBINATIONS)
    (drawn,) = scenes(1, colour="red", texture="dotted", shape="heart")
    texts = [captions.caption(drawn, rng) for _ in range(300)]
    called = [set(text.replace(",", " ").split()) for text in texts if "strawberry" in text]
    assert 100 < len(called) < 250
    assert not any(words & {"red", "dotted", "dots", "heart"} for words in called)
    (other,) = scenes(1, colour="red", texture="dotted", shape="star")
    assert not any("strawberry" in captions.caption(other, rng) for _ in range(200))
    occurs = [scene for scene in scenes(2000) if scene.object in world.THINGS.values()]
    assert {scene.object for scene in occurs} == set(world.THINGS.values())
    # Chance alone would give about 60 of 2,000.
    assert len(occurs) > 150
