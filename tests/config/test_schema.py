"""The JSON Schema of configuration files: up to date, and true of what files may hold."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import write_options
import yaml

from ti_flax.config import load_config
from ti_flax.config.flags import REFERENCE_ONLY
from ti_flax.config.run_config import OPTIONS
from ti_flax.config.schema import config_schema

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
CHECK = jsonschema.Draft202012Validator(config_schema())


class Yaml12(yaml.SafeLoader):
    """Reads plain values as editors do, by YAML 1.2: `5e-4` is a number and `no` a text."""

    yaml_implicit_resolvers = {}


for kind, pattern, letters in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+0123456789."),
):
    Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), list(letters))
Yaml12.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))


def faults(text):
    return [error.message for error in CHECK.iter_errors(yaml.load(text, Yaml12))]


def test_the_file_is_what_the_code_says():
    written = write_options.SCHEMA.read_text(encoding="utf-8")
    assert written == write_options.schema(), "run `python scripts/write_options.py`"
    assert json.loads(written) == config_schema()


def test_it_is_a_schema_of_its_draft():
    jsonschema.Draft202012Validator.check_schema(config_schema())
    assert config_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_option_is_in_it_with_its_help():
    properties = config_schema()["properties"]
    assert list(properties) == [*OPTIONS, *REFERENCE_ONLY]
    for name, option in OPTIONS.items():
        assert properties[name]["description"].startswith(option.rule.help.rstrip("."))
    assert properties["train_batch_size"]["default"] == 16
    assert properties["num_vectors"]["default"] == 1 and "default" not in properties["placeholder_token"]
    assert properties["resolution"]["multipleOf"] == 8 and properties["adam_beta1"]["exclusiveMaximum"] == 1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path):
    assert faults(path.read_text(encoding="utf-8")) == []


def test_all_values_of_a_configuration_are_valid():
    config = load_config(ROOT / "configs" / "cat.yaml", placeholder_token=["<a>", "<b>"])
    assert faults(config.to_yaml()) == []


@pytest.mark.parametrize(
    "text",
    [
        "learning_rate: 5e-4",
        'learning_rate: "0.05:50, 0.01"',
        "max_train_steps: auto",
        "max_train_steps: null",
        "mixed_precision: no",
        "validation_prompt: [a cat, a dog]",
        "initializer_token: [toy, null]",
        "concepts: folder",
        "concepts:\n- name: cat\n  num_vectors: 2",
        "concepts:\n- instance_prompt: photo of a <new1> cat\n  instance_data_dir: cat",
        "concepts:\n- name: cat\n  train_data_dir: [cat, {path: more, repeats: 2, center_crop: true}]",
        "train_data_dir: {path: cat, flip_p: 0}",
        "allow_tf32: true",
        "report_to: [tensorboard, wandb]",
    ],
)
def test_what_a_run_takes_is_valid(text):
    assert faults(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "lerning_rate: 1",
        "learning_rate: -1",
        "learning_rate: fast",
        "max_train_steps: often",
        "max_train_steps: 0",
        "max_train_steps: 2147483648",
        "resolution: 100",
        "mixed_precision: bf15",
        "scale_lr: 1",
        "seed: 1.5",
        "output_dir: null",
        'output_dir: " "',
        "validation_prompt: []",
        "train_batch_size: [1, 2]",
        "adam_beta1: 1",
        "concepts:\n- name: cat\n  resolution: 64",
        "concepts:\n- name: cat\n  train_data_dir: {path: cat, flip_p: 0}",
        "concepts: [cat]",
    ],
)
def test_what_a_run_refuses_is_not(text, tmp_path):
    assert len(faults(text)) == 1
