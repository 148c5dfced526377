"""The benchmarks that no other file runs, run with settings and a model that take seconds."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import attention
import evaluation_cost
import growth
import learning_places
import learning_quality
import likeness
import many_concepts
import numpy as np
import prompt_sensitivity
import pytest
import timestep_variance
from environment import xla_flags
from likeness import PROMPTS, SEEDS, TIMESTEPS, Measured

from ti_flax.errors import ConfigError
from ti_flax.models.attention import IMPLEMENTATIONS

ROOT = Path(__file__).resolve().parents[2]


def test_implementations_of_attention_are_compared(capsys):
    attention.main(["--tokens", "16", "32", "--heads", "2", "--width", "8", "--batch", "1", "--rounds", "2"])
    head, columns, *lines, last = capsys.readouterr().out.splitlines()
    assert "batch 1, float32" in head and columns.split()[-3:] == ["with", "backward", "error"]
    assert {line[:12].strip() for line in lines} == {"16 x 16, 2 x", "32 x 32, 2 x"}
    names = [line[34:46].strip() for line in lines]
    assert "plain" in {name.rstrip("*") for name in names} <= set(IMPLEMENTATIONS)
    assert sum(name.endswith("*") for name in names) == 2 and last.startswith("* what train_flax.py chooses")
    assert all(float(line.split()[-1]) < 1e-4 for line in lines)


def test_draws_and_evaluations_are_timed_for_each_number(capsys):
    growth.main(["--images", "3", "9", "--prompts", "1", "600", "--evaluations", "2", "4", "--rounds", "2"])
    head, columns, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head[:2] == ["batch", "8,"] and columns[:2] == ["images", "prompts"]
    assert [line[:2] for line in lines[:3]] == [["3", "1"], ["9", "1"], ["3", "600"]]
    held = [float(line[4 - 1]) for line in lines[:3]]
    assert held[0] == held[1] < held[2] and all(float(line[2]) > 0 for line in lines[:3])
    assert lines[3][0] == "evaluations" and [line[0] for line in lines[4:]] == ["2", "4"]


@pytest.fixture(scope="module")
def flags(tmp_path_factory, tiny_base_model):
    """A configuration of the training, with the tiny model."""
    file = tmp_path_factory.mktemp("tiny") / "run.yaml"
    text = (ROOT / "configs" / "demo.yaml").read_text()
    for name, value in (("demo-model", tiny_base_model), ("demo-images", ROOT / "assets" / "demo-images")):
        text = text.replace(f"../assets/{name}", str(value))
    file.write_text(text)
    return ["--config", str(file)]


def test_the_scatter_of_gradients_is_measured_for_each_sampling(flags, capsys):
    timestep_variance.main([*flags, "--batch", "2", "--updates", "3"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("3 updates of 2; variance")
    assert [line[:16].strip() for line in lines] == [
        kind for kind in ("all draws", "timesteps alone") for _ in timestep_variance.SAMPLINGS
    ]
    assert all(line.count("(1.00)") == 2 for line in lines if " uniform " in line)


LOOK = ("--samples", "4", "--num_inference_steps", "2")
TINY = ("--images", "2", "--train_batch_size", "1")


def test_concepts_are_learned_and_judged(flags, tmp_path, capsys):
    tiny = [
        *TINY,
        "--seeds",
        "1",
        "--steps",
        "1",
        "3",
        "--eval_steps",
        "2",
        "--concepts",
        "glowheart",
        "spool",
    ]
    learning_quality.main([*flags, *LOOK, *tiny, "--output", str(tmp_path)])
    shown = capsys.readouterr().out
    assert (
        "glowheart seed 0 step 3: fidelity 0.00" in shown and ", chosen: " in shown and "learned 3" in shown
    )
    *_, titles, _heads, first, second, _mean, _low, _high, last = shown.splitlines()
    assert titles.split("   ")[-1].strip() == "chosen by the run" and "best by the judge" in titles
    assert [line.split()[:4] for line in (first, second)] == [
        ["glowheart", "purple", "striped", "heart"],
        ["spool", "white", "checked", "hourglass"],
    ]
    assert last.startswith("fidelity 0.000 literal 0.000")
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    made = [(each["concept"], each["kind"], each["steps"]) for each in results]
    chosen = [place for place in made if place[1] == "chosen"]
    assert [place for place in made if place not in chosen] == [
        ("glowheart", "initializer", 0),
        ("glowheart", "literal", 0),
        ("glowheart", "autoencoder", 0),
        ("spool", "initializer", 0),
        ("spool", "literal", 0),  # captions describe its shape
        ("spool", "autoencoder", 0),
        ("glowheart", "learned", 1),
        ("glowheart", "learned", 3),
        ("spool", "learned", 1),
        ("spool", "learned", 3),
    ]
    assert [name for name, *_ in chosen] == ["glowheart", "spool"] and {step for *_, step in chosen} <= {2, 3}
    # The results of the run are embeddings as any other trainer's.
    again = ["--embeds", str(tmp_path / "seed-0"), "--output", str(tmp_path / "again")]
    learning_quality.main([*flags, *LOOK, *again])
    *_, titles, _heads, _first, _second, _mean, _low, _high, last_again = capsys.readouterr().out.splitlines()
    assert titles.endswith("of the file") and last_again == last
    content = json.loads((tmp_path / "again" / "results.json").read_text())
    assert content["embeds"] == [str(tmp_path / "seed-0")] and len(content["results"]) == 8


def test_held_out_concepts_are_learned_for_the_configured_steps(flags, tmp_path, capsys):
    quick = ["--held_out", "--quick", "--max_train_steps", "1", "--eval_steps", "0"]
    learning_quality.main([*flags, *LOOK, *TINY, *quick, "--output", str(tmp_path)])
    *_, titles, _heads, first, second, _mean, _low, _high, _last = capsys.readouterr().out.splitlines()
    assert titles.split("   ")[-1].strip() == "after 1 steps"
    assert (first.split()[0], second.split()[0]) == learning_quality.QUICK_HELD_OUT


@pytest.mark.parametrize(
    "line", ["--embeds missing.pt", "--concepts rubi", "--held_out --embeds .", "--output conftest.py"]
)
def test_what_cannot_be_scored_is_one_line_and_exit_code_2(line):
    command = [sys.executable, str(ROOT / "benchmarks" / "learning_quality.py"), *line.split()]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: --") and len(done.stderr.splitlines()) == 1


def test_a_concept_is_learned_at_places_of_the_text_encoder(flags, tmp_path, capsys):
    """Before the first update nothing is added, so that all places but two begin with the same loss.

    One layer of the tiny model reads the prompt, so that a row for each layer is the row.
    """
    tiny = ["--concepts", "posy", "--steps", "1", "2", "--samples", "2", "--num_inference_steps", "2"]
    places = ["row", "layers", "row+word", "replaced", "rest", "output"]
    output = tmp_path / "results.jsonl"
    learning_places.main([*flags, *tiny, "--places", *places, "--output", str(output)])
    results = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(each["place"], each["step"]) for each in results] == [
        (place, step) for place in places for step in (1, 2)
    ]
    assert capsys.readouterr().out.count("fidelity 0.0") == len(results)
    first, second = (
        {each["place"]: each["loss"] for each in results if each["step"] == step} for step in (1, 2)
    )
    assert first["row"] == first["layers"] == first["row+word"] == first["rest"]
    assert second["row"] == second["layers"]
    assert len({second[place] for place in ("row", "row+word", "rest")}) == 3
    with pytest.raises(
        ConfigError, match="some of row, layers, word, replaced, rest, end, output, found row"
    ):
        learning_places.main(["--places", "row+words"])


def test_concepts_are_learned_together_alone_and_through_a_kill(flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", xla_flags(None))  # without virtual devices
    tiny = ["--train_batch_size", "2", "--max_train_steps", "3", "--eval_steps", "0"]
    tiny += ["--validation_prompt", "null", "--concepts_at_once", "2", "--count", "2"]
    many_concepts.main([*flags, *tiny, "--output", str(tmp_path), "--alone", "--kills", "1"])
    many, single, *killed, ratio = capsys.readouterr().out.splitlines()
    assert many.startswith("turn 0: 2 concepts in one run") and ratio.startswith("runs of their own take ")
    assert float(single.split("at most ")[1].split()[0]) < 1e-5
    assert killed[-1] == "killed 1 times: 0 of 2 files have other bits"


@pytest.mark.parametrize(("cold", "caches"), [([], 1), (["--cold"], 3)])
def test_runs_of_one_concept_share_a_cache_unless_each_begins_cold(tmp_path, monkeypatch, cold, caches):
    used = []
    monkeypatch.setattr(many_concepts, "start", lambda config, cache: used.append(cache))
    monkeypatch.setattr(many_concepts, "wait", lambda process, *, name: (1.0, [1.0]))
    monkeypatch.setattr(many_concepts, "distance", lambda *folders: 0.0)
    many_concepts.main(["--count", "3", "--alone", *cold, "--output", str(tmp_path)])
    assert len(used) == 4 and len({*used[1:]}) == caches and used[0] not in used[1:]


RECORDER = """\
#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word" >> "$RECORD"; done
echo end >> "$RECORD"
echo measured
"""


def test_the_programs_of_gpu_sh_take_their_options(tmp_path):
    """With a stand-in for Python that notes what it is asked to run."""
    python, record = tmp_path / "python", tmp_path / "record"
    python.write_text(RECORDER)
    python.chmod(0o755)
    env = os.environ | {"PYTHON": str(python), "RECORD": str(record), "EXAMPLES": str(tmp_path)}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr
    calls = [call.splitlines() for call in record.read_text().split("end\n") if call]
    assert len(calls) == done.stdout.count("== ") == done.stdout.count("measured") == 8
    for program, *rest in calls:
        assert (ROOT / program).is_file(), program
        module = __import__(Path(program).stem)
        try:
            module.parse_arguments(rest)
        except SystemExit:
            pytest.fail(f"gpu.sh: {program} {shlex.join(rest)}")


def test_what_tells_over_training_and_likeness_is_measured_and_kept(flags, tmp_path, capsys, monkeypatch):
    tiny = [*flags, *LOOK, "--train_batch_size", "1", "--output", str(tmp_path)]
    tiny += ["--concepts", "ruby", "--rates", "1e-2", "--steps", "2", "4"]
    prompt_sensitivity.main(tiny)
    first = capsys.readouterr().out
    assert [line.split(":")[0] for line in first.splitlines()[:2]] == [
        "ruby at 1e-2, step 2",
        "ruby at 1e-2, step 4",
    ]
    assert "2 words, " in first and len(first.splitlines()) == 14
    kept = {path: path.read_bytes() for path in (tmp_path / "words").iterdir()}
    prompt_sensitivity.main(tiny)
    assert capsys.readouterr().out == first
    assert kept == {path: path.read_bytes() for path in (tmp_path / "words").iterdir()} and len(kept) == 2
    measured = []
    monkeypatch.setattr(likeness, "Measured", lambda *given: measured.append(given) or Measured(*given))
    likeness.main(tiny)
    losses = np.stack([losses for _, losses, _ in measured])
    assert losses.shape == (2, len(SEEDS), len(PROMPTS), len(TIMESTEPS)) and (losses > 0).all()
    # Every word, set of images, prompt and timestep is measured by itself.
    assert len(np.unique(losses)) == losses.size
    *_, head, _, _, of_run, trained, length, steps = capsys.readouterr().out.splitlines()[:-8]
    assert head.startswith("2 words, ") and of_run.startswith("  validation loss of the run ")
    assert trained.startswith("  training loss") and length.split()[:2] == ["length", "of"]
    assert steps.startswith("  number of steps") and steps.split()[-1] in ("0.000", "nan")


def test_the_cost_of_evaluations_is_measured_in_a_run(flags, capsys):
    tiny = ["--train_batch_size=1", "--max_train_steps=5", "--eval_steps=1", "--max_eval_samples=2"]
    evaluation_cost.main([*flags, *tiny])
    first, last = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith("3 evaluations of ") and ", 3 updates of " in first
    assert last.startswith("an evaluation takes as long as ") and last.endswith("% of the time")
