"""Wrong and hostile input: how a case is given to the program, and the page that lists what happens.

`python tests/support/hostile_cases.py` runs every case and writes tests/bad-input.md. The tests hold the
program to the lines that stand there.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import environment  # noqa: F401  # the folders that tests import from
import pytest
from tiny_folder import write_folder, write_images

import train_flax
from ti_flax.config import yaml_file
from ti_flax.console.program import exit_code
from ti_flax.files import text as text_files

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS / "bad-input.md"
# Test files with cases, in the order of the page, and what their chapter is called there.
CHAPTERS = (
    ("test_hostile_config", "The configuration"),
    ("test_hostile_concepts", "A list of concepts"),
    ("test_hostile_images", "Images"),
    ("test_hostile_captions", "Captions and prompts"),
    ("test_hostile_models", "Models: configs and tokenizers"),
    ("test_hostile_weights", "Models: weights"),
    ("test_hostile_embeddings", "Embeddings"),
    ("test_hostile_mixing", "Two embeddings to mix"),
    ("test_hostile_words", "Words and places to write to"),
    ("test_hostile_folders", "Output folders with something in them"),
    ("test_hostile_report", "The folder of a stranger's run, given to make_report.py"),
)
# Of a processor; nothing that is refused comes near.
MOST_SECONDS = 60.0
ELLIPSIS = "…"


@dataclass(frozen=True)
class Case:
    """One wrong input.

    Attributes:
      name: of the test.
      given: what is wrong, for users.
      make: writes what is wrong into an empty folder, and returns what is to be run. That gives the lines
        of a run that went well, or an exit code.
      loose: expression for what other versions of libraries say otherwise.
      memory: bytes that it may take; more where a whole run is compiled.
    """

    name: str
    given: str
    make: Callable[[Path], Callable[[], str | int]]
    loose: str = ""
    memory: int = 2**30


@functools.cache
def place() -> Path:
    """A folder with a tiny model and three images, which no case changes."""
    folder = Path(tempfile.mkdtemp(prefix="ti_flax-hostile-"))
    write_folder(folder / "model")
    write_images(folder / "pictures")
    return folder


def train(folder: Path, *more: str, **changes: object) -> Callable[[], int]:
    """A run of train_flax.py, with the tiny model and images where nothing else is said."""
    options = {
        "pretrained_model_name_or_path": place() / "model",
        "train_data_dir": place() / "pictures",
        "placeholder_token": "<thing>",
        "initializer_token": "toy",
        "resolution": 32,
        "max_train_steps": 1,
        "only_save_embeds": True,
        "report_to": "none",
        "eval_steps": 0,
        "output_dir": folder / "output",
        "latents_cache_dir": place() / "cache",
    } | changes
    return lambda: train_flax.main(
        [*(f"--{name}={value}" for name, value in options.items() if value is not None), *more]
    )


def written(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def outcome(case: Case, folder: Path) -> str:
    """Runs a case and returns its last line, paths shortened; checks that nothing went astray."""
    begun, memory = time.process_time(), _most_memory()
    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for module in (text_files, yaml_file):  # pipes that nobody writes to
            patch.setattr(module, "_SILENCE", 0.2)
        command = case.make(folder)
        before = _all_files(folder)
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            said = []
            code = exit_code(lambda: said.append(command()))
    result = said[0] if said else code
    astray = {path for path in _all_files(folder) - before if path.parts[0] != "output"}
    assert not astray, f"written outside of the output folder: {astray}"
    assert time.process_time() - begun < MOST_SECONDS, "too long"
    assert _most_memory() - memory < case.memory, "too much memory"
    if isinstance(result, str):
        return _shortened(result, case, folder)
    lines = errors.getvalue().strip().splitlines()
    assert result == 2, f"exit code {result} and {lines[-3:]}"
    assert lines[-1].startswith("error: ") and "Traceback" not in errors.getvalue(), lines
    return _shortened(lines[-1].removeprefix("error: "), case, folder)


def check(case: Case, folder: Path, module: str) -> None:
    """Runs a case and compares with the page."""
    line = lines_of_page().get(f"{module}.py::test_input[{case.name}]")
    assert line is not None, "not in tests/bad-input.md: run python tests/support/hostile_cases.py"
    pattern = ".*".join(re.escape(part) for part in line.split(ELLIPSIS))
    found = outcome(case, folder)
    assert re.fullmatch(pattern, found, re.DOTALL), f"{found!r} is not {line!r}"


@functools.cache
def lines_of_page() -> dict[str, str]:
    """The line that the page promises for each test."""
    rows = [row for row in PAGE.read_text(encoding="utf-8").splitlines() if row.startswith("| ")]
    cells = [re.split(r"(?<!\\) \| ", row.removeprefix("| ").removesuffix(" |")) for row in rows]
    return {test.strip("`"): _plain(line) for _, line, test in cells if "::" in test}


def _plain(cell: str) -> str:
    return cell.strip("`").strip().replace("\\|", "|")


def _cell(line: str) -> str:
    mark = "``" if "`" in line else "`"
    inner = f" {line} " if "`" in line else line
    return mark + inner.replace("|", "\\|") + mark


def _shortened(line: str, case: Case, folder: Path) -> str:
    for path in (folder, place(), Path(tempfile.gettempdir())):
        line = line.replace(str(path), ELLIPSIS)
    return re.sub(case.loose, ELLIPSIS, line) if case.loose else line


def _all_files(folder: Path) -> set[Path]:
    return {Path(found, name).relative_to(folder) for found, _, names in os.walk(folder) for name in names}


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def page(cases: dict[str, Sequence[Case]], found: dict[str, str]) -> str:
    """The page, from the lines of all cases by test."""
    parts = [_BEGINNING]
    for module, title in CHAPTERS:
        parts.append(f"\n## {title}\n\n| given | what happens | test |\n|---|---|---|\n")
        for case in cases[module]:
            test = f"{module}.py::test_input[{case.name}]"
            parts.append(f"| {case.given} | {_cell(found[test])} | `{test}` |\n")
    return "".join(parts)


_BEGINNING = """# Wrong and hostile input

Whatever comes from outside may be wrong, or made to do harm. What is refused is refused in one line, with
exit code 2, and says where, what was expected, what was found and what to do. Nothing that a file says is
executed, nothing is written outside of `output_dir`, and what would unfold, or never end, is not followed.

Symbolic links in folders from elsewhere could carry any file of your machine into a result or an upload:

- A model's folder may be a link, and so may a component's folder and a file of weights in it. Configs and
  tokenizer files may not be links that leave the folder they lie in, and nothing of the safety checker and
  the feature extractor, which are copied, may leave the model's folder. Snapshots in the Hub's cache are
  links to its blobs, and are read and copied.
- Images that are links are read, and a line says how many leave the folder. With `push_to_hub` they are
  refused, as copies of them would be uploaded, unless `hub_concept_images` is false.
- A caption may be a link to a file beside its image, or beside the file that its image is a link to. A
  metadata file may not leave its folder.
- Rows of tables and datasets name images below the table's or dataset's folder. A text file with a path a
  line is your own: its paths may lead anywhere.
- No file of a run is uploaded that a link takes from outside of `output_dir`, and where a run writes the
  files of its result, links give way to files.

Links to web servers may lead to public addresses only, whatever they or redirects are called, unless
`allow_private_links` is set. Behind a proxy, it is the proxy that looks names up: hosts that this machine
knows to be private are refused, others are left to the proxy. All links of one set of images may cost 4 GiB,
an hour and 10,000 downloads; what was downloaded is kept, so a second start goes on from there.

`…` stands for paths, and for words of libraries that change with their versions. Lines that begin with
`read:`, `learned:` or `page:` are no errors: such input is used, as the line says.
`python tests/support/hostile_cases.py` writes the page, and each line is held by the test beside it.

Beside these, `tests/scripts/test_hostile_readers.py` gives damaged files of every kind to every reader, and
`python tests/support/fuzz_readers.py --runs 20000` as many as you like.
"""


def all_cases() -> dict[str, Sequence[Case]]:
    """The cases of every test file that has some."""
    for module, _ in CHAPTERS:
        folder = str(next(TESTS.rglob(f"{module}.py")).parent)
        if folder not in sys.path:
            sys.path.append(folder)
    return {module: importlib.import_module(module).CASES for module, _ in CHAPTERS}


def main(names: Sequence[str]) -> int:
    cases = all_cases()
    known = lines_of_page() if PAGE.exists() else {}
    found = {}
    for module, listed in cases.items():
        for case in listed:
            test = f"{module}.py::test_input[{case.name}]"
            if names and module not in names and f"{module}:{case.name}" not in names and test in known:
                found[test] = known[test]
                continue
            begun = time.perf_counter()
            with tempfile.TemporaryDirectory(prefix="ti_flax-case-") as folder:
                try:
                    found[test] = outcome(case, Path(folder))
                except BaseException as error:
                    found[test] = f"BROKEN {type(error).__name__}: {error}".replace("\n", " ")
            # A line at once, as the next case may never end.
            print(f"{test} ({time.perf_counter() - begun:.1f} s)\n    {found[test]}", flush=True)
    PAGE.write_text(page(cases, found), encoding="utf-8")
    return int(any(line.startswith("BROKEN") for line in found.values()))


if __name__ == "__main__":
    import hostile_cases  # as the files with cases know it

    sys.exit(hostile_cases.main(sys.argv[1:]))
