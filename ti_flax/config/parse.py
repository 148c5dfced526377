"""Command line and configuration files -> RunConfig, before anything heavy is imported."""

import os
import pathlib
import sys
import typing

from ti_flax.config.conditions import holds, in_words
from ti_flax.config.file_values import beside, concept_in_file, value_in_file
from ti_flax.config.flags import REFERENCE_ONLY, make_parser
from ti_flax.config.options import ADAM_OPTIONS, DIRECTIONAL, FINDS_ITS_RATE, WITHOUT_WARMUP
from ti_flax.config.presets import layered
from ti_flax.config.run_config import GROUPS, OPTIONS, RunConfig, missing_options
from ti_flax.config.values import Option, value_from_text
from ti_flax.config.words import notes_on_word
from ti_flax.config.yaml_file import Entry, read_yaml
from ti_flax.console.versions import __version__
from ti_flax.errors import ConfigError

_KNOWN: dict[str, Option] = {**OPTIONS, **REFERENCE_ONLY}


def load_config(*files: str | os.PathLike[str], **options: object) -> RunConfig:
    """Make a configuration from YAML files and Python values.

    Args:
      files: configuration files; a later one overrides an earlier one.
      options: option name to value, such as `max_train_steps=500`; they override the files.

    Raises:
      ConfigError: an option is unknown, missing, mistyped or contradictory.
    """
    layers = _layers_of_files(os.fspath(file) for file in files)
    given = {
        name: str(value) if isinstance(value, pathlib.Path) else value for name, value in options.items()
    }
    known = ({name: layer[name] for name in layer if name in OPTIONS} for layer in layers)
    return RunConfig.from_dict(layered([*known, given]))


def parse_config(argv: typing.Sequence[str] | None = None, prog: str | None = None) -> RunConfig:
    """Make the configuration of a run; what the user should know goes to stderr, a line each.

    Args:
      argv: arguments after the program's name; None takes them from `sys.argv`. Flags override
        files, a later file overrides an earlier one.
      prog: name of the program, for its help.

    Raises:
      ConfigError: an option is unknown, missing, mistyped or contradictory.
      SystemExit: with code 0, after `--help`, `--version` or `--print_config`.
    """
    config, lines = parse_with_notes(argv, prog)
    print_notes(config, lines)
    return config


def parse_with_notes(
    argv: typing.Sequence[str] | None = None, prog: str | None = None
) -> tuple[RunConfig, list[str]]:
    """Make the configuration of a run as `parse_config` does, and return the notes in place of printing them.

    Before `--print_config` prints, they are printed here.
    """
    arguments = vars(make_parser(prog).parse_args(argv))
    if arguments.pop("version", False):
        print(f"ti_flax {__version__}")
        raise SystemExit(0)
    print_config = arguments.pop("print_config", False)
    layers = _layers_of_files(arguments.pop("config", []))
    layers.append({name: _value_of_flag(_KNOWN[name], text) for name, text in arguments.items()})
    written, values = {name for layer in layers for name in layer}, layered(layers)
    _require(values)
    if values.get("save_as_full_pipeline") and values.get("only_save_embeds"):
        raise ConfigError("save_as_full_pipeline and only_save_embeds exclude each other; leave one out")
    config = RunConfig.from_dict({name: value for name, value in values.items() if name in OPTIONS})
    lines = notes(config, written)
    if print_config:
        print_notes(config, lines)
        print(config.to_yaml(), end="")
        raise SystemExit(0)
    return config, lines


def print_notes(config: RunConfig, lines: typing.Iterable[str]) -> None:
    """Print what the user should know to stderr, a line each; nothing where only errors are wanted."""
    for line in () if config.monitoring.quiet else lines:
        print(f"note: {line}", file=sys.stderr)


def _layers_of_files(files: typing.Iterable[str]) -> list[dict[str, object]]:
    """What each of the files says, in order."""
    layers = []
    for file in files:
        folder = os.path.dirname(os.path.expanduser(file))
        listed = [name for name, option in _KNOWN.items() if option.listed]
        mixed = [name for name, option in _KNOWN.items() if option.mixed]
        entries = read_yaml(file, known=_KNOWN, groups=GROUPS, listed=listed, mixed=mixed)
        layers.append({name: _value_in_file(_KNOWN[name], entry, folder) for name, entry in entries.items()})
    return layers


def _value_in_file(option: Option, entry: Entry, folder: str) -> object:
    if option.listed and entry.items:
        return tuple(concept_in_file(each, folder) for each in entry.items)
    value = value_in_file(option, entry, folder)
    return beside(folder, value) if option.rule.path == "input" else value


def _value_of_flag(option: Option, text: str | list[str]) -> object:
    if text in ("null", ["null"]) and option.nullable:
        return None
    if isinstance(text, list):
        return tuple(_value_of_flag(option.one, each) for each in text)
    return value_from_text(option, text, f"--{option.name}")


def _require(values: typing.Mapping[str, object]) -> None:
    missing = missing_options(values)
    if missing:
        raise ConfigError(
            f"missing: {', '.join(missing)}",
            remedy="Give each as a flag (--name value) or as a key of the --config file; "
            "--config configs/demo.yaml has them all.",
        )


def notes(config: RunConfig, given: typing.Collection[str]) -> list[str]:
    """Return what the user should know about options that do not do what one might think.

    Args:
      config: the finished configuration.
      given: names written by the user, on the command line or in a file.
    """
    lines = [
        f"{name} does nothing here: {REFERENCE_ONLY[name].rule.help}"
        for name in REFERENCE_ONLY
        if name in given
    ]
    lines += [line for word in config.concept.words for line in notes_on_word(word)]
    if config.model.mixed_precision == "fp16":
        lines.append("mixed_precision fp16 runs as bf16: the same size, and no loss scaling needed")
    if config.optimizer.learning_rate == 0:
        lines.append("learning_rate 0 learns nothing: the result is the initializer's embedding")
    if "num_train_epochs" in given and config.training.max_train_steps is not None:
        lines.append(
            f"num_train_epochs does nothing while max_train_steps is {config.training.max_train_steps}; "
            "--max_train_steps=null counts epochs"
        )
    if "lr_warmup_steps" in given and config.optimizer.lr_warmup_steps and _is_constant(config):
        lines.append(
            f"lr_warmup_steps does nothing with lr_scheduler {config.optimizer.lr_scheduler}; "
            "constant_with_warmup uses it"
        )
    lines += _without_effect(config, given)
    optimizer, rate = config.optimizer.optimizer, config.optimizer.learning_rate
    if optimizer in FINDS_ITS_RATE and isinstance(rate, float) and not 0.1 <= rate <= 10:
        lines.append(
            f"optimizer {optimizer} finds the size of its steps: learning_rate is usually 1, not {rate:g}"
        )
    if optimizer == DIRECTIONAL and isinstance(rate, float) and rate and not 1e-3 <= rate <= 0.1:
        lines.append(
            f"optimizer {optimizer} turns the vectors by learning_rate in radians at every step: it is "
            f"usually 0.01 to 0.02, not {rate:g}"
        )
    if config.monitoring.draws_previews and config.monitoring.validation_epochs is not None:
        lines.append(
            f"validation_epochs is the old spelling: a preview every {config.monitoring.validation_epochs} x "
            "images x repeats steps, in place of validation_steps"
        )
    return lines


def _is_constant(config: RunConfig) -> bool:
    return config.optimizer.lr_scheduler in WITHOUT_WARMUP


def _without_effect(config: RunConfig, given: typing.Collection[str]) -> list[str]:
    """A line for each option that somebody gave and that does nothing without another."""
    values, many = config.values(), config.concept_list.concepts is not None
    return [
        f"{name} does nothing without {in_words(condition)}"
        for name in OPTIONS
        if name in given and not (many and OPTIONS[name].rule.per_concept)
        # What a value needs is an error, but for Adam's own options, which commands of other trainers give.
        for condition in (
            *(OPTIONS[name].rule.needs if name in ADAM_OPTIONS else ()),
            OPTIONS[name].rule.only_with,
        )
        if condition and not holds(condition, values, OPTIONS)
    ]
