"""Programs that show curves and images of a run, by the names that accelerate gives them."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ti_flax.console.messages import warn
from ti_flax.errors import ConfigError

# Where runs are gathered in programs that have projects, as in diffusers' script.
PROJECT = "textual_inversion"
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


class Backend(NamedTuple):
    """What each program does.

    Attributes:
      scalars: takes values by name, and a step.
      image: takes a name, `[height, width, 3]` uint8, and a step.
      close: takes nothing.
    """

    scalars: Callable[[dict[str, float], int], object]
    image: Callable[[str, np.ndarray, int], object]
    close: Callable[[], object]


# Points of later steps that wait for those of step 0, at most.
_MOST_HELD = 1000


class Tracker:
    """A program that is told about the run; when it fails, that is said once and the run goes on without.

    What is told of step 0 may come late, once its program is compiled. Later steps are held back until then,
    as some of these programs drop what is told of an earlier step than the last.

    Args:
      name: of the program.
      open_it: begins a run there.
      story: of this run.
      awaited: how many things there are to tell of step 0.
    """

    def __init__(self, name: str, open_it: Callable[[RunInfo], Backend], story: RunInfo, *, awaited: int = 0):
        self._name, self._awaited = name, awaited
        self._held: list[Callable[[Backend], object]] = []
        self._backend: Backend | None = None
        self._try(lambda: setattr(self, "_backend", open_it(story)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each named curve."""
        told = dict(values)
        self._tell(lambda backend: backend.scalars(told, step), step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Adds an image, `[height, width, 3]` uint8."""
        self._tell(lambda backend: backend.image(name, pixels, step), step)

    def _tell(self, point: Callable[[Backend], object], step: int) -> None:
        if step == 0:
            self._awaited -= 1
            self._pass_on(point)
        else:
            self._held.append(point)
        if self._awaited <= 0 or len(self._held) > _MOST_HELD:
            self._release()

    def _release(self) -> None:
        held, self._held = self._held, []
        for point in held:
            self._pass_on(point)

    def _pass_on(self, point: Callable[[Backend], object]) -> None:
        if (backend := self._backend) is not None:
            self._try(lambda: point(backend))

    def close(self) -> None:
        """Lets the program finish."""
        self._release()
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


def open_trackers(names: Sequence[str], story: RunInfo, *, awaited: int = 0) -> list[Tracker]:
    """Opens trackers by name; `awaited` as in a `Tracker`."""
    return [Tracker(name, _TRACKERS[name][1], story, awaited=awaited) for name in names]


def _each(point: Callable[[str, float, int], object]) -> Callable[[dict[str, float], int], None]:
    """Gives one value after another to a program that takes no more at once."""

    def scalars(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            point(name, value, step)

    return scalars


def _tensorboard(story: RunInfo) -> Backend:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(story.folder))
    writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in story.config.items()))
    return Backend(_each(writer.add_scalar), partial(writer.add_image, dataformats="HWC"), writer.close)


def _like_wandb(package: str, story: RunInfo) -> Backend:
    """Opens Weights & Biases, or one of those that took its interface."""
    module = importlib.import_module(package)
    named = {"experiment_name" if package == "swanlab" else "name": story.name}
    project = os.environ.get("WANDB_PROJECT", PROJECT) if package == "wandb" else PROJECT
    run = module.init(project=project, config=dict(story.config), **named)
    return Backend(
        lambda values, step: run.log(values, step=step),
        lambda name, pixels, step: run.log({name: module.Image(pixels)}, step=step),
        run.finish,
    )


def _comet(story: RunInfo) -> Backend:
    comet_ml = importlib.import_module("comet_ml")
    experiment = comet_ml.start(project_name=os.environ.get("COMET_PROJECT_NAME", PROJECT))
    experiment.set_name(story.name)
    experiment.log_parameters(dict(story.config))
    return Backend(
        lambda values, step: experiment.log_metrics(values, step=step),
        # Comet reads arrays with matplotlib alone, and loses the image without it.
        lambda name, pixels, step: experiment.log_image(Image.fromarray(pixels), name=name, step=step),
        experiment.end,
    )


def _mlflow(story: RunInfo) -> Backend:
    mlflow = importlib.import_module("mlflow")
    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    mlflow.start_run(run_name=story.name)
    options = [(name, str(value)[:_MLFLOW_LENGTH]) for name, value in story.config.items()]
    for first in range(0, len(options), _MLFLOW_PARAMETERS):
        mlflow.log_params(dict(options[first : first + _MLFLOW_PARAMETERS]))
    return Backend(
        mlflow.log_metrics,
        lambda name, pixels, step: mlflow.log_image(pixels, f"{name}/step-{step}.png"),
        mlflow.end_run,
    )


def _aim(story: RunInfo) -> Backend:
    aim = importlib.import_module("aim")
    story.folder.mkdir(parents=True, exist_ok=True)
    run = aim.Run(repo=str(story.folder), experiment=PROJECT)
    run.name = story.name
    run["hparams"] = dict(story.config)
    return Backend(
        _each(lambda name, value, step: run.track(value, name=name, step=step)),
        lambda name, pixels, step: run.track(aim.Image(Image.fromarray(pixels)), name=name, step=step),
        run.close,
    )


def _clearml(story: RunInfo) -> Backend:
    clearml = importlib.import_module("clearml")
    project = os.environ.get("CLEARML_PROJECT", PROJECT)
    task = clearml.Task.init(project_name=project, task_name=story.name)
    task.connect_configuration(dict(story.config))
    log = task.get_logger()
    return Backend(
        _each(
            lambda name, value, step: log.report_scalar(title=name, series=name, value=value, iteration=step)
        ),
        lambda name, pixels, step: log.report_image(title=name, series=name, iteration=step, image=pixels),
        task.close,
    )


def _dvclive(story: RunInfo) -> Backend:
    live = importlib.import_module("dvclive").Live(dir=str(story.folder / "dvclive"))
    live.log_params(dict(story.config))

    def scalars(values: dict[str, float], step: int) -> None:
        live.step = step
        for name, value in values.items():
            live.log_metric(name, value)
        live.make_summary()

    def image(name: str, pixels: np.ndarray, step: int) -> None:
        live.step = step
        live.log_image(f"{name}.png", pixels)

    return Backend(scalars, image, live.end)


# By name: the package that each needs, and what opens it.
_TRACKERS: dict[str, tuple[str, Callable[[RunInfo], Backend]]] = {
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", partial(_like_wandb, "wandb")),
    "comet_ml": ("comet_ml", _comet),
    "mlflow": ("mlflow", _mlflow),
    "aim": ("aim", _aim),
    "clearml": ("clearml", _clearml),
    "dvclive": ("dvclive", _dvclive),
    "swanlab": ("swanlab", partial(_like_wandb, "swanlab")),
    "trackio": ("trackio", partial(_like_wandb, "trackio")),
}
PACKAGES = {name: package for name, (package, _) in _TRACKERS.items()}
