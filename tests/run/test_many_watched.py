"""What happens beside the updates of many concepts: evaluations, early ends, previews, files."""

import json

import numpy as np
import pytest
from many_runs import configure_many
from PIL import Image
from tiny_run import configure, learned

from ti_flax.monitoring.row_statistics import read_evaluations
from ti_flax.run import train as run

WATCHED = {"eval_steps": 2, "max_eval_samples": 4, "validation_prompt": "a {}", "validation_steps": 4}
WATCHED |= {"num_validation_images": 2, "save_steps": 3}
# No evaluation is better than the one before by so much.
EARLY = {"early_stopping": True, "early_stopping_patience": 1, "early_stopping_threshold": 9}


@pytest.fixture(scope="module")
def together(place, tmp_path_factory):
    concepts = [
        {"name": "whole", "seed": 1, "max_train_steps": 6},
        {"name": "early", "seed": 2, "max_train_steps": 9, **EARLY},
        {"name": "next", "seed": 3, "max_train_steps": 5},
    ]
    folder = tmp_path_factory.mktemp("watched")
    (folder / "prompts.txt").write_text("a {}\n")  # what WATCHED asks for
    watched = WATCHED | {"validation_prompt": None, "validation_prompt_file": str(folder / "prompts.txt")}
    return run.train(configure_many(place, folder / "run", concepts, **watched))


def losses(folder):
    return {each.step: each.validation_loss for each in read_evaluations(folder / "signals.csv")}


@pytest.mark.parametrize(
    ("name", "changes", "last"),
    [
        ("whole", {"seed": 1, "max_train_steps": 6}, 6),
        ("early", {"seed": 2, "max_train_steps": 9, **EARLY}, 4),
    ],
)
def test_each_is_watched_as_it_would_be_alone(place, together, tmp_path, name, changes, last):
    run.train(configure(place, tmp_path, placeholder_token=f"<{name}>", **WATCHED | changes))
    alone, found = losses(tmp_path), losses(together / name)
    assert list(found) == list(alone) == list(range(0, last + 1, 2))
    np.testing.assert_allclose(list(found.values()), list(alone.values()), rtol=1e-5)
    difference = np.linalg.norm(learned(together / name) - learned(tmp_path))
    assert difference <= 1e-5 * np.linalg.norm(learned(tmp_path))
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.relative_to(together / name).as_posix() for path in (together / name).rglob("*")} >= written
    for step in (0, 4):
        shown, expected = (
            np.asarray(Image.open(folder / "validation" / f"step-{step}.png"), np.float32)
            for folder in (together / name, tmp_path)
        )
        assert np.abs(shown - expected).max() <= 1


def test_an_early_end_gives_the_slot_to_the_next(together):
    entries = json.loads((together / "concepts.json").read_text())["concepts"]
    assert [(each["name"], each["state"], each["step"]) for each in entries] == [
        ("whole", "done", 6),
        ("early", "done", 4),
        ("next", "done", 5),
    ]
    assert list(losses(together / "next")) == [0, 2, 4, 5]
    assert (together / "next" / "learned_embeds-steps-3.safetensors").exists()
    page = (together / "index.html").read_text()
    assert "early/validation/step-4.png" in page and "next/report.html" in page
