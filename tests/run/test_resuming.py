"""Runs that are resumed with nothing, or little, left to do."""

import shutil
from types import SimpleNamespace

import pytest
from tiny_run import compilations, configure, learned

from ti_flax.errors import ConfigError
from ti_flax.files.written_files import LIST
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.run import train as run
from ti_flax.run.step_config import resolve_num_steps


@pytest.fixture(scope="module")
def whole(place):
    """The folder of a finished run of four steps."""
    return run.train(configure(place, place / "whole", max_train_steps=4))


@pytest.fixture
def again(place, whole, tmp_path):
    """Makes the configuration of the same run, resumed in a copy of its folder."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    return lambda **changes: configure(
        place, copy, **{"max_train_steps": 4, "resume_from_checkpoint": "auto"} | changes
    )


def contents(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != LIST  # which says that there was another run
    }


@pytest.fixture
def nothing_read(monkeypatch):
    monkeypatch.setattr(run, "read_inputs", lambda config: pytest.fail("something is read"))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "nothing to do: {folder} holds the result of all 4 steps"),
        (
            {"max_train_steps": 3},
            "nothing to do: {folder}/checkpoint-4 has 4 steps, and max_train_steps is 3; all files stay as "
            "they are. max_train_steps 4 writes the result of that checkpoint, and more goes on.",
        ),
        (
            {"max_train_steps": 3, "resume_from_checkpoint": "checkpoint-4", "seed": None},
            "nothing to do: {folder}/checkpoint-4 has 4 steps, and max_train_steps is 3; all files stay as "
            "they are. max_train_steps 4 writes the result of that checkpoint, and more goes on.",
        ),
    ],
)
def test_a_run_that_has_its_steps_ends_before_anything_is_read(again, nothing_read, capsys, changes, line):
    config = again(**changes)
    folder = run.Path(config.output.output_dir)
    before = contents(folder)
    assert run.train(config) == folder
    assert capsys.readouterr().err.splitlines()[-1] == line.format(folder=folder)
    assert contents(folder) == before


def test_a_run_of_epochs_ends_before_anything_is_compiled(again, capsys):
    # 3 images x 8 repeats over 8 devices are 3 updates an epoch.
    config = again(max_train_steps=None, num_train_epochs=1, repeats=8, lr_warmup_steps=0)
    folder = run.Path(config.output.output_dir)
    before = contents(folder)
    shown = {"images": SimpleNamespace(weights=(8, 8, 8)), "fingerprint": {}}
    with pytest.MonkeyPatch.context() as patch, compilations() as messages:
        patch.setattr(run, "read_inputs", lambda config: SimpleNamespace(**shown))
        patch.setattr(run, "surely_the_same", lambda config, before: True)
        patch.setattr(run, "make_step_config", lambda *args, **named: pytest.fail("the step is made"))
        run.train(config)
    assert "has 4 steps, and max_train_steps is 3" in capsys.readouterr().err
    assert contents(folder) == before and not any("float32[8,8,2" in each for each in messages)


def test_fewer_steps_with_other_options_end_before_anything_is_compiled_too(again, capsys):
    config = again(max_train_steps=3, learning_rate=0.5)
    folder = run.Path(config.output.output_dir)
    before = contents(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "fit", lambda *args, **named: pytest.fail("it is trained"))
        run.train(config)
    assert "has 4 steps, and max_train_steps is 3" in capsys.readouterr().err
    assert contents(folder) == before


@pytest.mark.parametrize(
    "lost",
    [["learned_embeds.safetensors"], ["run.json"], ["learned_embeds.bin", "learned_embeds.safetensors"]],
)
def test_a_result_that_is_not_whole_is_written_without_a_compilation_of_the_step(again, whole, lost):
    config = again()
    folder = run.Path(config.output.output_dir)
    for name in lost:
        (folder / name).unlink()
    with compilations() as messages:
        run.train(config)
    assert learned(folder).tobytes() == learned(whole).tobytes()
    assert (folder / "learned_embeds.bin").read_bytes() == (whole / "learned_embeds.bin").read_bytes()
    assert RunFacts.read(folder).finished
    assert not [each[:200] for each in messages if "float32[8,8,2,8,8,8]" in each]


def test_a_pipeline_that_was_not_asked_for_before_is_written_now(again):
    folder = run.train(again(only_save_embeds=False))
    assert (folder / "model_index.json").is_file()


def test_an_older_checkpoint_that_is_named_gives_its_own_result(again, capsys):
    config = again(max_train_steps=2, resume_from_checkpoint="checkpoint-2")
    folder = run.train(config)
    assert "2 steps" in (folder / "README.md").read_text()
    # And the newest one then has a result to write again.
    run.train(again(only_save_embeds=True))
    assert "4 steps" in (folder / "README.md").read_text()


def test_more_steps_than_a_counter_holds_are_refused_where_epochs_count_them(place, tmp_path):
    config = configure(place, tmp_path, max_train_steps=None, num_train_epochs=10**9, train_batch_size=1)
    line = (
        "num_train_epochs: expected at most 2147483647 steps in all, found 3000000000, in 1000000000 epochs "
        "of 24 shown images. Lower num_train_epochs or repeats, or set max_train_steps."
    )
    with pytest.raises(ConfigError) as raised:
        resolve_num_steps(config, 24)
    assert str(raised.value) == line
