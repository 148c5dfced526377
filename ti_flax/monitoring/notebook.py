"""How far a run is, and its newest previews, in the output of a notebook's cell."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

from ti_flax.errors import ConfigError
from ti_flax.monitoring.previews import SHEET
from ti_flax.training.loop import Chunk, Hook
from ti_flax.training.state import TrainState

# Pixels of a cell's output in width; a sheet of large previews is megabytes in full size.
WIDTH = 1200


class ShowInNotebook(Hook):
    """Shows the step, the loss and the contact sheet below the cell that trains, each in a place of its own.

    Failures to read or show the sheet end nothing: it is read again the next time.
    """

    def __init__(self, output_dir: str | Path, total_steps: int | None = None):
        """Takes where the run writes, and how many updates it makes if that is known.

        Raises:
          ConfigError: IPython is not there, as outside of notebooks.
        """
        try:
            import IPython.display
        except ImportError:
            raise ConfigError(
                "ShowInNotebook",
                expected="a notebook",
                found="a Python without IPython",
                remedy="Leave this hook out.",
            ) from None
        self._make: Any = IPython.display
        self._sheet, self._total = Path(output_dir) / SHEET, total_steps
        self._places: dict[str, Any] = {}
        self._shown_at: int | None = None

    def on_start(self, step: int, state: TrainState) -> None:
        self._shown_at = self._written_at()  # of an earlier run, until this one draws its own
        self._show_progress(step, "compiled")
        if step:
            self._show_sheet()

    def on_metrics(self, chunk: Chunk) -> None:
        self._show_progress(chunk.last_step, f"loss {float(chunk.loss.mean()):.4f}")
        self._show_if_new()

    def on_step(self, step: int, state: TrainState) -> None:
        self._show_if_new()

    def close(self, finished: bool) -> None:
        self._show_if_new()

    def _show_progress(self, step: int, said: str) -> None:
        of = f" of {self._total}" if self._total else ""
        ends = f' value="{step}" max="{self._total}"' if self._total else ""
        text = f"step {step}{of}, {said}"
        self._show("progress", self._make.HTML(f"<progress{ends}></progress> {html.escape(text)}"))

    def _show_if_new(self) -> None:
        if self._written_at() != self._shown_at:
            self._shown_at = self._written_at()
            self._show_sheet()

    def _show_sheet(self) -> None:
        from PIL import Image

        file = io.BytesIO()
        try:
            with Image.open(self._sheet) as sheet:
                sheet.thumbnail((WIDTH, 4 * WIDTH))
                sheet.convert("RGB").save(file, format="JPEG", quality=90)
        except OSError:
            return
        self._show("sheet", self._make.Image(file.getvalue(), format="jpeg"))

    def _written_at(self) -> int | None:
        try:
            return self._sheet.stat().st_mtime_ns
        except OSError:
            return None

    def _show(self, place: str, what: Any) -> None:
        if place in self._places:
            self._places[place].update(what)
        else:
            self._places[place] = self._make.display(what, display_id=True)
