"""What `--help` prints, of all options or of some, and how much a run says."""

import re

import pytest

from ti_flax.commands import train
from ti_flax.config import parse_config
from ti_flax.config.flags import REFERENCE_ONLY, help_text
from ti_flax.config.run_config import GROUPS, OPTIONS
from ti_flax.config.values import options_of
from ti_flax.console.messages import Level
from ti_flax.errors import ConfigError

REQUIRED = [
    "pretrained_model_name_or_path",
    "train_data_dir",
    "placeholder_token",
    "initializer_token",
]


def error_of(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(list(argv))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_quiet_and_verbose_have_a_letter_each(capsys):
    required = ["--pretrained_model_name_or_path=m", "--train_data_dir=d", "--placeholder_token=<t>"]
    required += ["--initializer_token=toy"]
    levels = [parse_config([*required, *flags]).monitoring.level for flags in ([], ["-q"], ["-v"])]
    assert levels == [Level.NORMAL, Level.ALWAYS, Level.DETAIL]
    capsys.readouterr()
    parse_config([*required, "--validation_steps=5", "--quiet"])
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match="^quiet and verbose exclude each other"):
        parse_config([*required, "-q", "-v"])


def helped(*words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_config(["--help", *words])
    assert caught.value.code == 0
    return capsys.readouterr().out


def options_in(text):
    return re.findall(r"^  (?:-\w, )?--(\w+)", text, re.MULTILINE)


def test_help_all_lists_every_option_once(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = helped("all", capsys=capsys)
    listed = options_in(text)
    assert [name for name in listed if name in OPTIONS] == list(OPTIONS)
    assert listed[-len(REFERENCE_ONLY) :] == list(REFERENCE_ONLY)
    assert all(f"\n{group}: " in text for group in GROUPS)
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.partition("\n\n")[0]) < 80  # the usage line


def test_help_fits_on_one_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = helped(capsys=capsys)
    lines = text.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    listed = options_in(text)
    assert {"config", *REQUIRED, "learnable_property", "output_dir", "max_train_steps"} <= {*listed}
    assert listed[1:] == [name for name, option in OPTIONS.items() if option.rule.brief]
    assert "--help all" in text and f"All {len(OPTIONS)} options" in text
    examples = text.replace("\\\n", "").split("examples:\n")[1].split("\n\n")[0].splitlines()
    starts = ["ti-flax init --object ", "ti-flax train --config ", "ti-flax train --config "]
    assert all(line.strip().startswith(start) for line, start in zip(examples, starts, strict=True))


@pytest.mark.parametrize(
    ("word", "listed"),
    [
        ("learning_rate", ["learning_rate"]),
        ("--learning-rate", ["learning_rate"]),
        ("hosts", [each.name for each in options_of(GROUPS["hosts"])]),
        ("huber", ["huber_c", "huber_schedule"]),
    ],
)
def test_help_of_a_word(word, listed, capsys):
    text = help_text(word)
    assert options_in(text) == listed
    assert "usage" not in text
    with pytest.raises(SystemExit):
        parse_config([f"--help={word}"])
    assert capsys.readouterr().out == text


def test_help_is_printed_whatever_else_is_wrong(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--sed=1", "--help"])
    assert "examples:" in capsys.readouterr().out


def test_a_word_that_no_option_has_is_refused(capsys):
    expected = "--help: expected nothing, all, or a word of the name of an option or a group, found "
    assert (
        error_of("--help", "lerning_rate") == f"{expected}'lerning_rate'. Did you mean --help learning_rate?"
    )
    assert error_of("--help", "qqq").startswith(f"{expected}'qqq'. Groups: model, ")
    assert train.main(["--help", "qqq"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
