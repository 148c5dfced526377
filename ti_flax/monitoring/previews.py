"""Images of the validation prompts while it learns, and the sheet that shows them beside the training's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.console.messages import Stage, stage, warn
from ti_flax.files.atomic import atomic_write
from ti_flax.files.written_files import record
from ti_flax.generation.image_grid import contact_sheet, first_row_places, image_grid_of, sheet_size
from ti_flax.monitoring.trackers import Tracker
from ti_flax.training.loop import Chunk, Hook
from ti_flax.training.state import TrainState

# From rows to `[prompts, images, height, width, 3]` uint8, counting images on the stage that shows it.
Draw = Callable[[Mapping[str, np.ndarray], Stage], np.ndarray]

SHEET = "contact_sheet.png"

# The most steps, and training images, that the contact sheet shows; images of a row where steps are fewer.
STEPS_SHOWN, ACROSS = 5, 6


class Preview(Hook):
    """`validation/step-N.png`, a row for each prompt, and a new `contact_sheet.png` every so many steps.

    Step 0 is what the model draws before the first update. A preview that cannot be written is said, and ends
    nothing.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        every: int,
        draw: Draw,
        prompts: Sequence[str],
        images: int,
        training: np.ndarray,
        start_rows: Mapping[str, np.ndarray],
        result: Callable[[TrainState], Mapping[str, np.ndarray]],
        trackers: Sequence[Tracker] = (),
        ready: Callable[[], bool] = lambda: True,
    ):
        """Takes what draws and with which rows.

        Args:
          output_dir: where the images go.
          every: steps between two previews.
          draw: draws all prompts.
          prompts: in the order of what it draws.
          images: of each prompt.
          training: `[images, height, width, 3]` uint8 of the size of what it draws, for the sheet.
          start_rows: `[added_tokens, width]` float32 by text encoder, before the first update.
          result: from a state on the host to such rows.
          trackers: that are shown the previews as well.
          ready: whether `draw` can be called without waiting; before that, updates go on.
        """
        self.every = every
        self._folder, self._sheet = output_dir / "validation", output_dir / SHEET
        self._draw, self._prompts, self._images, self._training = draw, tuple(prompts), images, training
        self._start_rows, self._result, self._trackers = start_rows, result, trackers
        self._ready, self._put_off = ready, False

    def on_start(self, step: int, state: TrainState) -> None:
        # Until the first updates are made: they show soonest whether a run works.
        self._put_off = step == 0 or not (self._folder / "step-0.png").is_file()

    def on_metrics(self, chunk: Chunk) -> None:
        if self._put_off and self._ready():
            self.settle()

    def settle(self) -> None:
        if self._put_off:
            self._put_off = False
            self._show(0, self._start_rows)

    def on_step(self, step: int, state: TrainState) -> None:
        self.settle()
        self._show(step, self._result(state))

    def _show(self, step: int, rows: Mapping[str, np.ndarray]) -> None:
        which = f"the previews of step {step}" if step else "the first previews"
        with stage(f"drawing {which}", total=len(self._prompts) * self._images) as shown:
            drawn = self._draw(rows, shown)
        grid = image_grid_of(np.concatenate(drawn), columns=len(drawn[0]))
        try:
            record(self._sheet.parent, f"{self._folder.name}/step-{step}.png", SHEET)
            with atomic_write(self._folder / f"step-{step}.png") as file:
                grid.save(file, format="PNG")
            layout = {"prompts": len(drawn), "images": len(drawn[0]), "size": drawn.shape[2:4]}
            shown = previews(self._folder, up_to=step, **layout)
            with atomic_write(self._sheet) as file:
                sheet_of(self._prompts, self._training, shown).save(file, format="PNG")
        except OSError as error:
            warn(f"the preview of step {step} is not written: {error}")
        for tracker in self._trackers:
            tracker.image("validation", np.asarray(grid), step)


def previews(
    folder: Path, *, up_to: int, prompts: int, images: int, size: tuple[int, int]
) -> dict[int, np.ndarray]:
    """Reads the first, the last and some previews between back, in order of steps.

    Args:
      folder: with `step-N.png` files; others, and such of another layout, are passed over.
      up_to: the last step.
      prompts: rows of each file.
      images: columns of each file.
      size: height and width of an image, of which the proportion counts.

    Returns:
      Step to `[prompts, images, height, width, 3]` uint8.
    """
    files = preview_files(folder)
    steps = [step for step in files if step <= up_to]
    found = {step: _tiles(files[step], prompts, images, size) for step in evenly(steps, STEPS_SHOWN)}
    shapes = [tiles.shape for tiles in found.values() if tiles is not None]
    # One run has images of one size, which is that of the last.
    return {step: tiles for step, tiles in found.items() if tiles is not None and tiles.shape == shapes[-1]}


def preview_files(folder: Path) -> dict[int, Path]:
    """The previews in a folder, from step to file, in order of steps."""
    matches = ((re.fullmatch(r"step-(\d+)\.png", path.name), path) for path in folder.glob("step-*.png"))
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def evenly(items: Sequence[int], count: int) -> list[int]:
    """At most `count` items, the first and the last among them, in even distances."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[round(place)] for place in places.tolist()]


def tile_size(
    grid: tuple[int, int], rows: int, columns: int, size: tuple[int, int]
) -> tuple[int, int] | None:
    """Height and width of each image in a grid; None if it is laid out in another way.

    Args:
      grid: its height and width.
      rows: of images.
      columns: of images.
      size: height and width that the images are in proportion of.
    """
    height, width = grid[0] // rows, grid[1] // columns
    whole = grid == (rows * height, columns * width) and height > 0
    return (height, width) if whole and height * size[1] == width * size[0] else None


def _tiles(path: Path, rows: int, columns: int, size: tuple[int, int]) -> np.ndarray | None:
    """The images of a grid, `[rows, columns, height, width, 3]` uint8; None if it is none."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            grid = np.asarray(opened.convert("RGB"))
    except OSError:
        return None
    found = tile_size((grid.shape[0], grid.shape[1]), rows, columns, size)
    if found is None:
        return None
    return grid.reshape(rows, found[0], columns, found[1], 3).swapaxes(1, 2)


def sheet_of(prompts: Sequence[str], training: np.ndarray, shown: dict[int, np.ndarray]) -> Any:
    """The contact sheet, a PIL image: training images, then prompts as rows and steps as columns.

    Where the steps are few, a column has several images, those of the same noise as in the other columns.

    Args:
      prompts: as in the previews.
      training: `[images, height, width, 3]` uint8.
      shown: step to `[prompts, images, height, width, 3]` uint8, in order, at least one.
    """
    each = _images_of_a_column(len(shown), next(iter(shown.values())).shape[1])
    rows = [("training images", training[:STEPS_SHOWN])]
    for index, prompt in enumerate(prompts):
        rows.append((prompt, np.concatenate([drawn[index, :each] for drawn in shown.values()])))
    heads = [(step_name(step), each) for step in shown]
    return contact_sheet(rows, heads=heads, above=1)


def _images_of_a_column(steps: int, images: int) -> int:
    return min(images, max(1, ACROSS // steps))


def training_places(
    size: tuple[int, int], tile: tuple[int, int], *, prompts: int, images: int, training: int
) -> list[tuple[int, int, int, int]]:
    """Where the training images lie on a contact sheet: left, top, right, bottom; none in another layout.

    Args:
      size: width and height of the sheet.
      tile: height and width of an image in the previews.
      prompts: of the previews.
      images: of each prompt in the previews.
      training: images that the run learns from.
    """
    count = min(training, STEPS_SHOWN)
    for steps in range(1, STEPS_SHOWN + 1):
        each = _images_of_a_column(steps, images)
        columns = max(count, each * steps)
        if size == sheet_size(tile, prompts + 1, columns, [each] * steps):
            return first_row_places(tile, count)
    return []


def step_name(step: int) -> str:
    """What a column of previews is called."""
    return f"step {step}" if step else "before"
