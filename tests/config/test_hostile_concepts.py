"""Lists of concepts that are wrong or mean harm; the last line of what is printed."""

import json
import os

import pytest
from hostile_cases import Case, check, written

from ti_flax.config import parse_config
from ti_flax.config.concept_list import read_concepts


def reading(folder, listed, *flags):
    """Reads a list as a run does before it loads anything."""
    argv = ["--pretrained_model_name_or_path=model", "--initializer_token=toy", "--quiet"]
    argv += [f"--concepts={listed}", f"--train_data_dir={folder / 'pictures'}", *flags]

    def command():
        found = read_concepts(parse_config(argv))
        return f"read: {', '.join(each.name for each in found.concepts)}"

    return command


def concepts(*items, flags=()):
    """A list.yaml of these items."""

    def make(folder):
        written(folder / "pictures" / "1.png", "x")
        return reading(folder, written(folder / "list.yaml", json.dumps(items)), *flags)

    return make


def holding(name, content):
    """A file of this name and content."""

    def make(folder):
        written(folder / "pictures" / "1.png", "x")
        return reading(folder, written(folder / name, content))

    return make


def own_file(content, **others):
    """A folder with one concept, whose concept.yaml has this content."""

    def make(folder):
        written(folder / "concepts" / "cat" / "1.png", "x")
        written(folder / "concepts" / "cat" / "concept.yaml", content)
        for name, text in others.items():
            written(folder / "concepts" / name / "1.png", text)
        return reading(folder, folder / "concepts")

    return make


def empty_folder(folder):
    (folder / "concepts" / "cat").mkdir(parents=True)
    return reading(folder, folder / "concepts")


def own_pipe(folder):
    written(folder / "concepts" / "cat" / "1.png", "x")
    os.mkfifo(folder / "concepts" / "cat" / "concept.yaml")
    return reading(folder, folder / "concepts")


CASES = [
    Case("key", "an unknown key", concepts({"name": "cat", "lerning_rate": 1})),
    Case("type", "a value of another kind", concepts({"name": "cat", "max_train_steps": "many"})),
    Case("of_run", "an option of the run", concepts({"name": "cat", "resolution": 64})),
    Case(
        "nothing_of_it",
        "a group of which nothing is a concept's",
        concepts({"name": "cat", "hub_token": "x"}),
    ),
    Case("links", "a concept that allows private links", own_file("allow_private_links: true\n")),
    Case("nameless", "neither a name nor a word", concepts({"seed": 1})),
    Case("above", "a name that leads out of the folder", concepts({"name": "../cat"})),
    Case("word_above", "the same of a word", concepts({"placeholder_token": "<../../cat>"})),
    Case("device", "a device of Windows", concepts({"name": "nul"})),
    Case("file_of_run", "a name of the run's own files", concepts({"name": "Index.html"})),
    Case("long", "a name of 5,000 letters", concepts({"name": "n" * 5000}), loose="n{20,}"),
    Case("escape", "a name with commands for the terminal", concepts({"name": "\x1b[2J"})),
    Case("twice", "a name twice", concepts({"name": "cat"}, {"name": "Cat"})),
    Case(
        "within",
        "a word within another",
        concepts({"name": "a", "placeholder_token": "cat"}, {"name": "b", "placeholder_token": "cat-toy"}),
    ),
    Case("no_images", "no such images", concepts({"name": "cat", "train_data_dir": "nothing"})),
    Case("nul_path", "a zero byte in a path", concepts({"name": "cat", "train_data_dir": "a\0b"})),
    Case(
        "all_bad", "no concept that is left", concepts({"name": "", "seed": 1}, flags=["--skip_bad_concepts"])
    ),
    Case(
        "one_left",
        "a bad concept that may be left out",
        concepts({"name": "a", "sed": 1}, {"name": "b"}, flags=["--skip_bad_concepts"]),
    ),
    Case("number", "a number in place of a concept", concepts(5)),
    Case("empty", "an empty list", concepts()),
    Case("mapping", "one concept without a list", holding("list.yaml", "name: cat\n")),
    Case("run_file", "the file of a run", holding("list.yaml", "seed: 1\nconcepts: []\n")),
    Case("tag", "a tag that would call a program", holding("list.yaml", "- !!python/object:os.system {}\n")),
    Case("many", "an anchor 20,000 times", holding("list.yaml", "- &a {name: b}\n" + "- *a\n" * 20_000)),
    Case(
        "keys",
        "a concept of 20,000 keys",
        holding("list.yaml", "- {" + ", ".join(f"k{number}: 1" for number in range(20_000)) + "}\n"),
    ),
    Case("json", "JSON that ends too soon", holding("list.json", '[{"name": "cat"')),
    Case("json_deep", "100,000 brackets within one another", holding("list.json", "[" * 100_000)),
    Case("json_twice", "a key twice", holding("list.json", '[{"seed": 1, "seed": 2}]')),
    Case("json_large", "2 MiB of blanks", holding("list.json", " " * 2**21)),
    Case(
        "no_word",
        "a list of Custom Diffusion without a new word",
        holding("list.json", '[{"name": "dog", "instance_prompt": "photo of sks dog"}]'),
    ),
    Case("no_concepts", "a folder of empty folders", empty_folder),
    Case("own_list", "a concept.yaml that is a list", own_file("- seed\n")),
    Case("own_pipe", "a concept.yaml that nobody writes to", own_pipe),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input(case, tmp_path):
    check(case, tmp_path, "test_hostile_concepts")
