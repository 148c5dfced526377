"""Many concepts in one run: each learns what it would learn alone, and what goes wrong stays its own."""

import json
import re
import shutil

import numpy as np
import pytest
from many_runs import NAMES, configure_many, listed
from report_pages import Balanced
from tiny_folder import write_images
from tiny_run import compilations, configure, learned

from ti_flax.errors import ConfigError, OutputError, TrainingError
from ti_flax.files.written_files import written
from ti_flax.models.base_model import base_tokenizers
from ti_flax.models.stable_diffusion import load_stable_diffusion, token_table
from ti_flax.models.weights.model_source import ModelSource
from ti_flax.monitoring.report.concepts import read_entries
from ti_flax.run import train as run
from ti_flax.run.many import queue, turns
from ti_flax.run.many.board import Board
from ti_flax.training.loop import Hook


@pytest.fixture(scope="module")
def place(place):
    write_images(place / "five", count=5)
    return place


@pytest.fixture(scope="module")
def together(place, tmp_path_factory):
    output = tmp_path_factory.mktemp("together")
    with compilations() as compiled:
        run.train(configure_many(place, output, listed(place)))
    return output, compiled


@pytest.mark.parametrize("name", NAMES)
def test_each_learns_what_it_would_learn_alone(place, together, tmp_path, name):
    output, _ = together
    [entry] = [entry for entry in listed(place) if entry["name"] == name]
    own = {key: value for key, value in entry.items() if key != "name"}
    run.train(configure(place, tmp_path, **{"placeholder_token": f"<{name}>", "num_vectors": 2} | own))
    alone, found = learned(tmp_path), learned(output / name)
    assert found.shape == alone.shape
    assert np.linalg.norm(found - alone) <= 1e-5 * np.linalg.norm(alone)


def test_there_is_one_program_of_each_kind(together):
    _, compiled = together
    names = [message.split()[1] for message in compiled if message.startswith("Compiling ")]
    assert names.count("jit(_fun)") == 1  # what JAX calls a program of pmap


def test_the_board_says_what_has_become_of_each(together):
    output, _ = together
    entries = json.loads((output / "concepts.json").read_text())["concepts"]
    assert [(entry["name"], entry["state"], entry["step"]) for entry in entries] == [
        ("one", "done", 6),
        ("two", "done", 4),
        ("three", "done", 5),
    ]


def test_the_page_shows_all_concepts(place, together):
    output, _ = together
    text = (output / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'data-state="(\w+)" data-look="(\w*)" data-text="(\w+) ', text)
    assert shown == [("done", "", name) for name in NAMES]
    links = [link for link in Balanced(text).links if link is not None]
    assert links == [f"{name}/report.html" for name in NAMES] and all(
        (output / link).is_file() for link in links
    )
    assert {"index.html", "concepts.json"} <= written(output)


@pytest.mark.parametrize("name", ["index.html", "concepts.json"])
def test_a_file_in_the_place_of_the_page_is_refused_before_anything_is_loaded(place, tmp_path, name):
    (tmp_path / name).write_text("mine")
    config = configure_many(place, tmp_path, listed(place), overwrite_output_dir=True)
    with pytest.raises(OutputError, match=f"found {name}, which no run wrote or somebody has edited since"):
        run.train(config.replace(pretrained_model_name_or_path="nobody/nothing"))
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert (tmp_path / name).read_text() == "mine"


def test_a_page_that_cannot_be_written_ends_nothing(place, tmp_path, capsys):
    """It is said once, and concepts.json is written."""
    (tmp_path / "index.html").mkdir()
    board = Board(tmp_path, [("one", configure(place, tmp_path))])
    board.write()
    board.begin("one", 0, 6)
    board.write()
    [entry] = json.loads((tmp_path / "concepts.json").read_text())["concepts"]
    assert entry["state"] == "running"
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}/index.html is not written: ")


def test_neither_the_order_nor_the_others_change_what_one_learns(place, together, tmp_path):
    """Reversed, one left out, and one whose rate is endless."""
    output, _ = together
    concepts = listed(place, two={"learning_rate": 1e30})[::-1]
    with pytest.raises(TrainingError, match="1 of 3 concepts: expected results of all, found none of two"):
        run.train(configure_many(place, tmp_path / "reversed", concepts))
    run.train(configure_many(place, tmp_path / "without", listed(place)[1:]))
    for found, names in (("reversed", ("one", "three")), ("without", ("two", "three"))):
        for name in names:
            expected = learned(output / name)
            difference = learned(tmp_path / found / name) - expected
            assert np.linalg.norm(difference) <= 1e-5 * np.linalg.norm(expected)
    failed = json.loads((tmp_path / "reversed" / "concepts.json").read_text())["concepts"][1]
    assert failed["state"] == "failed" and "expected finite numbers" in failed["error"]
    assert not (tmp_path / "reversed" / "two" / "learned_embeds.safetensors").exists()


def test_directions_of_each_are_what_it_would_learn_alone(place, tmp_path):
    """Each with a start, rate, prior and number of vectors of its own, and one whose rate is endless."""
    changes = {"optimizer": "directional", "learning_rate": 0.02, "use_ema": True, "ema_decay": 0.5}
    own = {
        "one": {"directional_kappa": 0.05, "initializer_token": "red"},
        "two": {"directional_kappa": 0.0, "learning_rate": 0.05},
        "three": {"learning_rate": 1e30},
    }
    concepts = listed(place, **own)
    with pytest.raises(TrainingError, match="1 of 3 concepts: expected results of all, found none of three"):
        run.train(configure_many(place, tmp_path / "together", concepts, **changes))
    for entry in concepts[:2]:
        name = entry["name"]
        given = {key: value for key, value in entry.items() if key != "name"}
        given = {"placeholder_token": f"<{name}>", "num_vectors": 2} | changes | given
        run.train(configure(place, tmp_path / name, **given))
        alone, found = learned(tmp_path / name), learned(tmp_path / "together" / name)
        assert found.shape == alone.shape
        assert np.linalg.norm(found - alone) <= 1e-5 * np.linalg.norm(alone)


def test_images_that_cannot_be_read_end_their_concept_alone(place, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no image")
    concepts = listed(place, one={"train_data_dir": str(broken)})
    with pytest.raises(TrainingError, match="1 of 3 concepts"):
        run.train(configure_many(place, tmp_path / "out", concepts))
    assert "warning: one: ends: " in capsys.readouterr().err
    assert learned(tmp_path / "out" / "three").shape == (2, 32)


def bits(folder):
    """Every file that a concept's updates decide, by name."""
    names = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(place, together, tmp_path, step, monkeypatch):
    output, _ = together
    config = configure_many(place, tmp_path, listed(place))

    class Kill(Hook):
        every = step

        def on_step(self, step, state):
            raise KeyboardInterrupt

    seated = turns.seated
    killing = lambda *given: seated(*given, hooks=[Kill()])  # noqa: E731
    monkeypatch.setattr(queue, "seated", killing)
    with pytest.raises(KeyboardInterrupt):
        run.train(config)
    monkeypatch.setattr(queue, "seated", seated)
    states = {entry.name: entry.state for entry in read_entries(tmp_path)}
    assert states == {"one": "running", "two": "running", "three": "waiting"}
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert dict(re.findall(r'data-text="(\w+) .*?<span class="state (\w+)">', text)) == states
    run.train(config.replace(resume_from_checkpoint="auto"))
    for name in NAMES:
        assert bits(tmp_path / name) == bits(output / name)


def test_what_is_done_is_not_done_again_and_what_is_new_is(place, together, tmp_path, capsys):
    output, _ = together
    shutil.copytree(output, tmp_path / "copy")

    def changed(name):
        return (tmp_path / "copy" / name / "learned_embeds.safetensors").stat().st_mtime_ns

    before = {name: changed(name) for name in NAMES}
    added = [*listed(place), {"name": "four", "seed": 4, "max_train_steps": 2}]
    config = configure_many(place, tmp_path / "copy", added, resume_from_checkpoint="auto")
    run.train(config)
    assert {name: changed(name) for name in NAMES} == before
    entries = read_entries(tmp_path / "copy")
    assert [(entry.state, entry.step) for entry in entries] == [("done", step) for step in (6, 4, 5, 2)]
    assert learned(tmp_path / "copy" / "four").shape == (2, 32)
    run.train(config)
    assert "nothing to do: " in capsys.readouterr().err


def test_class_images_are_those_of_all_concepts_or_of_none(place, tmp_path):
    concepts = listed(place, one={"class_data_dir": str(place / "five")})
    with pytest.raises(ConfigError, match="class_data_dir: expected images of the class for every concept"):
        run.train(configure_many(place, tmp_path, concepts))
    assert not tmp_path.joinpath("one").exists()


def test_the_faults_of_all_concepts_are_told_at_once(place, tmp_path):
    changes = {name: {"initializer_token": f"qqqq{name}"} for name in ("one", "three")}
    with pytest.raises(ConfigError) as told:
        run.train(configure_many(place, tmp_path, listed(place, **changes)))
    lines = str(told.value).splitlines()
    assert [line.split(" ")[:2] for line in lines] == [["concept", "one"], ["concept", "three"]]


def test_one_pipeline_knows_the_words_of_all(place, together, tmp_path):
    """Also where all were done before somebody asked for it."""
    output, _ = together
    shutil.copytree(output, tmp_path / "copy")
    flags = {"save_joint_pipeline": True, "resume_from_checkpoint": "auto"}
    config = configure_many(place, tmp_path / "copy", listed(place), **flags)
    run.train(config)
    source = ModelSource(tmp_path / "copy")
    tokenizer = base_tokenizers(source).tokenizer
    table = token_table(load_stable_diffusion(source, components=("text_encoder",)).params, "text_encoder")
    for name in NAMES:
        ids = tokenizer.convert_tokens_to_ids([f"<{name}>", f"<{name}>_1"][: len(learned(output / name))])
        np.testing.assert_array_equal(table[ids], learned(output / name))


def test_a_checkpoint_of_one_concept_is_none_of_the_run(place, tmp_path):
    config = configure_many(place, tmp_path, listed(place), resume_from_checkpoint="checkpoint-2")
    with pytest.raises(ConfigError, match="expected auto or latest, as every concept has checkpoints"):
        run.train(config)


def test_what_other_hosts_write_is_taken_and_what_a_killed_run_left_is_not(place, tmp_path):
    named = [(name, configure(place, tmp_path, placeholder_token=f"<{name}>")) for name in NAMES]

    def states():
        return [entry.state for entry in read_entries(tmp_path)]

    Board(tmp_path, named, host=1).write()  # and then it was killed
    left = Board(tmp_path, named, host=2)
    left.begin("two", 0, 4)
    left.write()
    first = Board(tmp_path, named)
    first.begin("one", 0, 6)
    first.write()
    assert states() == ["running", "waiting", "waiting"]
    other = Board(tmp_path, named, host=1)
    other.fail("three", "no images")
    other.write()
    (tmp_path / "concepts-host-2.json").write_text('{"concepts": [{"name": "two", "state": 1}]}')  # damaged
    first.write()
    assert states() == ["running", "waiting", "failed"]
    first.settle([first.entries(["one"]), other.entries(["three"])])
    assert states() == ["running", "waiting", "failed"] and not [*tmp_path.glob("concepts-host-*")]
