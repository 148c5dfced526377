"""Trackers, each with a small module of the same interface in its package's place."""

import sys
import textwrap

import numpy as np
import pytest
from tiny_folder import write_folder, write_images

from ti_flax.config import RunConfig
from ti_flax.errors import ConfigError
from ti_flax.monitoring.trackers import PACKAGES, RunInfo, chosen_trackers, open_trackers
from ti_flax.run import train as run

# Every module writes what it is told into `told`, a list of its own.
FAKES = {
    "wandb": """
        class Image:
            def __init__(self, pixels): self.pixels = pixels
        class Run:
            def log(self, values, step=None): told.append(("log", values, step))
            def finish(self): told.append(("end",))
        def init(*, project, name, config):
            told.append(("begin", project, name, config))
            return Run()
        """,
    "swanlab": """
        class Image:
            def __init__(self, pixels): self.pixels = pixels
        class Run:
            def log(self, values, step=None): told.append(("log", values, step))
            def finish(self): told.append(("end",))
        def init(*, project, experiment_name, config):
            told.append(("begin", project, experiment_name, config))
            return Run()
        """,
    "comet_ml": """
        class Experiment:
            def set_name(self, name): self.name = name
            def log_parameters(self, values): told.append(("begin", self.project, self.name, values))
            def log_metrics(self, values, step): told.append(("log", values, step))
            def log_image(self, image, *, name, step):
                assert hasattr(image, "save"), "the real one loses arrays where matplotlib is not installed"
                told.append(("image", name, image, step))
            def end(self): told.append(("end",))
        def start(*, project_name):
            made = Experiment()
            made.project = project_name
            return made
        """,
    "mlflow": """
        names = []
        def set_experiment(name): names.append(name)
        def start_run(*, run_name): names.append(run_name)
        def log_params(values):
            assert len(values) <= 100 and all(len(value) <= 500 for value in values.values())
            told.append(("begin", *names, values))
        def log_metrics(values, step): told.append(("log", values, step))
        def log_image(pixels, file): told.append(("image", file, pixels, None))
        def end_run(): told.append(("end",))
        """,
    "aim": """
        class Image:
            def __init__(self, image): self.pixels = image
        class Run:
            def __init__(self, *, repo, experiment): self.experiment = experiment
            def __setitem__(self, name, values): told.append(("begin", self.experiment, self.name, values))
            def track(self, value, *, name, step): told.append(("log", {name: value}, step))
            def close(self): told.append(("end",))
        """,
    "clearml": """
        class Logger:
            def report_scalar(self, *, title, series, value, iteration):
                told.append(("log", {title: value}, iteration))
            def report_image(self, *, title, series, iteration, image):
                told.append(("image", title, image, iteration))
        class Task:
            @classmethod
            def init(cls, *, project_name, task_name):
                made = cls()
                made.names = project_name, task_name
                return made
            def connect_configuration(self, values): told.append(("begin", *self.names, values))
            def get_logger(self): return Logger()
            def close(self): told.append(("end",))
        """,
    "dvclive": """
        class Live:
            step = None
            def __init__(self, *, dir): self.dir = dir
            def log_params(self, values): told.append(("begin", "textual_inversion", "my-run", values))
            def log_metric(self, name, value): told.append(("log", {name: value}, self.step))
            def log_image(self, name, pixels): told.append(("image", name, pixels, self.step))
            def make_summary(self): pass
            def end(self): told.append(("end",))
        """,
}
FAKES["trackio"] = FAKES["wandb"]
PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts fake packages on the path, and nothing else of theirs."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    made = []

    def install_one(name, source=None):
        source = textwrap.dedent(FAKES[name] if source is None else source)
        (folder / f"{name}.py").write_text(f"told = []\n{source}")
        made.append(name)

    yield install_one
    for name in made:
        sys.modules.pop(name, None)


def told(name):
    return sys.modules[name].told


@pytest.mark.parametrize("name", FAKES)
def test_each_is_told_options_curves_and_images(name, install, tmp_path):
    install(name)
    (tracker,) = open_trackers([name], RunInfo("my-run", tmp_path / "logs", {"learning_rate": 1e-3}))
    tracker.scalars({"loss": 0.5, "lr": 0.1}, 7)
    tracker.image("validation", PIXELS, 8)
    tracker.close()
    begin, *points, shown, end = told(name)
    assert begin[:3] == ("begin", "textual_inversion", "my-run")
    assert {key: float(value) for key, value in begin[3].items()} == {"learning_rate": 1e-3}
    assert all(point[2] == 7 for point in points)
    assert {key: value for point in points for key, value in point[1].items()} == {"loss": 0.5, "lr": 0.1}
    if shown[0] == "log":
        ((label, image),) = shown[1].items()
        assert label == "validation" and shown[2] == 8
        np.testing.assert_array_equal(np.asarray(image.pixels), PIXELS)
    else:
        assert shown[1].startswith("validation")
        np.testing.assert_array_equal(shown[2], PIXELS)
        assert shown[3] == 8 or "step-8" in shown[1]
    assert end == ("end",)


def test_tensorboard_is_told_the_same(tmp_path):
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401  the real one, which writes files

    (tracker,) = open_trackers(["tensorboard"], RunInfo("my-run", tmp_path / "logs", {"learning_rate": 1e-3}))
    tracker.scalars({"loss": 0.5}, 7)
    tracker.image("validation", PIXELS, 8)
    tracker.close()
    (file,) = (tmp_path / "logs").iterdir()
    content = file.read_bytes()
    assert b"loss" in content and b"validation" in content and b"learning_rate: 0.001" in content


def test_a_package_that_is_not_there_is_one_line():
    with pytest.raises(ConfigError) as caught:
        chosen_trackers(["tensorboard", "wandb"])
    assert str(caught.value) == (
        "report_to: expected the Python package wandb for wandb, found that it is not installed. "
        "Install it (pip install wandb) or leave wandb out."
    )
    assert chosen_trackers(["none"]) == []


def test_all_are_those_that_are_installed(install):
    install("wandb")
    install("mlflow")
    assert chosen_trackers(["all"]) == ["tensorboard", "wandb", "mlflow"]
    assert chosen_trackers(["mlflow", "wandb", "mlflow"]) == ["mlflow", "wandb"]
    assert set(FAKES) | {"tensorboard"} == set(PACKAGES)


FAILING = """
    class Run:
        def log(self, values, step=None):
            told.append(step)
            if len(told) > {allowed}:
                raise RuntimeError("no connection\\nto the server")
        def finish(self): raise RuntimeError("never asked")
    class Image: pass
    def init(**_):
        {begin}
        return Run()
    """


@pytest.mark.parametrize(
    ("begin", "allowed", "points"), [("pass", 1, 2), ("raise OSError('no key')", 9, 0), ("exit(1)", 9, 0)]
)
def test_one_that_fails_is_one_warning_and_is_not_asked_again(
    install, tmp_path, capsys, begin, allowed, points
):
    install("wandb", FAILING.format(begin=begin, allowed=allowed))
    (tracker,) = open_trackers(["wandb"], RunInfo("my-run", tmp_path, {}))
    for step in range(5):
        tracker.scalars({"loss": 0.5}, step)
    tracker.image("validation", PIXELS, 8)
    tracker.close()
    assert len(told("wandb")) == points
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: wandb failed, the run goes on without it: ")


def test_what_is_told_late_of_step_0_comes_first(install, tmp_path):
    install("wandb")
    (tracker,) = open_trackers(["wandb"], RunInfo("my-run", tmp_path, {}), awaited=2)
    tracker.scalars({"loss": 1.0}, 2)
    tracker.image("validation", np.zeros((2, 2, 3), np.uint8), 0)
    tracker.scalars({"loss": 2.0}, 4)
    tracker.scalars({"validation_loss": 3.0}, 0)
    tracker.scalars({"loss": 4.0}, 6)
    tracker.close()
    assert [step for *_, step in told("wandb")[1:-1]] == [0, 0, 2, 4, 6]


@pytest.mark.parametrize("points", [3, 1500])
def test_what_never_comes_is_not_waited_for(install, tmp_path, points):
    install("wandb")
    (tracker,) = open_trackers(["wandb"], RunInfo("my-run", tmp_path, {}), awaited=1)
    for step in range(1, points + 1):
        tracker.scalars({"loss": 1.0}, step)
    assert bool(told("wandb")[1:]) == (points > 1000)
    tracker.close()
    assert [step for *_, step in told("wandb")[1:-1]] == list(range(1, points + 1))


def test_a_run_tells_them_everything_but_secrets(install, tmp_path):
    install("wandb")
    write_folder(tmp_path / "model")
    write_images(tmp_path / "pictures")
    config = RunConfig.from_dict(
        {
            "pretrained_model_name_or_path": str(tmp_path / "model"),
            "train_data_dir": str(tmp_path / "pictures"),
            "output_dir": str(tmp_path / "my-run"),
            "placeholder_token": "<thing>",
            "initializer_token": "toy",
            "resolution": 32,
            "train_batch_size": 1,
            "max_train_steps": 5,
            "log_every": 2,
            "lr_scheduler": "constant",
            "only_save_embeds": True,
            "report_to": ["wandb"],
            "hub_token": "hf_secret",
            "eval_steps": 4,
            "max_eval_samples": 3,
            "validation_prompt": "a <thing>",
            "num_validation_images": 1,
            "validation_steps": 4,
            "latents_cache_dir": str(tmp_path / "cache"),
        }
    )
    run.train(config)
    (_, project, name, options), *logged, end = told("wandb")
    assert (project, name) == ("textual_inversion", "my-run") and end == ("end",)
    assert (
        options["learning_rate"] == 1e-4
        and "hub_token" not in options
        and "hf_secret" not in repr(told("wandb"))
    )
    steps = {
        key: [step for _, values, step in logged if key in values] for key in ("loss", "lr", "grad_norm")
    }
    assert steps == {key: [2, 4, 5] for key in ("loss", "lr", "grad_norm")}
    assert [step for _, values, step in logged if "validation_loss" in values] == [0, 4, 5]
    assert [step for _, values, step in logged if "validation" in values] == [0, 4, 5]
    assert [step for _, _, step in logged] == sorted(step for _, _, step in logged)
    lines = (tmp_path / "my-run" / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "2", "4", "5"]
