"""The concepts there are to learn: what of them has no word, and that the judge knows them."""

import collections

import concepts
import pytest
import world
from concepts import CONCEPTS, HELD_OUT
from judge import judge

ALL = (*CONCEPTS, *HELD_OUT)


def kind(concept):
    """What of a concept has no word: nothing, shape, colour or both."""
    return concept.shape in world.HELD_OUT_SHAPES, concept.colour in world.HELD_OUT_COLOURS


def test_the_held_out_ten_are_others_of_the_same_kinds():
    first, others = (collections.Counter(map(kind, chosen)) for chosen in (CONCEPTS, HELD_OUT))
    assert first == others and len(first) == 4
    assert len(concepts.BY_NAME) == len({each.literal for each in ALL}) == len(ALL) == 20


@pytest.mark.parametrize("concept", ALL, ids=lambda concept: concept.name)
def test_a_concept_has_no_word_of_its_own(concept):
    assert concept.has_words == (not any(kind(concept)))
    named = (concept.colour, concept.texture, concept.shape)
    assert named not in world.THINGS.values() and concept.name not in concepts.SETTINGS
    # It starts from what comes nearest to its shape.
    assert concept.initializer == ("toy" if concept.shape in world.HELD_OUT_SHAPES else concept.shape)


def test_only_the_first_ten_were_kept_from_the_base_models_captions():
    named = [{(each.colour, each.texture, each.shape) for each in chosen} for chosen in (CONCEPTS, HELD_OUT)]
    assert set(world.HELD_OUT_COMBINATIONS) <= named[0]
    assert not set(world.HELD_OUT_COMBINATIONS) & named[1]


@pytest.mark.parametrize("concept", ALL, ids=lambda concept: concept.name)
def test_the_judge_knows_a_concept_on_every_background(concept):
    wanted = (concept.shape, concept.colour, concept.texture)
    scenes = concepts.concept_scenes(concept, 2 * len(concept.settings), seed=1)
    seen = [judge(world.render(scene)) for scene in scenes]
    assert [(each.shape, each.colour, each.texture) for each in seen] == [wanted] * len(scenes)
    assert [each.background for each in seen] == [scene.background for scene in scenes]
    assert {scene.background for scene in scenes} == set(concept.settings) and len(concept.settings) >= 4


def test_the_images_of_a_concept_are_written_and_what_to_start_from_is_said(tmp_path, capsys):
    concepts.main(["plus", str(tmp_path), "--count", "2"])
    assert capsys.readouterr().out == "<plus>, an orange plain cross; its initializer_token is cross\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plus-1.png", "plus-2.png"]
