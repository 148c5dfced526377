"""Every command that a document, a configuration or a program shows is one that its program takes."""

import re

import pytest
import shown_commands
from shown_commands import ROOT, Shown, complaint

COMMANDS = shown_commands.shown_commands()


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("shown", COMMANDS, ids=str)
def test_a_shown_command_is_taken(shown):
    assert complaint(shown) is None


def test_none_is_passed_over():
    """Wherever `python PROGRAM` stands in a document, the search has found that program."""
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").glob("*.yaml")]:
        where = str(path.relative_to(ROOT))
        text = path.read_text(encoding="utf-8")
        named = {*re.findall(r"python[\d.]* ((?:\w+/)*\w+\.py)", text)}
        assert named <= {shown.program for shown in COMMANDS if shown.where == where}, where
        assert all((ROOT / name).is_file() for name in re.findall(r"requirements\w*\.txt", text)), where


@pytest.mark.parametrize("program", sorted({shown.program for shown in COMMANDS if shown.ran}))
def test_a_flag_that_a_program_lacks_is_noticed(program):
    shown = next(shown for shown in COMMANDS if shown.program == program and shown.ran)
    if not program.endswith(".sh"):
        arguments = shown.arguments or ("demo",) * (program == "ti-flax")
        wrong = Shown(shown.where, program, (*arguments, "--no_such_flag", "x"))
        assert "no_such_flag" in (complaint(wrong) or "")


TEXT = """
# A page

Run `python
demo/measure.py --steps 3` or `scripts/generate.py --prompt a`; `other.py --x 1` is not ours, `a b` nothing.
Errors say `` unknown. `python train_flax.py --help` lists all ``.

    python3 -m venv .venv && .venv/bin/pip install x && .venv/bin/python train_flax.py --seed 1
    until python train_flax.py --config configs/cat.yaml \\
      --seed $N; do
      sleep 10
    done
    python demo/concepts.py ruby folder      its five images
    gcloud ssh --command="
      cd ti_flax && .venv/bin/python train_flax.py --multi_host"
          - exec python train_flax.py --config configs/cat.yaml
            --seed 3

```python
pipe("python demo/nothing.py")
```

```sh
ti-flax demo --seed 2
bash scripts/test.sh
```
"""


def test_commands_are_found_wherever_they_stand():
    shown = []
    for piece, whole in shown_commands.of_markdown(TEXT):
        shown += shown_commands.commands_of("page", piece, whole=whole)
    named = [(each.program, *each.arguments) for each in shown if not each.ran]
    assert sorted(named) == [
        ("other.py", "--x", "1"),
        ("scripts/generate.py", "--prompt", "a"),
    ]
    found = [(each.program, *each.arguments) for each in shown if each.ran]
    train = "train_flax.py"
    assert sorted(found) == sorted(
        [
            ("demo/measure.py", "--steps", "3"),
            (train, "--help"),
            (train, "--seed", "1"),
            (train, "--config", "configs/cat.yaml", "--seed", "0"),
            ("demo/concepts.py", "ruby", "folder"),
            (train, "--multi_host"),
            (train, "--config", "configs/cat.yaml", "--seed", "3"),
            ("ti-flax", "demo", "--seed", "2"),
            ("scripts/test.sh",),
        ]
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python demo/nothing.py", "no such file: demo/nothing.py"),
        ("python train_flax.py --config configs/dog.yaml", "no such file: configs/dog.yaml"),
        ("python train_flax.py --config configs/demo.yaml --sed 1", "unknown flag --sed"),
        ("python train_flax.py --config configs/demo.yaml --seed one", "--seed: expected"),
        ("python train_flax.py --seed 1", "missing: "),
        ("python benchmarks/learning_quality.py --quick --sed 1", "unknown flag --sed"),
        ("python benchmarks/step.py --preset large", "found 'large'"),
        ("python scripts/convert_embeds.py a b --into kohya", "unknown flag --into"),
        ("python tests/support/soak_kill.py --times 3", "no flag of it: --times"),
        ("ti-flax trian", "no such command: trian"),
        ("ti-flax demo --sed 1", "unknown flag --sed"),
        ("ti-flax train --seed 1", "missing: "),
        ("ti-flax convert --into kohya a b", "unknown flag --into"),
    ],
)
def test_what_is_wrong_is_said(command, said):
    (shown,) = shown_commands.commands_of("page", command)
    assert said in (complaint(shown) or "")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("ti-flax convert --into kohya", "no flag of it: --into"),
        ("ti-flax convert --to kohya", None),
        ("scripts/compile_for_tpu.py --topology v5e:2x2 --sed 1", "no flag of it: --sed"),
        ("scripts/compile_for_tpu.py --topology v5e:2x2 --seed 1", None),
        ("prepare_images.py --sizes", "no flag of it: --sizes"),
        ("other.py --sizes", None),
    ],
)
def test_a_program_that_is_named_in_a_sentence_has_the_flags(named, said):
    (shown,) = shown_commands.commands_of("page", named, whole=False)
    assert complaint(shown) == said
