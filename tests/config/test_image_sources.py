"""Sources of images with options of their own: how they are written, kept and refused."""

import json

import jsonschema
import pytest
import yaml

from ti_flax.config import RunConfig, parse_config
from ti_flax.config.concept_entry import SOURCES as OPTION
from ti_flax.config.run_config import OPTIONS
from ti_flax.config.schema import config_schema
from ti_flax.errors import ConfigError

GIVEN = {
    "pretrained_model_name_or_path": "model",
    "placeholder_token": "<cat>",
    "initializer_token": "cat",
    "output_dir": "out",
}
SOURCES = [
    "cats",
    {"path": "more", "repeats": 3, "flip_p": 0, "center_crop": True, "learnable_property": "style"},
]


def written(folder, text):
    """The configuration of a file with these lines."""
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(GIVEN) + text)
    return parse_config(["--config", str(folder / "run.yaml")])


LINES = """\
train_data_dir:
  - cats
  - path: more
    repeats: 3
    captions: filename
    caption_prefix: "drawn, "
repeats: [5, 7]
"""


def test_a_file_names_paths_and_mappings(tmp_path):
    (tmp_path / "files" / "more").mkdir(parents=True)
    config = written(tmp_path / "files", LINES)
    assert config.images.source_paths == ("cats", str(tmp_path / "files" / "more"))
    assert config.images.of_each_source("repeats") == (5, 3)
    assert config.images.of_each_source("flip_p") == (0.5, 0.5)
    first, second = config.of_source(0), config.of_source(1)
    assert first.images.repeats == (5,) and second.images.repeats == (3,)
    assert first.prompts == config.prompts and second.prompts.captions == "filename"
    assert second.prompts.caption_prefix == "drawn, " and second.images.train_data_dir[0].endswith("more")


def test_one_mapping_is_a_source_too(tmp_path):
    config = written(tmp_path, "train_data_dir: {path: cats, flip_p: 0}\n")
    assert config.images.source_paths == ("cats",) and config.images.of_each_source("flip_p") == (0,)


def test_what_is_kept_makes_the_same_run(tmp_path):
    config = RunConfig.from_dict({**GIVEN, "train_data_dir": SOURCES})
    assert config.to_dict()["train_data_dir"] == SOURCES
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    (tmp_path / "same.yaml").write_text(config.to_yaml())
    assert parse_config(["--config", str(tmp_path / "same.yaml")]).to_dict() == config.to_dict()
    assert "cats, more" in config.describe()


def test_templates_of_a_source_replace_those_of_the_run():
    source = {"path": "more", "prompt_template": ["a {}"]}
    config = RunConfig.from_dict({**GIVEN, "templates": "style", "train_data_dir": ["cats", source]})
    assert config.of_source(0).prompts.templates == "style"
    assert config.of_source(1).prompts.templates is None
    assert config.of_source(1).prompts.prompt_template == ("a {}",)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{path: a, repeat: 3}", r"train_data_dir a \(.*run.yaml:\d\): repeat: .*Did you mean repeats\?"),
        (
            "{path: a, resolution: 64}",
            "a .*: resolution: .* Set it for the whole run; a source may set path, rep",
        ),
        ("{path: a, repeats: many}", "a .*: repeats: expected a whole number >= 1"),
        ("{path: a, repeats: [1, 2]}", "a .*: repeats: expected one number, found 2"),
        ("{path: a, flip_p: 2}", "a .*: flip_p: expected a number >= 0 and <= 1"),
        ("{repeats: 3}", "train_data_dir 1 .*: path: expected where the images are, found nothing"),
        ("{path: a, shuffle_caption: true}", "a .*: shuffle_caption does nothing without captions"),
        ("{path: a, captions: caption_file}", "a .*: captions caption_file requires caption_file"),
        ("{path: a, path: b}", "path is given twice"),
        ("[{path: a}, [b]]", "expected a single value, found a sequence"),
    ],
)
def test_what_a_source_cannot_have_is_said_with_its_name(tmp_path, source, message):
    with pytest.raises(ConfigError, match=message) as caught:
        written(tmp_path, f"train_data_dir: {source}\n")
    assert "\n" not in str(caught.value)


def test_editors_know_what_a_source_may_have():
    schema = config_schema()
    jsonschema.validate({"train_data_dir": SOURCES}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"train_data_dir": [{"path": "a", "resolution": 64}]}, schema)


def test_the_option_whose_values_may_be_mappings_is_the_one_that_concepts_may_give_so():
    assert [name for name, option in OPTIONS.items() if option.mixed] == [OPTION]
