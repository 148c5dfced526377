"""What a vector starts from, and options of schedulers and optimizers."""

import pytest
from required_flags import REQUIRED_FLAGS, parse

from ti_flax.config import parse_config
from ti_flax.errors import ConfigError


def without_start(*flags):
    return [flag for flag in REQUIRED_FLAGS if not flag.startswith("--initializer_token")] + list(flags)


@pytest.mark.parametrize("flag", ["--init_embeds=cat.pt", "--initializer_mode=random"])
def test_a_start_other_than_words_needs_no_word(flag):
    config = parse_config(without_start(flag))
    assert config.concept.initializer_token is None
    assert config.concept.each[0].start == {"--init_embeds=cat.pt": "cat.pt"}.get(flag, "random vectors")
    with pytest.raises(ConfigError, match="missing: initializer_token"):
        parse_config(without_start())


@pytest.mark.parametrize("text", ["0.05:50, 0.01:100, 0.005", '"0.05:50, 0.01:100, 0.005"'])
def test_a_stepped_rate_stays_text(write, text):
    config = parse("--config", write(f"learning_rate: {text}\n"))
    assert config.optimizer.learning_rate == "0.05:50, 0.01:100, 0.005"
    assert parse_config(["--config", write(config.to_yaml(), "again.yaml")]) == config
    assert "learning rate 0.05:50" in config.describe()
    config = parse("--learning_rate=0.05:50, 0.01:100, 0.005")
    assert config.optimizer.learning_rate == "0.05:50, 0.01:100, 0.005"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lr_power=2"], "lr_power does nothing without lr_scheduler polynomial"),
        (["--lr_decay_steps=2"], "lr_decay_steps does nothing without lr_scheduler warmup_stable_decay"),
        (["--lr_scheduler_timescale=2"], "does nothing without lr_scheduler inverse_sqrt"),
        (
            ["--lr_scheduler_min_lr_ratio=.1"],
            "lr_scheduler cosine_with_min_lr, warmup_stable_decay or rex",
        ),
        (["--ema_decay=0.9"], "ema_decay does nothing without use_ema"),
        (
            ["--optimizer=lion", "--adam_beta1=0.9"],
            "adam_beta1 does nothing without optimizer adamw, nadamw, adamaxw, adam",
        ),
        (
            ["--optimizer=prodigy"],
            "optimizer prodigy finds the size of its steps: learning_rate is usually 1",
        ),
        (
            ["--optimizer=directional"],
            "optimizer directional turns the vectors by learning_rate in radians at every step: it is "
            "usually 0.01 to 0.02, not 0.0001",
        ),
    ],
)
def test_options_of_other_schedulers_and_optimizers_are_noted(flags, words, capsys):
    parse(*flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: ") and words in line
