"""A Python that is too old is named in one line by every program, before anything that it cannot import."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("scripts", "benchmarks", "demo")
# It times a script of another project, in that one's environment.
OTHERS = {"timed_script.py"}
PROGRAMS = [
    "train_flax.py",
    *sorted(
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).glob("*.py")
        if "__main__" in path.read_text(encoding="utf-8") and path.name not in OTHERS
    ),
]
# Everything but the standard library is hidden, as in an old Python nothing is installed.
FAKED = """
import collections, runpy, sys
Version = collections.namedtuple("Version", "major minor micro releaselevel serial")
sys.version_info = Version(3, 10, 4, "final", 0)
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numpy", "jax", "PIL", "yaml", "tqdm", "flax"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
sys.argv = [{program!r}]
runpy.run_path({program!r}, run_name="__main__")
"""


def check(command, version):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and done.stdout == "", done.stderr[-1000:]
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: ti_flax needs Python 3.11 or newer, found {version}")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_python_that_is_too_old_is_named(program):
    check([sys.executable, "-c", FAKED.format(program=program)], "3.10.4: ")


def old_python():
    """A real one, if there is one here."""
    found = [shutil.which(f"python3.{minor}") for minor in (10, 9, 8)]
    return next((path for path in found if path and _runs(path)), None)


def _runs(path):
    return subprocess.run([path, "-c", ""], capture_output=True).returncode == 0


@pytest.mark.skipif(old_python() is None, reason="no Python older than 3.11 is installed")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_real_old_python(program):
    check([old_python(), program], "3.")


def test_no_program_is_left_out():
    assert {"scripts/generate.py", "benchmarks/step.py", "demo/concepts.py"} < set(PROGRAMS)
