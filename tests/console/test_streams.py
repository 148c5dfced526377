"""Standard output and standard error that are closed, full, or read by nobody: the same work, and silence."""

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_folder import write_folder, write_images

from ti_flax.console.messages import Display, Level
from ti_flax.console.program import exit_code
from ti_flax.console.streams import Patient, patient_streams
from ti_flax.console.terminal import display_for
from ti_flax.errors import TiFlaxError

ROOT = Path(__file__).parents[2]


def shell(command, folder=ROOT):
    """Runs a line of bash; `$PYTHON` and `$ROOT` are what they say."""
    prelude = f'PYTHON="{sys.executable}"; ROOT="{ROOT}"; export JAX_PLATFORMS=cpu; set -o pipefail; '
    return subprocess.run(["bash", "-c", prelude + command], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    write_folder(folder / "model")
    write_images(folder / "pictures")
    options = {
        "pretrained_model_name_or_path": "model",
        "train_data_dir": "pictures",
        "placeholder_token": '"<thing>"',
        "initializer_token": "toy",
        "resolution": 32,
        "max_train_steps": 2,
        "only_save_embeds": "true",
        "report_to": "none",
        "eval_steps": 0,
        "num_train_epochs": 3,  # which a note says does nothing
        "latents_cache_dir": "cache",
    }
    (folder / "run.yaml").write_text("".join(f"{name}: {value}\n" for name, value in options.items()))
    return folder


@pytest.mark.parametrize("name", [">&- 2>&-", pytest.param(">/dev/full 2>/dev/full", marks=pytest.mark.slow)])
def test_a_whole_run_is_the_same_when_nobody_can_read_what_it_says(place, tmp_path, name):
    done = shell(
        f'"$PYTHON" "$ROOT/train_flax.py" --config run.yaml --output_dir "{tmp_path}/out" {name}', place
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"learned_embeds.safetensors", "learned_embeds.bin", "metrics.csv", "report.html"} <= left
    # Nothing that a library prints goes into a file that got the number of the closed stream.
    files = [
        path for path in (tmp_path / "out").rglob("*") if path.suffix in (".csv", ".json", ".txt", ".md")
    ]
    assert files and not any(b"compil" in path.read_bytes() for path in files if path.suffix != ".json")


@pytest.mark.parametrize(
    "command",
    [
        '"$PYTHON" train_flax.py --sed=1 2>&-',
        '"$PYTHON" train_flax.py --sed=1 2>/dev/full',
        '"$PYTHON" scripts/make_report.py nowhere 2>&-',
        '"$PYTHON" train_flax.py --sed=1 <&- >&- 2>&-',
    ],
)
def test_a_mistake_keeps_its_exit_code(command):
    done = shell(command)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("--config configs/demo.yaml --print_config >&-", 0, ""),
        ("--config configs/demo.yaml --print_config | head -1 >/dev/null", 0, ""),
        ("--help | true", 0, ""),
        (
            "--config configs/demo.yaml --print_config >/dev/full",
            2,
            "error: standard output: expected a place that can be written, found no space left on device\n",
        ),
        (
            "--config configs/demo.yaml --print_config --max_train_steps 5 --num_train_epochs 2 2>/dev/full",
            0,
            "",
        ),
    ],
)
def test_what_is_printed_and_cannot_be_written(command, code, said):
    done = shell(f'"$PYTHON" train_flax.py {command}')
    assert (done.returncode, done.stderr) == (code, said)


def test_files_get_no_number_of_a_closed_stream():
    code = (
        "import os, sys; sys.path.insert(0, '.'); from ti_flax.console.program import exit_code; "
        "sys.exit(exit_code(lambda: os._exit(min(os.open('LICENSE', os.O_RDONLY), 9))))"
    )
    done = shell(f'"$PYTHON" -c "{code}" <&- >&- 2>&-')
    assert done.returncode >= 3


def test_letters_that_the_output_does_not_have_are_written_as_escapes():
    code = (
        "import sys; sys.path.insert(0, '.'); from ti_flax.console.program import exit_code; "
        "sys.exit(exit_code(lambda: print('<\\u732b> caf\\u00e9')))"
    )
    done = shell(f'PYTHONIOENCODING=ascii "$PYTHON" -c "{code}"')
    assert (done.returncode, done.stdout, done.stderr) == (0, "<\\u732b> caf\\xe9\n", "")


class Broken(io.StringIO):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, "broken")


@pytest.mark.parametrize(("number", "lost"), [(errno.EPIPE, False), (errno.ENOSPC, True), (errno.EIO, True)])
def test_a_reader_that_goes_loses_nothing_and_a_full_disk_does(number, lost):
    stream = Patient(Broken(number))
    assert stream.write("text") == 4
    stream.writelines(["a", "b"])
    stream.flush()
    assert (stream.lost is not None) is lost


def test_streams_are_put_back(capsys):
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), patient_streams():
        assert isinstance(sys.stdout, Patient)
        raise KeyError
    assert (sys.stdout, sys.stderr) == before


def test_a_program_without_streams_is_silent(monkeypatch):
    def refuse():
        raise TiFlaxError("nobody hears it")

    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    assert exit_code(refuse) == 2
    assert exit_code(lambda: print("nobody hears it")) == 0
    display = display_for(Level.NORMAL)
    assert type(display) is Display
    display.line("nobody hears it", Level.ALWAYS)
