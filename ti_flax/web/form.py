"""What the page's fields say, as the flags of `ti-flax train`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ti_flax.config.flags import make_parser
from ti_flax.config.parse import parse_with_notes
from ti_flax.config.run_config import GROUPS, OPTIONS
from ti_flax.config.values import options_of
from ti_flax.errors import ConfigError
from ti_flax.web.work_folder import WorkFolder

# What the page decides, or what reaches beyond this machine: not for the box of further flags.
_NOT_HERE = {"config", "print_config", "version", "output_dir", "resume_from_checkpoint", "dry_run"}
_NOT_HERE |= {"overwrite_output_dir", "allow_private_links", "use_auth_token"}
_NOT_HERE |= {each.name for group in ("hub", "hosts") for each in options_of(GROUPS[group])}
# What may be a list of other places: of these only folders here, as files would name places for themselves.
_FOLDERS = ("train_data_dir", "class_data_dir", "mask_dir", "concepts")
# `TOKEN=FILE` is an entry of these.
_NAMED_FILES = ("extra_embeds",)
RESUME = "--resume_from_checkpoint=auto"


@dataclass(frozen=True)
class Form:
    """What somebody has filled in; empty fields leave an option at its default.

    Attributes:
      model: of the first field.
      images: the folder of training images, as chosen or written.
      options: name to value of the options that have a field, in the order of the page.
      previews: prompts, a line each.
      captions: whether the captions beside the images are used.
      whole_model: whether the run writes a whole pipeline as well.
      further: flags, as in a shell.
    """

    model: str
    images: str | None
    options: Mapping[str, str | None] = field(default_factory=dict)
    previews: str = ""
    captions: bool = False
    whole_model: bool = False
    further: str = ""

    def arguments(self, work: WorkFolder, output_dir: Path) -> list[str]:
        """The arguments of `ti-flax train`, checked as far as that takes no model and no images.

        Args:
          work: which places may be named.
          output_dir: where the run's files go.

        Raises:
          ConfigError: an option is wrong, or names a place that may not be read or written.
        """
        further = split_flags(self.further)
        flags = [
            f"--pretrained_model_name_or_path={work.model(self.model)}",
            f"--train_data_dir={work.image_folder(self.images)}",
            *(f"--{name}={value.strip()}" for name, value in self.options.items() if value and value.strip()),
            *(f"--validation_prompt={line.strip()}" for line in self.previews.splitlines() if line.strip()),
            *(["--captions=files"] if self.captions else []),
            *([] if self.whole_model else ["--only_save_embeds"]),
            f"--output_dir={output_dir}",
            *further,
        ]
        config, _ = parse_with_notes(flags)
        check_places(work, config.values(), output_dir)
        return ["train", *flags]


def split_flags(text: str) -> list[str]:
    """The words of the box of further flags.

    Raises:
      ConfigError: a quote is open, or a flag is not for this box.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError("further flags", found=str(error).lower()) from None
    if any(word in ("-h", "--help") or word.startswith("--help=") for word in words):
        raise ConfigError("further flags", found="--help", remedy="All options are in docs/options.md.")
    try:
        given, _ = make_parser().parse_known_args(words)
    except ConfigError:
        return words  # the program says what is wrong
    refused = [name for name in vars(given) if name in _NOT_HERE]
    if refused:
        raise ConfigError(
            f"further flags: --{refused[0]}",
            expected="options of the training alone",
            found="one that the page sets itself, or that reaches beyond this machine",
            remedy="Use `ti-flax train` in a shell for it.",
        )
    return words


def check_places(work: WorkFolder, values: Mapping[str, object], output_dir: Path) -> None:
    """Refuses a configuration that would read or write anything outside of the places of the page.

    Args:
      work: the places.
      values: of all options, by name.
      output_dir: of the run; what is named relative to it stays in it.

    Raises:
      ConfigError: names the first option that would.
    """
    for name, text in _places(values):
        if name == "logging_dir":  # which begins in output_dir
            work.inside(str(output_dir / text), name)
        elif OPTIONS[name].rule.path == "output":
            work.inside(text, name)
        else:
            place = work.readable(text, name)
            if name in _FOLDERS and os.path.lexists(place) and not os.path.isdir(place):
                raise ConfigError(name, expected="a folder", found=f"{text!r}, a file that may name others")


def _places(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The options that name places, each with every place that it names."""
    for name, option in OPTIONS.items():
        value = values.get(name)
        if not option.rule.path or value is None:
            continue
        entries: Sequence[object] = value if isinstance(value, list | tuple) else [value]
        for entry in entries:
            if isinstance(entry, str):
                yield name, entry.partition("=")[2] if name in _NAMED_FILES and "=" in entry else entry


def resumed(arguments: Sequence[str]) -> list[str]:
    """The arguments with which a run goes on."""
    return [*(each for each in arguments if each != RESUME), RESUME]


def shown(arguments: Sequence[str]) -> str:
    """A command as people copy it into a shell."""
    return f"ti-flax {shlex.join(arguments)}"
