"""Programs that show curves and pictures of a run, by the names that accelerate gives them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ti_flax.console.messages import warn
from ti_flax.errors import ConfigError

# Where runs are gathered in programs that have projects, as in diffusers' script.
PROJECT = "textual_inversion"
# The package that each of them needs.
PACKAGES = {
    "tensorboard": "tensorboardX",
    "wandb": "wandb",
    "comet_ml": "comet_ml",
    "mlflow": "mlflow",
    "aim": "aim",
    "clearml": "clearml",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
    "trackio": "trackio",
}
# MLflow takes as many parameters at once, and values as long as this.
_MLFLOW_PARAMETERS, _MLFLOW_LENGTH = 100, 500


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of a run before it begins.

    Attributes:
      name: of the run.
      folder: for trackers that write files.
      config: the options, without secrets.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]


class Backend(Protocol):
    """What each program has to do."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """A program that is told about the run; when it fails, that is said once and the run goes on without."""

    def __init__(self, name: str, open_it: Callable[[RunInfo], Backend], story: RunInfo):
        self._name = name
        self._backend: Backend | None = None
        self._try(lambda: setattr(self, "_backend", open_it(story)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each named curve."""
        if (backend := self._backend) is not None:
            self._try(lambda: backend.scalars(values, step))

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Adds a picture, `[height, width, 3]` uint8."""
        if (backend := self._backend) is not None:
            self._try(lambda: backend.picture(name, pixels, step))

    def close(self) -> None:
        """Lets the program finish."""
        if (backend := self._backend) is not None:
            self._try(backend.close)
            self._backend = None

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (Exception, SystemExit) as error:  # whatever another program does, it must not end the run
            self._backend = None
            problem = " ".join(str(error).split()) or type(error).__name__
            warn(f"{self._name} failed, the run goes on without it: {problem[:300]}")


def chosen_trackers(report_to: Sequence[str]) -> list[str]:
    """The trackers to use; `all` are those that are installed, and TensorBoard only counts if it is.

    Raises:
      ConfigError: the package of one that was named is not installed.
    """
    here = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package) is not None]
    if "all" in report_to:
        return here
    names = [name for name in dict.fromkeys(report_to) if name != "none"]
    if "tensorboard" not in here and "tensorboard" in names:
        names.remove("tensorboard")  # it is the default, and not worth ending a run for
    for name in names:
        if name not in here:
            raise ConfigError(
                "report_to",
                expected=f"the Python package {PACKAGES[name]} for {name}",
                found="that it is not installed",
                remedy=f"Install it (pip install {PACKAGES[name]}) or leave {name} out.",
            )
    return names


def open_trackers(names: Sequence[str], story: RunInfo) -> list[Tracker]:
    """Opens trackers by name."""
    openers: dict[str, Callable[[RunInfo], Backend]] = {
        "tensorboard": _TensorBoard,
        "wandb": _Wandb,
        "comet_ml": _Comet,
        "mlflow": _MLflow,
        "aim": _Aim,
        "clearml": _ClearML,
        "dvclive": _DVCLive,
        "swanlab": _SwanLab,
        "trackio": _Trackio,
    }
    return [Tracker(name, openers[name], story) for name in names]


class _TensorBoard:
    def __init__(self, story: RunInfo):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(story.folder))
        self._writer.add_text(
            "config", "\n".join(f"    {name}: {value}" for name, value in story.config.items())
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, story: RunInfo):
        import wandb  # pyright: ignore[reportMissingImports]

        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(project=project, name=story.name, config=dict(story.config))
        self._image = wandb.Image

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._run.log({name: self._image(pixels)}, step=step)

    def close(self) -> None:
        self._run.finish()


class _SwanLab(_Wandb):
    def __init__(self, story: RunInfo):
        import swanlab  # pyright: ignore[reportMissingImports]

        self._run = swanlab.init(project=PROJECT, experiment_name=story.name, config=dict(story.config))
        self._image = swanlab.Image


class _Trackio(_Wandb):
    def __init__(self, story: RunInfo):
        import trackio  # pyright: ignore[reportMissingImports]

        self._run = trackio.init(project=PROJECT, name=story.name, config=dict(story.config))
        self._image = trackio.Image


class _Comet:
    def __init__(self, story: RunInfo):
        import comet_ml  # pyright: ignore[reportMissingImports]

        self._experiment = comet_ml.start(project_name=os.environ.get("COMET_PROJECT_NAME", PROJECT))
        self._experiment.set_name(story.name)
        self._experiment.log_parameters(dict(story.config))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._experiment.log_metrics(dict(values), step=step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._experiment.log_image(pixels, name=name, step=step)

    def close(self) -> None:
        self._experiment.end()


class _MLflow:
    def __init__(self, story: RunInfo):
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow = mlflow
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        mlflow.start_run(run_name=story.name)
        options = [(name, str(value)[:_MLFLOW_LENGTH]) for name, value in story.config.items()]
        for first in range(0, len(options), _MLFLOW_PARAMETERS):
            mlflow.log_params(dict(options[first : first + _MLFLOW_PARAMETERS]))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._mlflow.log_image(pixels, f"{name}/step-{step}.png")

    def close(self) -> None:
        self._mlflow.end_run()


class _Aim:
    def __init__(self, story: RunInfo):
        import aim  # pyright: ignore[reportMissingImports]

        story.folder.mkdir(parents=True, exist_ok=True)
        self._run = aim.Run(repo=str(story.folder), experiment=PROJECT)
        self._image = aim.Image
        self._run.name = story.name
        self._run["hparams"] = dict(story.config)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._run.track(value, name=name, step=step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        from PIL import Image

        self._run.track(self._image(Image.fromarray(pixels)), name=name, step=step)

    def close(self) -> None:
        self._run.close()


class _ClearML:
    def __init__(self, story: RunInfo):
        import clearml  # pyright: ignore[reportMissingImports]

        project = os.environ.get("CLEARML_PROJECT", PROJECT)
        self._task = clearml.Task.init(project_name=project, task_name=story.name)
        self._task.connect_configuration(dict(story.config))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._task.get_logger().report_scalar(title=name, series=name, value=value, iteration=step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._task.get_logger().report_image(title=name, series=name, iteration=step, image=pixels)

    def close(self) -> None:
        self._task.close()


class _DVCLive:
    def __init__(self, story: RunInfo):
        import dvclive  # pyright: ignore[reportMissingImports]

        self._live = dvclive.Live(dir=str(story.folder / "dvclive"))
        self._live.log_params(dict(story.config))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._live.step = step
        self._live.log_image(f"{name}.png", pixels)

    def close(self) -> None:
        self._live.end()
