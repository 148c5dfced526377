"""Samples that somebody asks for while a run goes on, by a file in its folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ti_flax.console.messages import Stage, say, stage, warn
from ti_flax.console.versions import __version__
from ti_flax.errors import DataError
from ti_flax.files.written_files import record
from ti_flax.generation.image_grid import image_grid_of
from ti_flax.generation.png_metadata import save_png
from ti_flax.monitoring.sample_request import FILE, SampleRequest, read_request
from ti_flax.training.loop import Chunk, Hook
from ti_flax.training.state import TrainState

# From a request and rows to `[prompts, images, height, width, 3]` uint8, counting on the stage that shows it.
DrawAsked = Callable[[SampleRequest, Mapping[str, np.ndarray], Stage], np.ndarray]

_NAME = re.compile(r"asked-(\d{1,9})\.png")


class AskedSamples(Hook):
    """`validation/asked-N.png` for each `sample_request.json` in the run's folder, at the end of a chunk.

    A row for each prompt, with the rows of that moment, by the program and from the seeds of the previews.
    The file is taken away. What is no request is answered by a line, and ends nothing.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        draw: DrawAsked | None = None,
        ready: Callable[[], bool] = lambda: True,
        result: Callable[[TrainState], Mapping[str, np.ndarray]] = lambda state: {},
    ):
        """Takes what draws.

        Args:
          output_dir: where requests are looked for, and images go.
          draw: draws a request; None: the run has no previews, and nothing that could draw.
          ready: whether `draw` can be called without waiting; before that, updates go on.
          result: from a state on the host to the rows to draw with.
        """
        self._folder, self._draw, self._ready, self._result = output_dir, draw, ready, result
        self._request: SampleRequest | None = None

    def on_metrics(self, chunk: Chunk) -> None:
        self._look()
        self.wants_state = self._request is not None and self._ready()

    def on_step(self, step: int, state: TrainState) -> None:
        self._look()  # for the last time, after the last update
        request, self._request, self.wants_state = self._request, None, False
        if request is not None and self._draw is not None:
            self._answer(request, self._draw, step, self._result(state))

    def _look(self) -> None:
        """Takes a request away, unless one waits for being drawn."""
        if self._request is not None or not os.path.lexists(self._folder / FILE):
            return
        try:
            request = read_request(self._folder)
        except DataError as error:
            warn(str(error))
            request = None
        (self._folder / FILE).unlink(missing_ok=True)
        if request is not None and self._draw is None:
            warn(f"{FILE}: nothing is drawn, as a run without validation_prompt has not kept what draws")
            return
        self._request = request

    def _answer(
        self, request: SampleRequest, draw: DrawAsked, step: int, rows: Mapping[str, np.ndarray]
    ) -> None:
        with stage("drawing what is asked for", total=len(request.prompts) * request.images) as shown:
            drawn = draw(request, rows, shown)
        name = next_name(self._folder)
        record(self._folder, name)
        texts = {
            "prompts": json.dumps(request.prompts, ensure_ascii=False),
            "images": str(request.images),
            "step": str(step),
            "Software": f"ti_flax {__version__}",
        }
        grid = image_grid_of(np.concatenate(drawn), columns=request.images)
        save_png(grid, self._folder / name, texts)
        say(f"drawn as asked for, with the vectors of step {step}: {self._folder / name}")


def asked_files(folder: Path) -> dict[int, Path]:
    """The samples that were asked for in a run's folder, from number to file, the first one first."""
    found = ((_NAME.fullmatch(path.name), path) for path in (folder / "validation").glob("asked-*.png"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def next_name(folder: Path) -> str:
    """The name of the next sample, inside of the run's folder."""
    return f"validation/asked-{max(asked_files(folder), default=0) + 1}.png"
