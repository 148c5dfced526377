"""What happens beside the updates when something goes wrong there."""

import os
import shutil

import numpy as np
import pytest
from row_trees import tree

from ti_flax.errors import OutputError, TrainingError
from ti_flax.monitoring import hooks
from ti_flax.training.loop import Chunk, Hook
from ti_flax.training.state import TrainState

STATE = TrainState(tree(np.ones((1, 4), np.float32)), (), np.int32(7))


def chunk(*losses, first=1, finite=None):
    loss = np.asarray(losses, np.float32)
    finite = np.isfinite(loss) if finite is None else np.asarray(finite)
    return Chunk(first, loss, np.ones_like(loss), finite, 1.0)


def rate(step):
    return 0.5


def test_the_first_update_that_is_not_finite_ends_the_run_with_step_rate_and_last_checkpoint(tmp_path):
    hook = hooks.StopWhenNotFinite(rate, tmp_path)
    hook.on_metrics(chunk(0.1, 0.2))
    with pytest.raises(TrainingError) as caught:
        hook.on_metrics(chunk(0.1, np.nan, np.inf, first=3))
    assert "step 4: expected finite numbers, found loss nan, gradient norm 1" in str(caught.value)
    assert "at learning rate 0.5" in str(caught.value) and "no checkpoint" in str(caught.value)
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(
        TrainingError, match="vectors that are not finite.*checkpoint-2 is the last one before"
    ):
        hook.on_metrics(chunk(0.1, 0.1, finite=[True, False]))


def test_skipped_updates_are_counted_and_so_many_in_a_row_end_the_run(tmp_path, capsys):
    hook = hooks.SkipNotFinite(rate, tmp_path, limit=3)
    hook.on_metrics(chunk(0.1, np.nan, np.nan))
    hook.on_metrics(chunk(0.1, np.inf, first=4))
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "warning: step 2: loss nan, gradient norm 1; 2 updates skipped, 2 so far",
        "warning: step 5: loss inf, gradient norm 1; an update skipped, 3 so far",
    ]
    hook.on_metrics(chunk(np.nan, first=6))
    with pytest.raises(TrainingError, match="step 7"):
        hook.on_metrics(chunk(np.nan, first=7))
    hook.close(finished=False)
    assert "5 of 7 updates were skipped because they were not finite" in capsys.readouterr().err


def metrics(path, start=5):
    return hooks.Metrics(path, start=start, samples=1, learning_rate=rate)


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff\xfe4,1,1,1,1\n",
        b"\0" * 4096,
        "²,1,1,1,1\n".encode(),
        b"9" * 5000 + b",1,1,1,1\n",
        b'"' + b"9" * 200_000,
    ],
    ids=["no UTF-8", "zeros", "no digit", "digits", "a field without an end"],
)
def test_a_resumed_run_keeps_what_can_be_read_of_damaged_metrics(tmp_path, damage):
    path = tmp_path / "m.csv"
    path.write_bytes(b"step,loss\n3,1,1,1,1\n" + damage)
    metrics(path)
    assert path.read_text().splitlines() == [",".join(hooks.METRICS), "3,1,1,1,1"]


def test_metrics_that_are_a_link_or_a_pipe(tmp_path):
    (tmp_path / "mine").write_text("3,1,1,1,1\n")
    (tmp_path / "m.csv").symlink_to(tmp_path / "mine")
    metrics(tmp_path / "m.csv").on_metrics(chunk(1.0, first=6))
    assert (tmp_path / "mine").read_text() == "3,1,1,1,1\n"
    assert len((tmp_path / "m.csv").read_text().splitlines()) == 3
    os.mkfifo(tmp_path / "p.csv")
    with pytest.raises(OutputError, match="a pipe, which is no file"):
        metrics(tmp_path / "p.csv")


def test_metrics_are_means_over_what_was_finite(tmp_path):
    metrics = hooks.Metrics(tmp_path / "m.csv", start=0, samples=1, learning_rate=rate, log_every=3)
    metrics.on_metrics(chunk(1.0, np.nan, 3.0, np.nan, np.nan, np.nan))
    rows = [line.split(",")[:2] for line in (tmp_path / "m.csv").read_text().splitlines()]
    assert rows == [["step", "loss"], ["3", "2"], ["6", "nan"]]


class Failing(Hook):
    every = 5

    def __init__(self):
        self.errors = {}
        self.called = []

    def _call(self, name):
        self.called.append(name)
        if name in self.errors:
            raise self.errors[name]
        self.stop = True

    def on_start(self, step, state):
        self._call("on_start")

    def on_metrics(self, chunk):
        self._call("on_metrics")

    def on_step(self, step, state):
        self._call("on_step")

    def on_interrupt(self, step, state):
        self._call("on_interrupt")

    def close(self, finished):
        self._call("close")


def test_what_is_dispensable_fails_with_a_warning_and_is_tried_again(capsys):
    inner = Failing()
    hook = hooks.NonFatalHook("the preview", inner)
    assert hook.every == 5
    full, memory = OSError(28, "No space left on device"), MemoryError()
    inner.errors = dict.fromkeys(("on_start", "on_metrics", "on_step", "on_interrupt", "close"), full)
    hook.on_start(0, STATE)
    assert not hook.stop
    hook.on_metrics(chunk(0.1))
    hook.on_step(5, STATE)
    said = "warning: step 0: the preview failed, and training goes on: [Errno 28] No space left on device\n"
    assert capsys.readouterr().err == said
    inner.errors["on_step"] = memory
    hook.on_step(10, STATE)
    assert "step 10: the preview failed, and training goes on: MemoryError" in capsys.readouterr().err
    hook.on_interrupt(10, STATE)
    hook.close(finished=False)
    inner.errors = {}
    hook.on_step(15, STATE)
    assert hook.stop and inner.called.count("on_step") == 3
    assert inner.called[0] == "on_start" and inner.called[-2:] == ["close", "on_step"]


def test_what_ends_the_program_is_not_held_back():
    inner = Failing()
    inner.errors = {"on_step": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        hooks.NonFatalHook("the preview", inner).on_step(5, STATE)


def saver(folder):
    return hooks.SaveCheckpoint(folder, every=1, total_limit=None, config={}, fingerprint={})


def test_a_folder_that_has_vanished_is_said_and_not_made_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    hook = saver(folder)
    hook.on_step(7, STATE)
    assert (folder / "checkpoint-7").is_dir()
    shutil.rmtree(folder)
    with pytest.raises(
        OutputError, match="run: expected the folder that the run began in, found no such file"
    ):
        hook.on_step(8, STATE)
    assert not folder.exists()


def test_another_disk_in_its_place_is_said(tmp_path, monkeypatch):
    hook = saver(tmp_path)
    monkeypatch.setattr(hook, "_device", -1)
    with pytest.raises(OutputError, match="found another disk's"):
        hook.on_step(8, STATE)
    assert not list(tmp_path.iterdir())
