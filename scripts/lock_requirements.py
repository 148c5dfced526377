"""Write the lock files from requirements_flax.txt: all packages with their versions and hashes.

    python scripts/lock_requirements.py

`requirements_lock_cpu.txt` is for the CPU, `requirements_lock_cuda.txt` for NVIDIA GPUs and
`requirements_lock_tpu.txt` for TPUs; each holds for every system and Python 3.11 or newer. Packages that are
installed beside this program keep their versions, so run it in the environment of the tests. It needs uv and
the network.
"""

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import OutputError  # noqa: E402
from ti_flax.files.atomic import write_text  # noqa: E402

REQUIREMENTS = ROOT / "requirements_flax.txt"
# What a file is for: the extra of jax.
EXTRAS = {"cpu": "", "cuda": "[cuda13]", "tpu": "[tpu]"}
OLDEST_PYTHON = "3.11"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", metavar="FOLDER", type=Path, default=ROOT, help="where the files go")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Writes the three files.

    Raises:
      OutputError: uv found no versions.
    """
    for name, extra in EXTRAS.items():
        path = options.output_dir / f"requirements_lock_{name}.txt"
        write_text(path, head(extra) + locked(wanted(extra)))
        print(path)


def head(extra: str) -> str:
    """What stands on top of a file."""
    return (
        f"# Written by scripts/lock_requirements.py for jax{extra}; change requirements_flax.txt instead.\n"
    )


def wanted(extra: str) -> str:
    """The requirements with an extra of jax."""
    return re.sub(r"^jax\b", f"jax{extra}", REQUIREMENTS.read_text(encoding="utf-8"), flags=re.MULTILINE)


def installed() -> str:
    """The versions in this environment, as constraints; local ones such as torch's `+cpu` are left out."""
    found = {each.name: each.version for each in importlib.metadata.distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()) if "+" not in version)


def locked(requirements: str) -> str:
    """All packages that the requirements need, with versions and hashes, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "installed.txt"
        constraints.write_text(installed(), encoding="utf-8")
        flags = ["--universal", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
        flags += ["--python-version", OLDEST_PYTHON, "--constraint", str(constraints), "-"]
        done = subprocess.run(
            [sys.executable, "-m", "uv", "pip", "compile", *flags],
            input=requirements,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise OutputError("uv pip compile", found=done.stderr, remedy="Run it by hand to see more.")
    return done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
