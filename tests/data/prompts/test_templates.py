"""The templates are those of the field, and the concept is filled in as given."""

import pytest

from ti_flax.data.prompts.templates import (
    OBJECT_TEMPLATES,
    STYLE_TEMPLATES,
    built_in_templates,
    fill,
    read_templates,
    training_prompts,
)
from ti_flax.errors import ConfigError, DataError


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


# A person's own templates


def write(tmp_path, text):
    path = tmp_path / "templates.txt"
    path.write_text(text, encoding="utf-8-sig")
    return str(path)


def test_a_template_file_is_read_line_by_line(tmp_path):
    path = write(
        tmp_path, "# mine\na photo of [name], [filewords]\n\n  a {} and a [name]\r\n[filewords] drawn"
    )
    templates = read_templates(path, captions=True)
    assert [template.where for template in templates] == [f"template_file {path}:{n}" for n in (2, 4, 5)]
    filled = [fill(template, ["<x>"], "red, blue") for template in templates]
    assert filled == ["a photo of <x>, red, blue", "a <x> and a <x>", "red, blue drawn"]
    assert [fill(template, ["<x>"], "") for template in templates] == [
        "a photo of <x>",
        "a <x> and a <x>",
        "<x>",
    ]
    named = [fill(template, ["<x>"], "my <x>") for template in templates]
    assert named == ["my <x>", "a <x> and a <x>", "my <x> drawn"]


def test_commas_around_a_caption_that_is_left_out_go_with_it(tmp_path):
    path = write(tmp_path, "art, [filewords], by [name]\n[filewords], [name]\na  [name] , [filewords]\n")
    plain = [fill(template, ["<x>"], "") for template in read_templates(path, captions=True)]
    assert plain == ["art, by <x>", "<x>", "a <x>"]


def test_the_built_in_sets_with_captions_keep_every_template():
    for name, templates in (("object", OBJECT_TEMPLATES), ("style", STYLE_TEMPLATES)):
        with_captions = built_in_templates(name, captions=True)
        assert [template.plain for template in with_captions] == list(templates)
        assert all(template.has_word and template.has_caption for template in with_captions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a [name]\na photo of a cat\n",
            r":2: expected \[name\] or {}, .* found 'a photo of a cat'. Nothing would",
        ),
        ("a [name], [filewords]\n", r":1: expected no \[filewords\] without captions"),
        ("# nothing\n\n", "expected a template a line, .* found none"),
        ("a {name}", "Nothing would be learned from it"),
    ],
)
def test_mistakes_in_a_template_file(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        read_templates(path, captions=False)
    assert str(caught.value).startswith(f"template_file {path}")
    with pytest.raises(DataError, match="template_file none: expected a text file, found No such file"):
        read_templates("none", captions=False)
