"""Presets: what they stand for, and what wins over them."""

import pathlib

import pytest

from ti_flax import load_config
from ti_flax.config import RunConfig, parse_config
from ti_flax.config.presets import PRESETS, layered
from ti_flax.config.run_config import OPTIONS
from ti_flax.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
NEEDED = {
    "pretrained_model_name_or_path": "model",
    "train_data_dir": "images",
    "placeholder_token": "<cat>",
    "initializer_token": "cat",
    "output_dir": "out",
}


@pytest.fixture
def presets(monkeypatch):
    made = {"quick": {"learning_rate": 0.5, "seed": 1}, "careful": {"learning_rate": 0.25, "use_ema": True}}
    monkeypatch.setattr("ti_flax.config.presets.PRESETS", made)


def parsed(tmp_path, written, *flags):
    file = tmp_path / "run.yaml"
    file.write_text("\n".join(f"{name}: {value}" for name, value in (NEEDED | written).items()))
    config = parse_config(["--config", str(file), *flags]).to_dict()
    return tuple(config[name] for name in ("preset", "learning_rate", "seed", "use_ema"))


@pytest.mark.parametrize(
    ("written", "flags", "expected"),
    [
        ({}, [], (None, 1e-4, None, False)),
        ({"preset": "quick"}, [], ("quick", 0.5, 1, False)),
        ({"learning_rate": "1e-3", "preset": "quick"}, [], ("quick", 1e-3, 1, False)),
        ({"preset": "quick"}, ["--learning_rate=2e-3"], ("quick", 2e-3, 1, False)),
        ({"learning_rate": "1e-3", "seed": 7}, ["--preset=careful"], ("careful", 0.25, 7, True)),
        ({"preset": "quick"}, ["--preset", "careful"], ("careful", 0.25, None, True)),
        ({"preset": "careful"}, ["--preset", "null"], (None, 1e-4, None, False)),
        ({}, ["--preset=quick", "--seed=3"], ("quick", 0.5, 3, False)),
    ],
)
def test_what_wins(presets, tmp_path, written, flags, expected):
    assert parsed(tmp_path, written, *flags) == expected


def test_python_values_win_over_files_as_flags_do(presets, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("\n".join(f"{name}: {value}" for name, value in NEEDED.items()) + "\nlearning_rate: 3\n")
    assert load_config(file).optimizer.learning_rate == 3
    config = load_config(file, preset="quick")
    assert (config.optimizer.learning_rate, config.training.seed) == (0.5, 1)
    assert config.replace(preset="careful").optimizer.learning_rate == 0.25
    assert config.replace(seed=9).optimizer.learning_rate == 0.5


def test_a_configuration_that_was_written_down_says_the_same_again(presets):
    config = RunConfig.from_dict(NEEDED | {"preset": "quick", "seed": 5})
    assert RunConfig.from_dict(config.to_dict()) == config and config.training.seed == 5


def test_no_note_is_said_about_options_that_a_preset_has_written(monkeypatch, capsys):
    monkeypatch.setattr("ti_flax.config.presets.PRESETS", {"quick": {"lr_warmup_steps": 3}})
    flags = [f"--{name}={value}" for name, value in NEEDED.items()]
    parse_config([*flags, "--preset=quick"])
    assert not capsys.readouterr().err
    parse_config([*flags, "--lr_warmup_steps=3"])
    assert "lr_warmup_steps does nothing" in capsys.readouterr().err


def test_an_unknown_preset_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="preset: expected one of quick, balanced, careful") as raised:
        parse_config([f"--{name}={value}" for name, value in NEEDED.items()] + ["--preset=fast"])
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(ConfigError, match="preset"):
        RunConfig.from_dict(NEEDED | {"preset": ["quick"]})


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--snr_gamma=5",
            "snr_gamma and debiased_estimation_loss of preset balanced exclude each other. "
            "Leave snr_gamma out, or set debiased_estimation_loss to false beside the preset.",
        ),
        (
            "--grad_clip_value=1",
            "grad_clip_value and optimizer directional of preset balanced exclude each other. "
            "Leave grad_clip_value out, or choose another optimizer beside the preset.",
        ),
    ],
)
def test_what_a_preset_excludes_is_refused_with_its_name(flag, message):
    needed = [f"--{name}={value}" for name, value in NEEDED.items()]
    with pytest.raises(ConfigError) as raised:
        parse_config([*needed, "--preset=balanced", flag])
    assert str(raised.value) == message
    remedy = {"--snr_gamma=5": "--debiased_estimation_loss=false", "--grad_clip_value=1": "--optimizer=adamw"}
    parse_config([*needed, "--preset=balanced", flag, remedy[flag]])


def test_a_schedule_beside_a_preset_has_no_warmup_of_the_defaults():
    needed = [f"--{name}={value}" for name, value in NEEDED.items()]
    config = parse_config([*needed, "--preset=balanced", "--lr_scheduler=cosine"])
    assert config.optimizer.lr_warmup_steps == 0


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_configuration(name, capsys):
    assert set(PRESETS[name]) <= set(OPTIONS)
    config = parse_config([f"--{key}={value}" for key, value in NEEDED.items()] + ["--preset", name])
    assert {key: config.to_dict()[key] for key in PRESETS[name]} == PRESETS[name]
    assert not capsys.readouterr().err  # no note on options that nobody wrote


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.stem)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_suits_every_configuration(name, file):
    flags = ["--optimizer=adam", "--max_grad_norm=1", "--pull_to_start=0.1", "--embedding_norm=keep"]
    changed = parse_config(["--config", str(file), *flags]).replace(preset=name)
    assert {key: changed.to_dict()[key] for key in PRESETS[name]} == PRESETS[name]
    chosen = parse_config(["--config", str(file), "--preset", name]).optimizer
    # Its rate is what it was measured with: configs/cat.yaml multiplies its own by the samples.
    assert chosen.optimizer == "directional" and not chosen.scale_lr


def test_every_name_of_a_preset_is_a_preset():
    assert set(PRESETS) == set(OPTIONS["preset"].choices)
    assert layered([{"preset": "nobody's"}]) == {"preset": "nobody's"}
