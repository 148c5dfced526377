"""Whole runs that are stopped, go wrong, or have to do without something."""

import csv
import os
import signal
import time

import jax.numpy as jnp
import numpy as np
import pytest
from row_trees import only
from tiny_folder import write_folder
from tiny_run import configure_scheduled as configure
from tiny_run import learned

from ti_flax.commands import report as make_report
from ti_flax.errors import OutputError, Stopped, TiFlaxError, TrainingError
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.run import step_config
from ti_flax.run import train as run
from ti_flax.training.checkpoint import checkpoint_steps, load_newest
from ti_flax.training.loop import Hook


@pytest.fixture(scope="module")
def whole(place):
    """The folder of a run that nothing interrupts."""
    return run.train(configure(place, place / "whole"))


@pytest.mark.parametrize(("signal_number", "stop_after"), [(signal.SIGINT, 1), (signal.SIGTERM, 4)])
def test_a_run_asked_to_end_is_saved_and_ends_with_the_same_bits_later(
    place, tmp_path, whole, signal_number, stop_after
):
    class StopHere(Hook):
        every = stop_after

        def on_step(self, step, state):
            os.kill(os.getpid(), signal_number)
            time.sleep(0.5)  # for the thread that hears it

    auto = configure(place, tmp_path, resume_from_checkpoint="auto")
    message = f"stopped after step {stop_after}; --resume_from_checkpoint auto goes on"
    with pytest.raises(Stopped, match=message):
        run.train(auto, hooks=[StopHere()])
    assert checkpoint_steps(tmp_path)[-1] == stop_after
    assert (tmp_path / f"learned_embeds-steps-{stop_after}.safetensors").exists()
    assert RunFacts.read(tmp_path).steps == 6 and not (tmp_path / "report.html").exists()
    make_report.run(make_report.parse_arguments([str(tmp_path)]))
    assert not (tmp_path / "learned_embeds.safetensors").exists()
    folder = run.train(auto)
    assert learned(folder).tobytes() == learned(whole).tobytes()
    with (folder / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5", "6"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoints(place, tmp_path):
    from safetensors.numpy import load_file, save_file

    write_folder(tmp_path / "model")
    file = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"][:] = 3e38  # finite, as others are refused; its square is not
    save_file(weights, file, metadata={"format": "pt"})
    config = configure(place, tmp_path / "out", pretrained_model_name_or_path=str(tmp_path / "model"))
    with pytest.raises(TiFlaxError, match="step 1: expected finite numbers.*learning rate"):
        run.train(config)
    assert checkpoint_steps(tmp_path / "out") == []


class RateOfInfinity:
    """A learning rate that is infinite at some updates, counted from 0."""

    def __init__(self, *steps):
        self._steps = np.asarray(steps)

    def __call__(self, step):
        return jnp.where(jnp.isin(step, self._steps), jnp.inf, 1e-2)


def test_vectors_that_are_not_finite_end_the_run_and_the_checkpoint_before_them_is_the_newest(
    place, tmp_path, monkeypatch
):
    monkeypatch.setattr(step_config, "make_schedule", lambda *options: RateOfInfinity(4))
    with pytest.raises(
        TrainingError, match=r"step 5.*learning rate inf.*checkpoint-4 is the last one before"
    ):
        run.train(configure(place, tmp_path, steps_per_call=6))
    assert checkpoint_steps(tmp_path) == [2, 4]
    assert np.isfinite(only(load_newest(tmp_path)[0].rows)).all()
    assert not (tmp_path / "learned_embeds.safetensors").exists()


def test_a_skipped_update_leaves_vectors_and_optimizer_as_they_were(place, tmp_path, monkeypatch, capsys):
    class Zero(RateOfInfinity):
        def __call__(self, step):
            return jnp.where(jnp.isin(step, self._steps), 0.0, 1e-2)

    changes = {"optimizer": "sgd", "on_nonfinite": "skip", "max_nonfinite_steps": 3, "steps_per_call": 2}
    folders = {}
    for name, schedule in (("skipped", RateOfInfinity(1, 2)), ("nothing moved", Zero(1, 2))):
        monkeypatch.setattr(step_config, "make_schedule", lambda *options, rate=schedule: rate)
        folders[name] = run.train(configure(place, tmp_path / name, **changes))
    skipped, expected = (learned(folder) for folder in folders.values())
    assert np.isfinite(skipped).all() and skipped.tobytes() == expected.tobytes()
    assert "2 of 6 updates were skipped because they were not finite" in capsys.readouterr().err


def test_what_fails_beside_the_updates_does_not_end_the_run(place, tmp_path, whole, monkeypatch, capsys):
    from ti_flax.monitoring import evaluation, hooks, previews

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(previews, "image_grid_of", full)
    monkeypatch.setattr(evaluation, "write_evaluations", full)
    monkeypatch.setattr(hooks.Metrics, "_write", full)
    monkeypatch.setattr(run, "write_facts", lambda *args, **kwargs: None)
    changes = {"validation_prompt": "a <thing>", "validation_steps": 3, "num_validation_images": 1}
    folder = run.train(configure(place, tmp_path, eval_steps=3, **changes))
    assert learned(folder).tobytes() == learned(whole).tobytes()
    told = capsys.readouterr().err
    for what in ("the preview", "the evaluation", "metrics.csv"):
        assert f"{what} failed, and training goes on: [Errno 28]" in told


def test_a_finished_result_without_checkpoints_is_not_trained_anew_by_auto(place, tmp_path):
    (tmp_path / "learned_embeds.safetensors").write_bytes(b"precious")
    with pytest.raises(OutputError, match="found learned_embeds.safetensors in it, and no run"):
        run.train(configure(place, tmp_path, resume_from_checkpoint="auto"))
    assert (tmp_path / "learned_embeds.safetensors").read_bytes() == b"precious"


def test_deterministic_asks_xla_for_it_once(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    run.make_deterministic()
    run.make_deterministic()
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops=true"
