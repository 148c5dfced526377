"""The templates are those of the field, and the concept is filled in as given."""

import pytest

from ti_flax.errors import ConfigError
from ti_flax.prompts import OBJECT_TEMPLATES, STYLE_TEMPLATES, training_prompts


def test_lists_have_the_lengths_of_the_reference():
    assert (len(OBJECT_TEMPLATES), len(set(OBJECT_TEMPLATES))) == (27, 27)
    assert (len(STYLE_TEMPLATES), len(set(STYLE_TEMPLATES))) == (19, 17)
    assert STYLE_TEMPLATES.count("a close-up painting in the style of {}") == 2
    assert STYLE_TEMPLATES.count("a cropped painting in the style of {}") == 2


def test_every_template_has_one_place_for_the_concept():
    for template in OBJECT_TEMPLATES + STYLE_TEMPLATES:
        assert template.count("{}") == 1
        assert template.replace("{}", "").isascii()


def test_prompts_follow_the_templates_in_order():
    prompts = training_prompts("<cat-toy> <cat-toy>_1", "object")
    assert prompts[0] == "a photo of a <cat-toy> <cat-toy>_1"
    assert prompts[-1] == "a photo of a small <cat-toy> <cat-toy>_1"
    assert len(prompts) == 27
    assert training_prompts("<art>", "style")[7] == "a picture in the style of <art>"


def test_braces_in_a_concept_are_plain_text():
    assert training_prompts("{0}", "object")[0] == "a photo of a {0}"


def test_unknown_property_says_which_exist():
    with pytest.raises(ConfigError, match="learnable_property: expected object or style, found 'person'"):
        training_prompts("<x>", "person")
