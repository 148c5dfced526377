"""RunConfig and its two sources, the command line and YAML files."""

import dataclasses
import pathlib
import re

import pytest
from required_flags import REQUIRED, REQUIRED_FLAGS, parse

from ti_flax.config import RunConfig, parse_config
from ti_flax.config.flags import REFERENCE_ONLY
from ti_flax.config.picture_size import picture_size
from ti_flax.config.run_config import OPTIONS
from ti_flax.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def error_of(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(list(argv))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def error_in(path: str) -> str:
    return error_of(*REQUIRED_FLAGS, "--config", path).replace(path, "x.yaml")


# Flags of the reference


@pytest.mark.parametrize("name", REFERENCE_ONLY)
def test_flags_without_meaning_here_say_so(name, capsys):
    value = "2" if REFERENCE_ONLY[name].kind is int else "true"
    config = parse(f"--{name}={value}")
    assert config == parse()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {name} does nothing here: ")


def test_flags_without_meaning_are_read_from_files_too(write, capsys):
    path = write("allow_tf32: true\n")
    parse("--config", path)
    assert "allow_tf32" in capsys.readouterr().err
    assert "whole number" in error_in(write("local_rank: first\n"))


# Files and flags


def test_flags_override_files_and_later_files_earlier_ones(write):
    first = write("resolution: 64\nseed: 1\nrepeats: 3\n", "first.yaml")
    second = write("seed: 2\nrepeats: 4\n", "second.yaml")
    config = parse("--repeats=5", "--config", first, "--config", second)
    assert (config.images.resolution, config.training.seed, config.images.repeats) == (64, 2, (5,))


@pytest.mark.parametrize("text", ["5e-4", "5.0e-04", "0.0005", ".0005", "5E-4"])
def test_numbers_in_yaml(write, text):
    config = parse("--config", write(f"learning_rate: {text}  # a comment\n"))
    assert config.optimizer.learning_rate == 5e-4


def test_words_that_yaml_takes_for_something_else(write):
    path = write(
        "mixed_precision: no\nrevision: 0123e45\nscale_lr: yes\ninitializer_token: off\n"
        'placeholder_token: "null"\nvalidation_prompt: null\nmax_train_steps: ~\nseed:\n'
    )
    config = parse_config([*REQUIRED_FLAGS[:2], "--config", path])
    assert (config.model.mixed_precision, config.model.revision) == ("no", "0123e45")
    assert (config.optimizer.scale_lr, config.concept.initializer_token) == (True, ("off",))
    assert config.concept.words == ("null",)
    assert (config.monitoring.validation_prompt, config.training.max_train_steps) == (None, None)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--scale_lr"], True),
        (["--scale_lr", "--repeats=2"], True),
        (["--scale_lr=true"], True),
        (["--scale_lr", "false"], False),
        (["--scale_lr=False"], False),
        (["--no_scale_lr"], False),
        (["--no_scale_lr", "--scale_lr"], True),
    ],
)
def test_boolean_flags(write, flags, expected):
    config = parse("--config", write(f"scale_lr: {str(not expected).lower()}\n"), *flags)
    assert config.optimizer.scale_lr is expected


def test_null_unsets_what_a_file_sets(write):
    path = write("max_train_steps: 10\nvalidation_prompt: a cat\n")
    config = parse("--config", path, "--max_train_steps=null", "--validation_prompt", "null")
    assert config.training.max_train_steps is None
    assert config.monitoring.validation_prompt is None


def test_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = parse("--output_dir=~/runs/1", "--initializer_token=~toy")
    assert config.output.output_dir == "/home/someone/runs/1"
    assert config.concept.initializer_token == ("~toy",)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configurations_parse(path, capsys):
    config = parse_config(["--config", str(path)])
    assert path.read_text().startswith("#")
    assert f"python train_flax.py --config configs/{path.name}" in path.read_text()
    assert config.output.output_dir.startswith("outputs/")
    assert capsys.readouterr() == ("", "")


def test_shipped_configurations_are_there():
    assert [path.name for path in CONFIGS] == [
        "cat.yaml",
        "demo.yaml",
        "many.yaml",
        "sdxl-style.yaml",
        "sdxl.yaml",
        "style.yaml",
    ]


# What is noted


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mixed_precision=fp16"], "fp16 runs as bf16"),
        (["--num_train_epochs=5"], "num_train_epochs does nothing while max_train_steps is 5000"),
        (["--num_train_epochs=5", "--max_train_steps=auto"], "nothing while max_train_steps is auto"),
        (["--lr_warmup_steps=5"], "lr_warmup_steps does nothing with lr_scheduler constant"),
        (["--lr_num_cycles=2"], "lr_num_cycles does nothing"),
        (["--learning_rate=0"], "learning_rate 0 learns nothing"),
        (["--validation_steps=5"], "validation_steps does nothing without validation_prompt"),
        (["--validation_prompt=a", "--validation_epochs=5"], "preview every 5 x images x repeats steps"),
        (["--hub_model_id=a/b"], "hub_model_id does nothing without push_to_hub"),
        (["--hub_strategy=end"], "hub_strategy does nothing without push_to_hub"),
        (["--shuffle_caption"], "shuffle_caption does nothing without captions"),
        (["--caption_prefix=a"], "caption_prefix does nothing without captions"),
        (["--captions=files", "--keep_tokens=2"], "keep_tokens does nothing without shuffle_caption or"),
        (["--caption_extension=.txt"], "caption_extension does nothing without captions files"),
        (["--captions=files", "--filename_pattern=a"], "filename_pattern does nothing without captions file"),
    ],
)
def test_options_without_effect_are_noted(flags, words, capsys):
    parse(*flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: ") and words in line


# RunConfig


def test_dict_round_trip():
    config = parse("--seed=5", "--max_grad_norm=1", "--validation_prompt=a <new>: yes")
    values = config.to_dict()
    assert list(values) == [name for name in OPTIONS if name != "hub_token"]
    assert RunConfig.from_dict(values) == config


@pytest.mark.parametrize(
    "text", ["null", "no", "5", "a: b", "'q'", '"', "*", "ü 猫 🐈", " padded ", "two\nlines"]
)
def test_yaml_round_trip(write, text):
    config = parse("--seed=5", "--learning_rate=5e-4").replace(validation_prompt=text, revision=text)
    assert parse_config(["--config", write(config.to_yaml())]) == config


def test_from_dict_is_strict():
    for values, words in [
        ({"sed": 1}, "unknown key 'sed'. Did you mean seed?"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"center_crop": 1}, "center_crop: expected true or false, found 1"),
        ({"learning_rate": "5e-4"}, "learning_rate: expected a number >= 0, found '5e-4'"),
        ({"repeats": None}, "repeats: expected a whole number >= 1, found null"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(words)) as caught:
            RunConfig.from_dict({**REQUIRED, **values}, "checkpoint")
        assert str(caught.value).startswith("checkpoint: ")
    with pytest.raises(ConfigError, match="checkpoint: missing: train_data_dir"):
        RunConfig.from_dict({k: v for k, v in REQUIRED.items() if k != "train_data_dir"}, "checkpoint")


def test_secrets_stay_secret(write, capsys):
    config = parse("--hub_token=hf_secret", "--push_to_hub")
    assert config.hub.hub_token == config.replace(seed=1).hub.hub_token == "hf_secret"
    shown = [repr(config), str(config.to_dict()), config.to_yaml(), config.describe()]
    shown += [error_of("--hub_tokn=hf_secret"), error_of("--hub_tokn", "hf_secret")]
    shown += [error_in(write("hub_token: [hf_secret]\n")), error_in(write("hub_token: !x hf_secret\n"))]
    with pytest.raises(SystemExit):
        parse("--hub_token=hf_secret", "--print_config")
    with pytest.raises(ConfigError) as caught:
        config.replace(hub_token=b"hf_secret")
    shown += [*capsys.readouterr(), str(caught.value)]
    assert not any("hf_secret" in text for text in shown)


def test_configuration_is_frozen_and_checked():
    config = parse()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.seed = 1  # pyright: ignore
    with pytest.raises(ConfigError, match="num_vectors"):
        dataclasses.replace(config.concept, num_vectors=0)
    assert dataclasses.replace(config.optimizer, max_grad_norm=1).max_grad_norm == 1.0


def test_derived_values():
    assert parse().model.compute_dtype == "float32"
    assert parse("--mixed_precision=fp16").model.compute_dtype == "bfloat16"
    assert parse("--validation_steps=7").validation_interval(epoch_samples=5) == 7
    assert parse("--validation_epochs=2").validation_interval(epoch_samples=50) == 100
    assert "<new>" in parse("--num_vectors=2").describe()


def test_print_config_and_version(capsys, write):
    with pytest.raises(SystemExit):
        parse("--seed=3", "--print_config")
    assert parse_config(["--config", write(capsys.readouterr().out)]) == parse("--seed=3")
    with pytest.raises(SystemExit):
        parse_config(["--version"])
    assert re.fullmatch(r"ti_flax \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_choice_may_be_unset(write):
    assert parse("--templates=style").prompts.templates == "style"
    path = write("templates: style\n")
    assert parse("--config", path, "--templates=null").prompts.templates is None


def test_an_option_of_several_values_comes_from_a_list_or_from_repeated_flags(write):
    path = write("validation_prompt:\n- a cat\n- 'no'\n")
    assert parse("--config", path).monitoring.validation_prompt == ("a cat", "no")
    again = parse("--config", path, "--validation_prompt=x", "--validation_prompt", "y, z")
    assert again.monitoring.validation_prompt == ("x", "y, z")
    assert parse("--validation_prompt=a cat").monitoring.validation_prompt == ("a cat",)
    assert parse("--config", path, "--validation_prompt=null").monitoring.validation_prompt is None
    assert again.to_dict()["validation_prompt"] == ["x", "y, z"]
    assert RunConfig.from_dict(again.to_dict()) == again
    assert parse("--config", write(again.to_yaml())) == again
    with pytest.raises(ConfigError, match="validation_prompt: expected text"):
        again.replace(validation_prompt=[3])
    with pytest.raises(ConfigError, match="validation_prompt: expected text"):
        again.replace(validation_prompt=[])


# Sources, sizes and chunks


def test_a_source_is_one_value_or_several(write):
    assert parse().images.train_data_dir == ("pictures",)
    assert parse().to_dict()["train_data_dir"] == "pictures"
    path = write(SOURCES, "two.yaml")
    two = parse_config(["--config", path]).images
    assert (two.train_data_dir, two.repeats) == (("a", "b"), (3, 1))
    again = parse_config(["--config", path, "--train_data_dir=c", "--train_data_dir", "d"])
    assert again.images.train_data_dir == ("c", "d")
    assert "images    c, d at 512 x 512" in again.describe()
    assert RunConfig.from_dict({**REQUIRED, "train_data_dir": "cats"}).images.train_data_dir == ("cats",)


SOURCES = (
    "train_data_dir: [a, b]\nrepeats: [3, 1]\npretrained_model_name_or_path: m\n"
    "placeholder_token: <new>\ninitializer_token: toy\n"
)


def test_repeats_are_one_number_or_as_many_as_sources():
    with pytest.raises(ConfigError) as caught:
        parse("--repeats=1", "--repeats=2")
    assert str(caught.value) == (
        "repeats: expected one number, or one for each train_data_dir (1), found 2 numbers"
    )
    assert parse("--train_data_dir=a", "--train_data_dir=b", "--repeats=7").images.repeats == (7,)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512x768", (768, 512)), (" 64 X 8 ", (8, 64)), ("16384x8", (8, 16384))]
    + [
        (text, None) for text in ("", "512", "512x", "x", "512x770", "0x8", "16392x8", "8x8x8", "-8x8", "٨x8")
    ],
)
def test_a_size_has_its_width_first(text, size):
    assert picture_size(text) == size


def test_previews_have_the_training_resolution_unless_told_otherwise():
    assert parse("--resolution=256").preview_size == (256, 256)
    found = parse(
        "--validation_size=512x768", "--validation_prompt=a {}", "--validation_negative_prompt=no {}"
    )
    assert found.preview_size == (768, 512)
    assert found.validation_negative_prompt == "no <new>" and parse().validation_negative_prompt == ""
    message = (
        "^validation_size: expected width x height in pixels, multiples of 8 up to 16384, such as 512x768"
    )
    with pytest.raises(ConfigError, match=f"{message}, found '500x500'"):
        parse("--validation_size=500x500")


def test_prompts_have_one_two_or_three_chunks():
    lengths = ([], ["--max_token_length=150"], ["--max_token_length=225"])
    assert [parse(*given).prompts.chunks for given in lengths] == [1, 2, 3]
    for wrong in ("0", "100", "300"):
        with pytest.raises(ConfigError, match="max_token_length: expected a whole number >= 75 and <= 225"):
            parse(f"--max_token_length={wrong}")
