"""The command `ti-flax`: what it lists, what it refuses, and that its scripts are the same programs."""

import subprocess
import sys
from pathlib import Path

import pytest

from ti_flax.commands import demo, main

ROOT = Path(__file__).resolve().parents[2]
FACES = {
    "init": "scripts/write_config.py",
    "train": "train_flax.py",
    "generate": "scripts/generate.py",
    "convert": "scripts/convert_embeds.py",
    "convert-pipeline": "scripts/convert_to_torch.py",
    "prepare": "scripts/prepare_images.py",
    "caption": "scripts/caption_images.py",
    "report": "scripts/make_report.py",
    "watch": "scripts/watch_run.py",
    "web": "scripts/web_page.py",
    "push": "scripts/push_to_hub.py",
}


def run(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_help_lists_every_command(capsys):
    assert main.main([]) == 0 and main.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(said.count(f"\n  {name} ") == 2 for name in main.COMMANDS)


def test_a_command_that_does_not_exist_is_refused_in_a_line(capsys):
    assert main.main(["trian"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'trian'. Did you mean ti-flax train?\n"


def test_every_command_is_listed_here():
    assert {*FACES, "demo", "completion"} == set(main.COMMANDS)


@pytest.mark.parametrize("name", FACES)
def test_a_script_is_a_face_of_its_command(name, capsys, monkeypatch):
    """Both print the same help but for their own name, and no line of it names another program's file."""
    monkeypatch.setenv("COLUMNS", "100")
    done = run(FACES[name], "--help")
    assert done.returncode == 0, done.stderr
    with pytest.raises(SystemExit) as ended:
        main.main([name, "--help"])
    assert ended.value.code == 0
    ours, theirs = capsys.readouterr().out, done.stdout
    script = f"python {FACES[name]}" if name == "train" else Path(FACES[name]).name
    theirs = theirs.replace(script, f"ti-flax {name}").replace(
        "python scripts/write_config.py", "ti-flax init"
    )
    squeezed = [" ".join(text.split()) for text in (theirs, ours)]
    assert squeezed[0] == squeezed[1]
    assert "scripts/" not in ours


def test_the_demo_has_a_help_of_its_own(capsys):
    assert demo.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: ti-flax demo ") and "nothing is\ndownloaded" in said


def test_the_demo_finds_its_files_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        demo.main(["--print_config", "--seed", "7"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"pretrained_model_name_or_path: {demo.bundled('assets/demo-model')}\n" in printed
    assert f"train_data_dir: {demo.bundled('assets/demo-images')}\n" in printed
    assert "seed: 7\n" in printed and "output_dir: outputs/demo\n" in printed


@pytest.mark.parametrize("name", sorted(set(main.COMMANDS) - {"demo"}))
def test_an_unknown_flag_is_refused_in_one_line(name, capsys):
    assert main.main([name, "--nope"]) == 2
    out, (line,) = (lambda said: (said.out, said.err.splitlines()))(capsys.readouterr())
    assert out == "" and line.startswith("error: ")
