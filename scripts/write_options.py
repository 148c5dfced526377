"""Write docs/options.md, the page of all options, and configs/schema.json, their JSON Schema, from the code.

python scripts/write_options.py
python scripts/write_options.py --check
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from ti_flax.config.conditions import asked_of_others  # noqa: E402
from ti_flax.config.run_config import GROUPS  # noqa: E402
from ti_flax.config.schema import config_schema  # noqa: E402
from ti_flax.config.values import Option, options_of  # noqa: E402
from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import OutputError  # noqa: E402

PAGE = ROOT / "docs" / "options.md"
SCHEMA = ROOT / "configs" / "schema.json"
_HEAD = """\
# Options

Every option is a key of a configuration file and, after `--`, a flag of `train_flax.py`; flags win. The value
`null` unsets an option again. In a run with `concepts`, each concept may have a value of its own of an option
marked † ([many-concepts.md](many-concepts.md)). `python scripts/write_options.py` writes this page, and
[configs/schema.json](../configs/schema.json), which says the same to editors (JSON Schema): in a file with a
line `# yaml-language-server: $schema=PATH` they complete keys and mark mistakes.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(section(group, kind) for group, kind in GROUPS.items())])


def schema() -> str:
    """The JSON Schema of a configuration file."""
    return json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n"


def section(group: str, kind: type) -> str:
    """One group of options, as a heading and a table."""
    rows = [
        f"| `{each.name}`{mark(each)} | {values(each)} | {default(each)} | {meaning(each)} |"
        for each in options_of(kind)
    ]
    summary = (kind.__doc__ or "").splitlines()[0]
    head = f"## {group}\n\n{summary}\n\n| option | values | default | meaning |\n|---|---|---|---|"
    return "\n".join([head, *rows, ""])


def mark(each: Option) -> str:
    """The sign of an option of which each concept may have a value of its own."""
    return " †" if each.rule.per_concept else ""


def values(each: Option) -> str:
    """What an option may be set to."""
    plain = dataclasses.replace(each, nullable=False)
    return cell(plain.expected.removeprefix("one of "))


def default(each: Option) -> str:
    """What an option is if it is not set."""
    if each.required:
        return "required"
    return cell(each.default_text)


def meaning(each: Option) -> str:
    """What an option does, in one sentence, and what it asks of others."""
    asked = asked_of_others(each)
    return cell(f"{each.rule.help.rstrip('.')}{'; ' if asked else ''}{asked}.")


def cell(text: str) -> str:
    """Text that does not end a cell, and names in angle brackets that are no HTML."""
    text = text.replace(">= ", "≥ ").replace("<= ", "≤ ")
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if one of them is out of date"
    )
    return parser.parse_args(argv)


def write(options: argparse.Namespace) -> None:
    """Writes page and schema and says where they are, or checks them.

    Raises:
      OutputError: they are to be checked, and one is out of date.
    """
    for path, text in ((PAGE, page()), (SCHEMA, schema())):
        name = path.relative_to(ROOT)
        if options.check and path.read_text(encoding="utf-8") != text:
            remedy = "Run python scripts/write_options.py."
            raise OutputError(name, expected="the options of the code", found="others", remedy=remedy)
        if not options.check:
            path.write_text(text, encoding="utf-8")
        print(name)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: write(parse_arguments())))
