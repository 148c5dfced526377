"""Finds the commands that documents, configurations and programs show, and parses them as those would."""

import ast
import contextlib
import functools
import importlib
import io
import itertools
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ti_flax.commands.main import COMMANDS
from ti_flax.config import parse_config
from ti_flax.config.flags import help_text
from ti_flax.errors import TiFlaxError

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("assets", "benchmarks", "configs", "demo", "docs", "scripts", "tests")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"((?:^ {4}.*\n|(?<=\n) *\n(?= {4}))+)", re.MULTILINE)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_PYTHON = re.compile(r"(.*/)?python[\d.]*")
# Files that a command shown before them writes, and what stands for each.
WRITTEN = {"my-cat.yaml": "configs/demo.yaml"}
FULL_HELP = help_text("all")
_FIRST_WORDS = r"[A-Z_]+=|(\S*/)?python|bash |sh |ti-flax|pytest |pip |\S+\.py "


@dataclass(frozen=True)
class Shown:
    """A program with the arguments that some text shows it with.

    Attributes:
      where: the file that shows it.
      program: path in the repository, or `ti-flax`.
      arguments: what follows it.
      ran: whether it is a whole command, rather than the name of a program with some of its flags.
    """

    where: str
    program: str
    arguments: tuple[str, ...]
    ran: bool = True

    def __str__(self):
        return f"{self.where}: {shlex.join([self.program, *self.arguments])}"


def shown_commands() -> list[Shown]:
    """Returns every command that is shown anywhere, each once for each file."""
    found = []
    for path in _sources():
        where, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        for piece, whole in pieces(path, text):
            found += commands_of(where, piece, whole=whole)
    return list(dict.fromkeys(found))


def _sources() -> list[Path]:
    patterns = ["*.md", "assets/**/*.md", "docs/*.md", "configs/*.yaml", "benchmarks/*", "demo/*.py"]
    patterns += ["scripts/*", "tests/support/*.py", "ti_flax/commands/*.py"]
    return [path for pattern in patterns for path in sorted(ROOT.glob(pattern)) if path.is_file()]


def pieces(path: Path, text: str) -> list[tuple[str, bool]]:
    """Returns the parts of a file that hold commands, and whether they stand outside of a sentence."""
    if path.suffix == ".md":
        return of_markdown(text)
    if path.suffix in (".yaml", ".sh"):
        comments = "\n".join(re.findall(r"^# ?(.*)", text, re.MULTILINE))
        return [(lines, True) for lines in re.findall(r"^ {2,}((?:.*\\\n)*.*)", comments, re.MULTILINE)]
    if path.suffix != ".py":
        return []
    documented = ast.get_docstring(ast.parse(text)) or ""
    name = next((name for name, (module, _) in COMMANDS.items() if module == path.stem), path.stem)
    documented = documented.replace("%(prog)s", f"ti-flax {name}")
    lines = re.findall(rf"^ *((?:{_FIRST_WORDS})(?:.*\\\n)*.*)", documented, re.MULTILINE)
    return [(line[0], True) for line in lines] + _spans(documented)


def of_markdown(text: str) -> list[tuple[str, bool]]:
    """Returns the blocks of a shell, fenced or indented, and the spans that begin like a command."""
    blocks = [block for language, block in _FENCE.findall(text) if language in ("", "sh", "bash", "console")]
    text = _FENCE.sub("", text)
    blocks += _INDENTED.findall(text)
    return [(block, True) for block in blocks] + _spans(_INDENTED.sub("", text))


def _spans(text: str) -> list[tuple[str, bool]]:
    found = []
    for _, inside in _SPAN.findall(text):
        if "`" in inside:
            found += _spans(inside)
        elif re.match(_FIRST_WORDS, inside):
            found.append((" ".join(inside.split()), False))
    return found


def commands_of(where: str, text: str, *, whole: bool = True) -> list[Shown]:
    """Returns the programs that a piece of shell runs.

    In a sentence (`whole` false) only what names its interpreter is a whole command.
    """
    text = re.sub(r"(?m)(^|(?<=\s))#.*$|(?<=\S) {3,}.*$", "", text)
    # A line that begins with a flag goes on with the line before, in YAML as after a backslash.
    text = re.sub(r"\\\n\s*|\n\s*(?=--)", " ", text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    try:
        words = list(lexer)
    except ValueError:  # an apostrophe: prose or a drawing
        return []
    found, command = [], []
    for word in [*words, ";"]:
        if set(word) <= set(";&|()\n"):
            found += _of_words(where, command, whole)
            command = []
        else:
            command.append(word)
    return found


def _of_words(where: str, words: list[str], whole: bool) -> list[Shown]:
    nested = [each for word in words if "\n" in word for each in commands_of(where, word)]
    for index, word in enumerate(words):
        interpreter = _PYTHON.fullmatch(word) or word in ("bash", "sh")
        program, *rest = (words[index + 1 :] if interpreter else words[index:]) or [""]
        if word == "ti-flax" or program.endswith((".py", ".sh")) and (interpreter or index == 0):
            return [
                *nested,
                Shown(where, program, _plain(rest), bool(interpreter) or (whole and word == "ti-flax")),
            ]
    return nested


def _plain(words: list[str]) -> tuple[str, ...]:
    """Puts a number in place of a shell's variables, and leaves out where its output goes."""
    words = list(itertools.takewhile(lambda word: not re.match(r"\d?>", word), words))
    return tuple(re.sub(r"\$\{?\w+\}?", "0", word) for word in words if "\n" not in word)


def complaint(shown: Shown) -> str | None:
    """Returns what is wrong with a command, None if nothing is."""
    missing = [path for path in _paths(shown) if not (ROOT / path).exists()]
    if missing:
        return f"no such file: {missing[0]}"
    if shown.program.endswith(".sh"):
        return None
    if not shown.ran or "..." in shown.arguments:
        return _unknown_flag(shown)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return _parse(shown)
    except TiFlaxError as error:
        return str(error)
    except SystemExit as ended:
        return said.getvalue() if ended.code else None


def _paths(shown: Shown) -> list[str]:
    """The files that have to be there: what Python runs, and what is named in a folder of the repository."""
    own = [shown.program] if shown.ran and shown.program.endswith(".py") else []
    words = [shown.program, *(word.rpartition("=")[2] for word in shown.arguments)]
    return own + [word for word in words if "/" in word and word.split("/")[0] in FOLDERS]


def _parse(shown: Shown) -> str | None:
    """Parses a whole command as its program does; one without a parser of its own has flags in its help."""
    name, arguments = _module(shown), [WRITTEN.get(word, word) for word in shown.arguments]
    if name is None:
        return _unknown_flag(shown)
    module = importlib.import_module(name)
    if shown.program == "ti-flax":
        arguments = arguments[1:]
    if name == "ti_flax.commands.train":
        parse_config(arguments)
        return None
    parsed = module.parse_arguments(arguments) if hasattr(module, "parse_arguments") else (None, arguments)
    if isinstance(parsed, tuple):  # the others are options of the training
        more = [] if "--config" in parsed[1] else ["--config", str(ROOT / "configs" / "demo.yaml")]
        parse_config([*more, *parsed[1]])
    return None


def _module(shown: Shown) -> str | None:
    """The module with a program's parser; None if it has none that may be imported."""
    if shown.program == "ti-flax":
        command = next(iter(shown.arguments), "")
        return f"ti_flax.commands.{COMMANDS[command][0]}" if command in COMMANDS else None
    source = (ROOT / shown.program).read_text(encoding="utf-8")
    face = re.search(r"from (ti_flax\.commands\.\w+) import main", source)
    if face is None and "def parse_arguments(" not in source:
        return None
    return face[1] if face else Path(shown.program).stem


def _unknown_flag(shown: Shown) -> str | None:
    """Checks flags against the help of a program, or of the one program with that name."""
    if shown.program == "ti-flax":
        name = next(iter(shown.arguments), "")
        if name.startswith("--") or not name.islower():  # COMMAND, which stands for any of them
            return None
        if name not in COMMANDS:
            return f"no such command: {name}"
        help_text = help_of("-c", "from ti_flax.commands.main import program; program()", name)
    else:
        paths = sorted(ROOT.glob(shown.program)) or sorted(ROOT.glob(f"*/{shown.program}"))
        if not paths:  # a program of others
            return None
        help_text = help_of(str(paths[0]))
    known = re.findall(r"--\w[\w-]*", help_text)
    flags = [word.partition("=")[0] for word in shown.arguments if word.startswith("--")]
    unknown = [flag for flag in flags if flag not in known]
    return f"no flag of it: {unknown[0]}" if unknown else None


@functools.cache
def help_of(*program: str) -> str:
    """Returns what a program prints for `--help`, with all options of the training where it takes those."""
    command = [sys.executable, *program, "--help"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    training = re.search(r"options are those of (train_flax\.py|ti-flax train)", text, re.IGNORECASE)
    return text + FULL_HELP if training or Path(program[0]).name == "train_flax.py" else text
