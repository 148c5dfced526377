"""The flags of the command line, and their help."""

import argparse
import shutil
import textwrap
import typing

from ti_flax.config.conditions import asked_of_others
from ti_flax.config.run_config import GROUPS, OPTIONS
from ti_flax.config.values import Option, Rule, options_of
from ti_flax.console.arguments import ArgumentParser
from ti_flax.errors import ConfigError, nearest

# Flags of the diffusers scripts that have nothing to switch here: name, type and why.
_REFERENCE_ONLY: dict[str, tuple[type, str]] = {
    "enable_xformers_memory_efficient_attention": (
        bool,
        "xFormers is a PyTorch library; XLA compiles the attention itself",
    ),
    "dataloader_num_workers": (
        int,
        "images are encoded once before training, so nothing is loaded during it",
    ),
    "allow_tf32": (
        bool,
        "JAX chooses the precision of float32 products; the variable JAX_DEFAULT_MATMUL_PRECISION sets it",
    ),
    "local_rank": (int, "one process drives all devices of a machine, so processes have no rank"),
    "no_safe_serialization": (
        bool,
        "learned_embeds.safetensors and learned_embeds.bin are both written, always",
    ),
    "save_as_full_pipeline": (bool, "the full pipeline is written unless only_save_embeds is given"),
    "use_8bit_adam": (
        bool,
        "the optimizer has state for the new rows alone, kilobytes of float32, so 8 bits would save nothing",
    ),
    "use_auth_token": (bool, "the token of `hf auth login` is used by itself"),
}
REFERENCE_ONLY: dict[str, Option] = {
    name: Option(name=name, kind=kind, rule=Rule(help=reason), default=None)
    for name, (kind, reason) in _REFERENCE_ONLY.items()
}
# What the value of a flag may be.
_EXPECTED = {f"--{name}": each.expected for name, each in {**OPTIONS, **REFERENCE_ONLY}.items()}
_EXPECTED["--config"] = "the name of a file"

_DESCRIPTION = (
    "Teach Stable Diffusion a new word from a few images (Textual Inversion). Every option is both a flag "
    "and a key of the YAML file; a flag overrides the file. Relative paths start at the current folder; what "
    "a file names to be read is looked for beside the file first. The value null unsets an option again."
)
_EPILOG = "Try it: %(prog)s --config configs/demo.yaml"

_BRIEF_DESCRIPTION = "Teach Stable Diffusion a new word from a few images (Textual Inversion)."
_BRIEF_EPILOG = """\
examples:
  {init} --object my-cat --initializer_token cat
  %(prog)s --config my-cat.yaml --dry_run
  %(prog)s --config configs/cat.yaml --train_data_dir my-cat \\
    --placeholder_token "<my-cat>" --initializer_token cat

The first writes my-cat.yaml for the images in the folder my-cat.
All {count} options: --help all. Some of them: --help and a word, such as
--help learning_rate or --help loss. With explanations: docs/options.md."""

# What --help prints every option for.
ALL = "all"


class _Formatter(argparse.HelpFormatter):
    """Two columns, at most 100 characters wide, values such as text-inversion-model in one piece."""

    def __init__(self, prog: str):
        width = min(shutil.get_terminal_size().columns, 100) - 2
        super().__init__(prog, max_help_position=34, width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        *short, long = action.option_strings  # the value once, behind the long name
        value = super()._format_action_invocation(action).rpartition(long)[2]
        return ", ".join([*short, long]) + value

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


class _BriefFormatter(_Formatter):
    """The same with the lines of the epilog as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(f"{indent}{line}" for line in text.splitlines(keepends=True))


class _Help(argparse.Action):
    """Prints the help that is asked for and ends the program, whatever else is wrong with the flags."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: typing.Any, *_: object
    ) -> typing.NoReturn:
        print(help_text(values or "", parser.prog), end="")
        raise SystemExit(0)


def help_text(word: str = "", prog: str | None = None) -> str:
    """Return what `--help WORD` prints.

    Args:
      word: empty for the options that most people need, `all`, the name of a group, or a part of the names
        of options.
      prog: name of the program.

    Raises:
      ConfigError: no group and no option has the word in its name.
    """
    if not word:
        return _brief_help(prog)
    if word == ALL:
        return make_parser(prog).format_help()
    wanted = named_by(word)
    parser = _bare_parser(prog, usage=argparse.SUPPRESS)
    _add_groups(parser, wanted)
    return parser.format_help()


def named_by(word: str) -> list[str]:
    """Return the options of the group of this name, the option of this name, or all with it in their names.

    Raises:
      ConfigError: there is none.
    """
    plain = word.strip().lstrip("-").lower().replace("-", "_")
    names = [each.name for kind in GROUPS.values() for each in options_of(kind)]
    if plain in names or plain in GROUPS:
        return [plain] if plain in names else [each.name for each in options_of(GROUPS[plain])]
    found = [name for name in names if plain and plain in name]
    if not found:
        close = nearest(plain, [ALL, *GROUPS, *names])
        raise ConfigError(
            "--help",
            expected="nothing, all, or a word of the name of an option or a group",
            found=repr(word),
            remedy=f"Did you mean --help {close}?" if close else f"Groups: {', '.join(GROUPS)}.",
        )
    return found


def _brief_help(prog: str | None) -> str:
    options = [each for kind in GROUPS.values() for each in options_of(kind)]
    installed = prog is None or prog.startswith("ti-flax")
    init = "ti-flax init" if installed else "python scripts/write_config.py"
    epilog = _BRIEF_EPILOG.format(count=len(options), init=init)
    parser = _bare_parser(prog, description=_BRIEF_DESCRIPTION, epilog=epilog, formatter=_BriefFormatter)
    section = parser.add_argument_group("what most people need")
    section.add_argument(
        "--config", metavar="FILE.yaml", help="options in a file, one a line; flags win over them"
    )
    for option in options:
        if option.rule.brief:
            default = f" ({option.default_text})" if not option.required and not option.empty else ""
            _add(section, option, f"{option.rule.brief}{default}")
    return parser.format_help()


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return a parser that leaves out flags that are not given, and keeps the others as text."""
    parser = _bare_parser(prog, description=_DESCRIPTION, epilog=_EPILOG)
    _add_general(parser)
    _add_groups(parser)
    section = parser.add_argument_group(
        "accepted from the diffusers scripts, without effect, each with a note"
    )
    for option in REFERENCE_ONLY.values():
        reason = option.rule.help
        _add(section, option, f"{reason[0].upper()}{reason[1:]}.")
    return parser


def _bare_parser(
    prog: str | None,
    *,
    usage: str = "%(prog)s [--config FILE.yaml] [--name value ...]",
    description: str = "",
    epilog: str = "",
    formatter: type[_Formatter] = _Formatter,
) -> argparse.ArgumentParser:
    return ArgumentParser(
        expected=_EXPECTED,
        all_help=f"--help {ALL}",
        prog=prog or "ti-flax train",
        usage=usage,
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        add_help=False,
        formatter_class=formatter,
    )


def _add_groups(parser: argparse.ArgumentParser, wanted: typing.Collection[str] | None = None) -> None:
    """Adds the options of all groups, or those that are wanted."""
    for group, kind in GROUPS.items():
        options = [each for each in options_of(kind) if wanted is None or each.name in wanted]
        section = parser.add_argument_group(f"{group}: {_summary(kind)}")
        for option in options:
            _add(section, option, _help_of(option))


def _summary(kind: type) -> str:
    line = (kind.__doc__ or "").splitlines()[0].rstrip(".")
    return line[0].lower() + line[1:] if not line.startswith("Adam") else line


def _add_general(parser: argparse.ArgumentParser) -> None:
    section = parser.add_argument_group("general")
    section.add_argument(
        "--config",
        action="append",
        metavar="FILE.yaml",
        help="Configuration file; may be given several times, the last one wins.",
    )
    section.add_argument(
        "-h",
        "--help",
        nargs="?",
        action=_Help,
        metavar="WORD",
        help="Show what most people need and exit, or all, or the options with a word in their names.",
    )
    section.add_argument(
        "--print_config", action="store_true", help="Print the resulting configuration as YAML and exit."
    )
    section.add_argument("--version", action="store_true", help="Print the version and exit.")


def _add(section: argparse._ArgumentGroup, option: Option, text: str) -> None:
    metavar, text = option.metavar, text.replace("%", "%%")
    if option.kind is not bool:
        # Of repeated flags of a word the last counts, as of those that have one value.
        action = "append" if option.many and not option.rule.per_word else "store"
        nargs = "+" if option.rule.per_word else None
        section.add_argument(f"--{option.name}", action=action, nargs=nargs, metavar=metavar, help=text)
        return
    names = [f"-{option.rule.short}"] if option.rule.short else []
    section.add_argument(*names, f"--{option.name}", nargs="?", const="true", metavar=metavar, help=text)
    section.add_argument(
        f"--no_{option.name}",
        dest=option.name,
        action="store_const",
        const="false",
        help=argparse.SUPPRESS,
    )


def _help_of(option: Option) -> str:
    rule = option.rule
    sentence = rule.help.rstrip(".")
    if option.choices and rule.metavar:
        sentence = f"{sentence}: {', '.join(option.choices)}"
    several = "; may have a value for each word" if rule.per_word else "; may be given several times"
    sentence += several if option.many else ""
    sentence += f"; {asked}" if (asked := asked_of_others(option)) else ""
    sentence += "; per concept" if rule.per_concept else ""
    if option.required:
        return f"{sentence}. (required)"
    return f"{sentence}. (default: {option.default_text})"
