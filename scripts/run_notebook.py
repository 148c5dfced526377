"""Run the notebook in a fresh kernel, with other values in its fields, and keep a copy with its output.

    python scripts/run_notebook.py docs/notebook.ipynb
    python scripts/run_notebook.py executed.ipynb --set steps=20 images_of_a_prompt=1

Values are Python's, as in the fields of notebooks/textual_inversion.ipynb; what is no Python is a text.
"""

import argparse
import ast
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import ConfigError  # noqa: E402
from ti_flax.files.atomic import write_text  # noqa: E402

NOTEBOOK = ROOT / "notebooks" / "textual_inversion.ipynb"
# Seconds that a cell may take.
PATIENCE = 1800


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="FILE", type=Path, help="the executed notebook")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", nargs="+", default=[], help="values of fields in place of those there"
    )
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Runs the notebook and writes the executed copy.

    Raises:
      ConfigError: the notebook has no such field.
    """
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    set_fields(notebook, dict(assignment(text) for text in options.set))
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
        write_text(options.output, without_paths(nbformat.writes(notebook), Path(folder)) + "\n")
    print(f"{options.output}: {options.output.stat().st_size / 1024:.0f} KB")


def assignment(text: str) -> tuple[str, Any]:
    """A field's name and its new value."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def set_fields(notebook: Any, values: Mapping[str, Any]) -> None:
    """Puts values into the lines `NAME = VALUE  # @param ...` of the cells."""
    for name, value in values.items():
        line, found = re.compile(rf"^{re.escape(name)} = .*?(?=  # @param)", re.MULTILINE), 0
        for cell in notebook.cells:
            cell.source, count = line.subn(
                lambda _, name=name, value=value: f"{name} = {value!r}", cell.source
            )
            found += count
        if not found:
            raise ConfigError(f"--set {name}", expected="a field of the notebook", found="no such field")


def execute(notebook: Any, folder: Path) -> None:
    """Runs all cells in a folder, in a kernel that finds this checkout; the first failure raises."""
    from nbclient import NotebookClient

    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    client = NotebookClient(
        notebook,
        timeout=PATIENCE,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    # tqdm wants ipywidgets, which Colab has.
    client.execute(env=os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore:IProgress not found"})


def without_paths(text: str, folder: Path) -> str:
    """The text without the folders that this machine alone has."""
    for place in (folder.resolve(), folder, ROOT):
        text = text.replace(f"{place}/", "")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
