"""A list of concepts that is wrong: all faults of all concepts in one message, or what is left out."""

import json
import os
from pathlib import Path

import pytest

from ti_flax.config import parse_config
from ti_flax.config.concept_list import ConceptListError, read_concepts
from ti_flax.config.concept_list.merge import PER_CONCEPT
from ti_flax.config.run_config import GROUPS, OPTIONS
from ti_flax.config.values import options_of
from ti_flax.config.words import clashing_words
from ti_flax.console.program import exit_code
from ti_flax.errors import ConfigError

FLAGS = ["--pretrained_model_name_or_path=model", "--initializer_token=toy", "--quiet"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, content):
    Path(name).write_text(content)


def listed(concepts, *flags):
    """The list of a YAML file of this content, or of these concepts."""
    write("list.yaml", concepts if isinstance(concepts, str) else json.dumps(concepts))
    return read_concepts(parse_config([*FLAGS, "--concepts=list.yaml", "--train_data_dir=images", *flags]))


def faults(concepts, *flags):
    with pytest.raises(ConceptListError) as caught:
        listed(concepts, *flags)
    assert "\n".join(caught.value.faults) == str(caught.value)
    return list(caught.value.faults)


def test_all_faults_of_all_concepts_are_told_at_once(here):
    text = """
- name: cat
  max_train_steps: many
  lerning_rate: 1
- name: dog
  resolution: 64
  seed: {a: 1}
- name: hat
  train_data_dir: image
- good
"""
    assert faults(text) == [
        "concept cat (list.yaml:3): max_train_steps: expected a whole number >= 1, auto, or null, "
        "found 'many'",
        "concept cat (list.yaml:4): unknown key 'lerning_rate'. Did you mean learning_rate?",
        "concept dog (list.yaml:7): seed: expected a single value, found a mapping",
        "concept dog (list.yaml:6): resolution: expected an option of a concept, found one of the run. Set "
        "it for the whole run; of images, a concept may set train_data_dir, image_column, caption_column, "
        "dataset_config_name, dataset_split, center_crop, alpha_mask, mask_dir, unmasked_weight, "
        "interpolation, repeats.",
        "concept hat (list.yaml:9): train_data_dir image: expected images, found no such folder or file. "
        "Relative paths start beside the file that names them, or in the current folder.",
        "concept list.yaml:10: expected a concept as lines of the form `name: value`, found a scalar",
    ]


def test_each_fault_is_a_line_and_the_exit_code_is_2(here, capsys):
    assert exit_code(lambda: listed([{"name": "a", "sed": 1}, {"name": "b", "resolution": 8}])) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: concept ") for line in lines)


def test_what_the_run_says_wrongly_for_all_is_told_once(here):
    concepts = [{"name": "a"}, {"name": "b", "seed": -1}]
    told = faults(concepts, "--learning_rate=0.1:5,0.2:6", "--initializer_token=null")
    assert [line.partition(": expected")[0] for line in told] == [
        "every concept: initializer_token",
        "every concept: learning_rate",
        "concept b (list.yaml:1): seed",
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_what_belongs_to_the_run_is_refused_with_what_a_concept_may_set(here, group):
    options = options_of(GROUPS[group])
    free = [each.name for each in options if each.rule.per_concept]
    assert set(free) <= set(PER_CONCEPT)
    for each in options:
        if not each.rule.per_concept:
            (line,) = faults([{"name": "a", each.name: "x"}])
            assert line.startswith(f"concept a (list.yaml:1): {each.name}: expected an option of a concept, ")
            assert line.endswith(f"of {group}, a concept may set {', '.join(free) or 'nothing'}.")


def test_options_of_the_model_the_machine_and_the_program_are_not_a_concepts():
    of_run = {"resolution", "enable_bucket", "train_batch_size", "gradient_accumulation_steps", "optimizer"}
    of_run |= {"mixed_precision", "loss_type", "flip_p", "output_dir", "hub_token", "push_to_hub"}
    of_run |= {"allow_private_links", "concepts", "extra_embeds", "latents_cache_dir", "host_timeout"}
    assert of_run <= set(OPTIONS) and not of_run & set(PER_CONCEPT)


def test_a_concept_needs_a_name_a_start_and_images(here):
    os.remove("images/1.png")
    told = faults([{"seed": 1}], "--initializer_token=null")
    assert [line.removeprefix("concept list.yaml:1: ").partition(".")[0] for line in told] == [
        'name: expected a name or a placeholder_token, such as "<cat-toy>", found neither',
        "initializer_token: expected a word to start from, such as toy, found none",
        "train_data_dir images: expected images, found an empty folder",
    ]


@pytest.mark.parametrize(
    "name",
    ["a/b", "..", ".a", "a.", "a ", "con", "nul.txt", "a\tb", "a:b", "<a>", "n" * 121, "\ud800", "a\\b"],
)
def test_names_that_are_no_folders_on_every_system_are_refused(here, name):
    told = faults([{"name": name, "placeholder_token": "<a>"}])
    assert any("name: expected a name for the concept's folder" in line for line in told)


@pytest.mark.parametrize("name", ["a", "Cat Toy", "naïve", "猫", "a.b-c_d", "com10"])
def test_other_names_are_taken(here, name):
    assert [each.name for each in listed([{"name": name}]).concepts] == [name]


@pytest.mark.parametrize(("first", "second"), [("cat", "cat"), ("cat", "CAT")])
def test_a_name_is_given_once_whatever_its_case(here, first, second):
    (line,) = faults([{"name": first, "placeholder_token": "<1>"}, {"name": second}])
    assert line == (
        f"concept {second} (list.yaml:1): name: expected a name of its own, whatever its case, found "
        f"'{second}' again, first at list.yaml:1. Leave one of them out, or give it another `name`."
    )


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("<cat>", "<cat>", True),
        ("<cat>", "<CAT>", True),
        ("cat", "cat-toy", True),
        ("cat-toy", "cat", True),
        ("<cat>", "<cat>_1", True),
        ("<cat>", "<cat-toy>", False),
        ("<cat>", "<hat>", False),
    ],
)
def test_words_within_one_another_are_refused(here, first, second, clash):
    concepts = [{"name": "one", "placeholder_token": first}, {"name": "two", "placeholder_token": second}]
    if not clash:
        assert len(listed(concepts).concepts) == 2
        return
    (line,) = faults(concepts)
    assert line.startswith(
        "concept two (list.yaml:1): placeholder_token: expected a word that neither contains one of another "
        f"concept nor is part of it, found '{second}' beside '{first}' of concept one. Give one"
    )


def test_clashes_are_found_among_several_words_of_a_concept():
    """A concept may have several; they are its own matter."""
    assert clashing_words([("a", "ab"), ("x",), ("b",)]) == {2: [(0, "b", "ab")]}
    assert clashing_words([("a",), ("a",), ("a",)]) == {
        1: [(0, "a", "a")],
        2: [(0, "a", "a"), (1, "a", "a")],
    }


def test_clashes_among_thousands_are_found_quickly():
    import time

    words = [(f"<word-{number}>",) for number in range(5000)]
    begun = time.process_time()
    assert clashing_words([*words, ("word-77",)]) == {5000: [(77, "word-77", "<word-77>")] + [
        (place, "word-77", f"<word-{place}>") for place in range(770, 780)
    ]}  # fmt: skip
    assert time.process_time() - begun < 20


def test_an_error_of_one_key_is_not_told_again_of_what_needs_it(here):
    (one, other) = faults([{"name": "a", "class_data_dir": "", "class_prompt": "<a>", "captions": "fils"}])
    assert "class_data_dir: expected text, or null, found " in one
    assert "captions: expected one of none, files" in other and "Did you mean files?" in other


def test_what_contradicts_is_told_with_its_line(here):
    told = faults("- name: a\n  init_embeds: images/1.png\n  lr_scheduler: linear\n  lr_warmup_steps: 9000\n")
    assert [line.partition(".")[0] + line.partition(".yaml")[2][:2] for line in told] == [
        "concept a (list:2",
        "concept a (list:4",
    ]
    assert "init_embeds and initializer_token exclude each other" in told[0]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("nothing", "no such folder or file"),
        ("images/dog", "no such folder or file"),
        ("empty", "an empty folder"),
        ("hollow", "an empty folder"),
        ("empty.png", "an empty file"),
    ],
)
def test_images_that_are_not_there_are_told_before_anything_is_read(here, path, found):
    os.makedirs("hollow/below/.hidden")
    write("hollow/below/.hidden/1.png", "x")
    write("hollow/concept.yaml", "")
    os.mkdir("empty")
    write("empty.png", "")
    for key in ("train_data_dir", "class_data_dir"):
        (line,) = faults([{"name": "a", key: path}])
        assert f"{key} {path}: expected images, found {found}. " in line


def test_other_files_are_looked_for_too(here):
    told = faults([{"name": "a", "template_file": "x.txt", "mask_dir": "masks"}])
    assert ["found no such file" in line for line in told] == [True, True]


# Folders


def folder(*flags):
    return read_concepts(parse_config([*FLAGS, "--concepts=concepts", *flags]))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("- a\n", "expected lines of the form `name: value`, found a sequence"),
        ("a: [\n", "not valid YAML"),
        ("sed: 1\n", "unknown key 'sed'. Did you mean seed?"),
        ("seed: 1\nseed: 2\n", "seed is given twice. Leave one of them out."),
        ("seed: !!python/object:os.system x\n", "seed: expected a plain value, found the YAML tag"),
    ],
)
def test_a_concepts_own_file_that_is_wrong_is_a_fault_of_that_concept(here, content, fault):
    for name in ("cat", "dog"):
        os.makedirs(f"concepts/{name}")
        write(f"concepts/{name}/1.png", "x")
    write("concepts/cat/concept.yaml", content)
    with pytest.raises(ConceptListError) as caught:
        folder()
    (line,) = caught.value.faults
    assert line.startswith("concept cat (concepts/cat/concept.yaml") and fault in line
    left = folder("--skip_bad_concepts")
    assert [each.name for each in left.concepts] == ["dog"] and left.left_out == (line,)


def test_an_empty_file_of_a_concept_says_nothing(here):
    os.makedirs("concepts/cat")
    write("concepts/cat/1.png", "x")
    write("concepts/cat/concept.yaml", "# seed: 1\n")
    assert [each.name for each in folder().concepts] == ["cat"]


def test_a_file_that_would_not_be_read_is_a_fault(here):
    os.makedirs("concepts/cat")
    write("concepts/cat/1.png", "x")
    write("concepts/cat/concept.yml", "seed: 1\n")
    with pytest.raises(
        ConceptListError, match=r"^concept cat \(.*\): expected concept.yaml, found concept.yml"
    ):
        folder()


def test_a_folder_without_folders_is_refused(here):
    os.mkdir("concepts")
    with pytest.raises(
        ConfigError, match="^concepts concepts: expected a sub-folder .*, found nothing. A folder"
    ):
        folder()
    write("concepts/1.png", "")
    with pytest.raises(ConfigError, match=r"found 1.png \(not folders\)"):
        folder()


# Lists


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.yaml",
            "",
            "x.yaml: expected a list of concepts, found an empty file. Begin each concept with `- `.",
        ),
        ("x.yaml", "[]", "concepts x.yaml: expected at least one concept, found an empty list"),
        ("x.yaml", "a: 1", "x.yaml: expected a list of concepts, found a mapping. Begin each"),
        (
            "x.yaml",
            "concepts: []",
            "x.yaml: expected a list of concepts, found a mapping. A file with the key",
        ),
        ("x.json", "{}", "x.json: expected a list of concepts, found a mapping. Put the concepts between"),
        ("x.json", "[", "x.json:1:2: not valid JSON: Expecting value"),
        (
            "x.json",
            '[{"a": 1, "a": 2}]',
            "x.json: not valid JSON: 'a' is given twice in one concept. Give each",
        ),
        ("x.json", "[" * 100_000, "x.json: expected a list of concepts, found brackets within brackets"),
        ("x.json", "[" + "9" * 5000 + "]", "x.json: not valid JSON: Exceeds the limit"),
        (
            "x.yaml",
            "- &a {name: b}\n" + "- *a\n" * 10_000,
            "concepts x.yaml: expected at most 10000 concepts",
        ),
    ],
    ids=range(10),
)
def test_a_file_that_is_no_list_is_refused(here, name, content, message):
    write(name, content)
    with pytest.raises(ConfigError) as caught:
        read_concepts(parse_config([*FLAGS, f"--concepts={name}"]))
    assert str(caught.value).startswith(message)


def test_a_list_that_is_not_there_is_refused(here):
    with pytest.raises(ConfigError, match="^lists.yaml: no such file"):
        read_concepts(parse_config([*FLAGS, "--concepts=lists.yaml"]))
    with pytest.raises(ConfigError, match="^concepts: expected a folder, a file or a list, found null"):
        read_concepts(parse_config([*FLAGS, "--placeholder_token=<a>", "--train_data_dir=images"]))


def test_an_item_of_json_that_is_no_concept_is_a_fault(here):
    items = [5, None, "a", {"name": "a", "seed": {"b": 1}}, {"name": "c", "seed": 1.5}]
    write("x.json", json.dumps(items))
    with pytest.raises(ConceptListError) as caught:
        read_concepts(parse_config([*FLAGS, "--concepts=x.json", "--train_data_dir=images"]))
    assert [line.partition(" place ")[2] for line in caught.value.faults] == [
        "1: expected a concept as lines of the form `name: value`, found a number",
        "2: expected a concept as lines of the form `name: value`, found null",
        "3: expected a concept as lines of the form `name: value`, found text",
        "4): seed: expected a plain value or a list of such, found a mapping",
        "5): seed: expected a whole number >= 0 and <= 4294967295, or null, found 1.5",
    ]


def test_faults_beyond_a_hundred_are_counted(here):
    with pytest.raises(ConceptListError) as caught:
        listed([{"name": f"n{number}", "seed": "x"} for number in range(150)])
    lines = str(caught.value).splitlines()
    assert len(lines) == 101 and len(caught.value.faults) == 150
    assert lines[-1] == "and 50 more faults in the list of concepts"


# Leaving bad ones out


def test_bad_concepts_are_left_out_and_the_others_stay(here):
    concepts = [
        {"name": "a", "sed": 1},
        {"name": "A"},
        {"name": "b"},
        {"name": "B", "placeholder_token": "<c>"},
    ]
    found = listed(concepts, "--skip_bad_concepts")
    assert [each.name for each in found.concepts] == ["A", "b"]
    assert [line.partition(":")[0] for line in found.left_out] == [
        "concept a (list.yaml",
        "concept B (list.yaml",
    ]


def test_a_clash_with_what_is_left_out_is_none(here):
    words = ["<x>", "<x>y", "y"]
    concepts = [{"name": f"n{place}", "placeholder_token": word} for place, word in enumerate(words)]
    assert [each.name for each in listed(concepts, "--skip_bad_concepts").concepts] == ["n0", "n2"]


def test_if_none_is_left_that_is_an_error(here):
    assert faults([{"name": "a", "sed": 1}], "--skip_bad_concepts")[-1] == "no concept is left to teach"


@pytest.mark.parametrize("flag", ["--skip_bad_concepts", "--concepts_at_once=2"])
def test_options_of_lists_need_one(flag):
    given = ["--placeholder_token=<a>", "--train_data_dir=images", flag]
    with pytest.raises(ConfigError, match=r"requires concepts. Set concepts, or leave \w+ out."):
        parse_config([*FLAGS, *given])


def test_a_word_for_all_concepts_is_refused():
    with pytest.raises(ConfigError, match="^placeholder_token and concepts exclude each other"):
        parse_config([*FLAGS, "--concepts=x", "--placeholder_token=<a>"])
