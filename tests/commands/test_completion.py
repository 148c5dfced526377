"""`ti-flax completion`: what shells complete, and what it says without the package that it needs."""

import importlib
import shutil
import subprocess
import sys

import pytest

from ti_flax.commands import completion, main
from ti_flax.config.run_config import OPTIONS


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """A file with the script of each shell."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in completion.SHELLS:
        code = "from ti_flax.commands.main import program; program()"
        command = [sys.executable, "-c", code, "completion", shell]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        (folder / shell).write_text(done.stdout)
    return folder


def completed(script, *words, cwd=None):
    """What bash offers for the last of some words."""
    code = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_ti_flax; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code, "bash", str(script), "ti-flax", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
    )
    return done.stdout.split()


def test_bash_completes_commands_options_and_values(scripts):
    assert completed(scripts / "bash", "") == list(main.COMMANDS)
    assert completed(scripts / "bash", "train", "--learning_r") == ["--learning_rate"]
    assert completed(scripts / "bash", "demo", "--max_train") == ["--max_train_steps"]
    assert completed(scripts / "bash", "train", "--learnable_property", "") == ["object", "style"]
    assert completed(scripts / "bash", "train", "--scale_lr", "") == ["true", "false"]
    assert completed(scripts / "bash", "train", "--max_train_steps", "") == ["auto"]
    assert "loss" in completed(scripts / "bash", "train", "--help", "")
    assert completed(scripts / "bash", "generate", "--sampler", "e") == ["euler"]
    assert completed(scripts / "bash", "completion", "") == list(completion.SHELLS)


def test_every_option_of_a_training_is_completed(scripts):
    offered = completed(scripts / "bash", "train", "--")
    assert {f"--{name}" for name in OPTIONS} <= {*offered}
    assert {"--config", "--help", "--print_config"} <= {*offered}
    assert "--no_scale_lr" not in offered


def test_bash_completes_files_and_folders(scripts, tmp_path):
    (tmp_path / "my-images").mkdir()
    (tmp_path / "my-file.yaml").touch()
    both = ["my-file.yaml", "my-images"]
    assert sorted(completed(scripts / "bash", "train", "--config", "my", cwd=tmp_path)) == both
    assert sorted(completed(scripts / "bash", "train", "--train_data_dir", "my", cwd=tmp_path)) == both
    assert completed(scripts / "bash", "init", "--object", "my", cwd=tmp_path) == ["my-images"]
    assert completed(scripts / "bash", "train", "--output_dir", "my", cwd=tmp_path) == ["my-images"]
    assert sorted(completed(scripts / "bash", "convert", "my", cwd=tmp_path)) == both
    assert completed(scripts / "bash", "train", "--seed", "my", cwd=tmp_path) == []


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_reads_its_script(scripts, shell):
    text = (scripts / shell).read_text()
    assert all(name in text for name in ("learning_rate", "convert-pipeline", "learnable_property"))
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(scripts / shell)], check=True)


def test_without_the_package_one_line_says_what_to_install(monkeypatch, capsys):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert completion.main(["bash"]) == 2
    assert capsys.readouterr() == (
        "",
        "error: completion: expected the Python package shtab, which makes the script, found that it is not "
        "installed. Install it: pip install shtab.\n",
    )


def test_another_shell_is_refused(capsys):
    assert completion.main(["cmd"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and line.endswith("shell: expected one of bash, zsh, tcsh, found 'cmd'")
