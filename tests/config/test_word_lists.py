"""Several words in one concept: lists for each word, one value for all, and what is refused."""

import pytest
import yaml

from ti_flax.config import RunConfig, load_config, parse_config
from ti_flax.config.concept_list import read_concepts
from ti_flax.errors import ConfigError

REQUIRED = {"pretrained_model_name_or_path": "m", "train_data_dir": "d"}
TWO = {"placeholder_token": ["<cat>", "<hat>"], "initializer_token": ["cat", "hat"]}


def config(**changes):
    return RunConfig.from_dict(REQUIRED | TWO | changes)


def refused(**changes):
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_value_is_that_of_all_words_or_of_each():
    one, other = config(num_vectors=[4, 1], initializer_mode="mean").concept.each
    assert (one.placeholder_token, one.initializer_token, one.num_vectors) == ("<cat>", "cat", 4)
    assert (other.placeholder_token, other.initializer_token, other.num_vectors) == ("<hat>", "hat", 1)
    assert one.start == "the mean of 'cat'" and other.initializer_mode == "mean"


def test_words_may_start_from_different_things():
    starts = {"initializer_token": [None, "hat", None], "init_embeds": ["cat.pt", None, None]}
    modes = {"initializer_mode": ["spread", "spread", "random"], "num_vectors": [None, 2, 3]}
    words = config(placeholder_token=["<a>", "<b>", "<c>"], **starts, **modes).concept.each
    assert [word.start for word in words] == ["cat.pt", "'hat'", "random vectors"]
    assert [word.num_vectors for word in words] == [None, 2, 3]


def test_the_file_and_the_flags_say_the_same(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "placeholder_token: [<cat>, <hat>]\ninitializer_token: [cat, hat]\nnum_vectors: [4, null]\n"
        "pretrained_model_name_or_path: m\ntrain_data_dir: d\n"
    )
    flags = [
        "--pretrained_model_name_or_path=m",
        "--train_data_dir=d",
        "--placeholder_token",
        "<cat>",
        "<hat>",
    ]
    flags += ["--initializer_token", "cat", "hat", "--num_vectors", "4", "null"]
    found = load_config(path)
    assert found == parse_config(flags) == config(num_vectors=[4, None])
    path.write_text(found.to_yaml())
    assert load_config(path) == found


def test_one_word_is_written_as_ever_and_its_last_flag_counts():
    found = parse_config(
        ["--pretrained_model_name_or_path=m", "--train_data_dir=d"]
        + ["--placeholder_token=<cat>", "--initializer_token=cat", "--initializer_token=dog"]
    )
    assert found.concept.words == ("<cat>",) and found.concept.each[0].initializer_token == "dog"
    written = yaml.safe_load(found.to_yaml())
    assert written["placeholder_token"] == "<cat>" and written["initializer_token"] == "dog"
    assert (written["num_vectors"], written["initializer_mode"], written["init_embeds"]) == (
        1,
        "spread",
        None,
    )
    assert "concept   <cat> (object, 1 vector), starting as 'dog'\nimages" in found.describe()


def test_the_header_has_a_line_for_each_word():
    head = config(num_vectors=[2, 1]).describe().splitlines()[:2]
    assert head[0] == "concept   <cat> (object, 2 vectors), starting as 'cat'"
    assert head[1] == "          <hat> (object, 1 vector), starting as 'hat'"


def test_braces_stand_for_all_words():
    prompts = ["{} on a table", "a <hat>"]
    found = config(validation_prompt=prompts, class_prompt="a photo of {}", class_data_dir="c")
    assert found.validation_prompts == ("<cat> and <hat> on a table", "a <hat>")
    assert found.class_prompt == "a photo of <cat> and <hat>"
    assert found.to_dict()["validation_prompt"] == prompts


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["<cat>", "<cat>"], "found '<cat>' twice"),
        (["<cat>", "<CAT>"], "found '<CAT>' beside '<cat>'"),
        (["cat2", "my-cat2"], "found 'my-cat2' beside 'cat2'"),
        (["my-cat2", "<hat>", "cat2"], "found 'cat2' beside 'my-cat2'"),
        (["<cat>", "<cat>_1"], "found '<cat>_1' beside '<cat>'"),
    ],
)
def test_words_that_a_prompt_could_mistake_are_refused(words, found):
    said = refused(placeholder_token=words, initializer_token="cat")
    assert said.startswith("placeholder_token: expected words of which none is another or part of it, found ")
    assert found in said


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("initializer_token", ["a", "b", "c"]),
        ("num_vectors", [1, 2, 3]),
        ("initializer_mode", ["mean", "spread", "mean"]),
    ],
)
def test_a_list_of_another_length_is_refused_with_both_numbers(name, values):
    expected = "expected one value, or one for each word of placeholder_token (2), found 3 values"
    assert refused(**{name: values}) == f"{name}: {expected}"
    assert "quotes" in refused(placeholder_token="<cat>", **{name: values})


def test_each_word_needs_a_start_and_no_second_one():
    assert "initializer_token is required for each word, unless" in refused(initializer_token=["cat", None])
    files = {"init_embeds": [None, "hat.pt"]}
    assert "init_embeds and initializer_token exclude each other" in refused(**files)
    assert config(initializer_token=["cat", None], **files).concept.each[1].start == "hat.pt"
    said = refused(initializer_mode=["random", "mean"])
    assert said.startswith("initializer_token requires initializer_mode spread or mean: found random.")


def test_a_prompt_names_one_of_the_words():
    own = {"class_data_dir": "c", "prompt_template": ["a <hat>", "my <CAT>"]}
    assert config(class_prompt="one <hat>", **own).prompts.prompt_template == ("a <hat>", "my <CAT>")
    assert "placeholder_token <cat> or <hat> in it" in refused(class_prompt="a dog", **own)
    assert "[name] or {}" in refused(prompt_template=["a dog"])
    assert "[name] or {}" in refused(
        placeholder_token="<cat>", initializer_token="a", prompt_template=["<cat>"]
    )


def test_sensitivity_prompts_are_a_plain_one_and_others_with_a_place_for_the_word():
    own = ["a {}", "a {} at night"]
    assert config(sensitivity_prompts=own).monitoring.sensitivity_prompts == tuple(own)
    assert "a plain prompt, and at least one that says more, found 1" in refused(sensitivity_prompts=own[:1])
    assert "sensitivity_prompts: expected {}, where the word goes, found 'a <cat>'" in refused(
        sensitivity_prompts=["a {}", "a <cat>"]
    )


def test_a_concept_of_a_list_may_have_several_words():
    entries = [
        TWO | {"num_vectors": [2, 1]},
        {"name": "both", **TWO},
        {"placeholder_token": ["<cat>x", "<d>"]},
    ]
    run = RunConfig.from_dict(
        REQUIRED | {"concepts": entries[:1], "class_prompt": "{}", "class_data_dir": "c"}
    )
    assert run.to_dict()["concepts"] == entries[:1]
    (found,) = read_concepts(run.replace(train_data_dir="a/b", class_data_dir="a/b")).concepts
    assert found.name == "cat-hat" and found.config.concept.words == ("<cat>", "<hat>")
    assert found.config.loss.class_prompt == "<cat> and <hat>"
    both = run.replace(concepts=entries, train_data_dir="a/b", class_data_dir="a/b", initializer_token="x")
    with pytest.raises(ConfigError) as caught:
        read_concepts(both)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "concept both (place 2)",
        "concept cat>x-d (place 3)",
        "concept cat>x-d (place 3)",
    ]


def test_a_list_of_custom_diffusion_may_name_several_words():
    entry = {"instance_prompt": "a <cat> with a <hat>", "instance_data_dir": "a/b", **TWO}
    run = RunConfig.from_dict(REQUIRED | {"concepts": [entry]})
    (found,) = read_concepts(run).concepts
    assert found.config.prompts.prompt_template == ("a <cat> with a <hat>",)
    assert [each.initializer_token for each in found.config.concept.each] == ["cat", "hat"]
    run = run.replace(concepts=[entry | {"instance_prompt": "a dog"}])
    with pytest.raises(ConfigError, match="a prompt with placeholder_token <cat> or <hat> in it"):
        read_concepts(run)


def test_one_value_in_a_list_of_concepts_is_written_as_ever(tmp_path):
    path = tmp_path / "run.yaml"
    entry = {"placeholder_token": "<cat>", "initializer_token": "toy", "num_vectors": 2}
    path.write_text(
        yaml.safe_dump({"concepts": [entry], "pretrained_model_name_or_path": "m"}, sort_keys=False)
    )
    found = load_config(path)
    assert found.to_dict()["concepts"] == [entry]
    assert load_config(path, concepts=[entry]) == found
