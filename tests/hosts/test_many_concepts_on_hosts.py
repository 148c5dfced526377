"""Many concepts on two processes: each teaches its part of the list, with what one process gives."""

import json

import numpy as np
import pytest
from host_runs import ended, rows_of, run_on_two, start
from tiny_folder import write_folder, write_images

FLAGS = ("--train_batch_size", 2, "--checkpointing_steps", 2, "--eval_steps", 0)
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("many-hosts")
    write_folder(place / "model")
    write_images(place / "pictures")
    concepts = [{"name": name, "seed": seed, "max_train_steps": 3 + seed} for seed, name in enumerate(NAMES)]
    (place / "concepts.json").write_text(json.dumps(concepts))
    return place


def states(folder):
    entries = json.loads((folder / "concepts.json").read_text())["concepts"]
    return {entry["name"]: (entry["state"], entry["step"]) for entry in entries}


def test_two_processes_share_the_list_and_go_on_with_it(place):
    flags = (*FLAGS, "--concepts", place / "concepts.json")
    ended(start(place, place / "alone", *flags, devices=1, word=None))
    spoken, quiet = run_on_two(place, [place / "shared"] * 2, *flags, word=None)
    assert "2 concepts, 2 at once on 2 x cpu" in spoken and quiet == ""
    for name in NAMES:
        expected = rows_of(place / "alone" / name)
        difference = rows_of(place / "shared" / name) - expected
        assert np.linalg.norm(difference) <= 1e-5 * np.linalg.norm(expected)
    assert states(place / "shared") == {name: ("done", 3 + seed) for seed, name in enumerate(NAMES)}
    assert not [*(place / "shared").glob("concepts-host-*")]

    before = (place / "shared" / "one" / "learned_embeds.safetensors").read_bytes()
    (place / "shared" / "two" / "learned_embeds.safetensors").unlink()  # which the second had taught
    run_on_two(place, [place / "shared"] * 2, *flags, "--resume_from_checkpoint", "auto", word=None)
    assert states(place / "shared") == {name: ("done", 3 + seed) for seed, name in enumerate(NAMES)}
    assert (place / "shared" / "one" / "learned_embeds.safetensors").read_bytes() == before
    assert rows_of(place / "shared" / "two").shape == rows_of(place / "alone" / "two").shape


@pytest.mark.slow
def test_a_concept_that_fails_on_either_process_is_told_on_both(place):
    concepts = [
        {"name": name, "seed": 1, "max_train_steps": 2, "learning_rate": rate}
        for name, rate in (("good", 1e-2), ("endless", 1e30))
    ]
    (place / "failing.json").write_text(json.dumps(concepts))
    flags = (*FLAGS, "--concepts", place / "failing.json")
    for errors in run_on_two(place, [place / "failing"] * 2, *flags, code=2, word=None):
        assert "error: 1 of 2 concepts: expected results of all, found none of endless." in errors
    assert states(place / "failing")["good"] == ("done", 2)
    assert states(place / "failing")["endless"][0] == "failed"
