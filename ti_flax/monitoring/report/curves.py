"""The curves of a run's page: losses and prompt sensitivity at once, the others folded."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ti_flax.console.messages import warn
from ti_flax.errors import shortened
from ti_flax.monitoring.report.charts import Curve, Limit, chart, smoothed
from ti_flax.monitoring.report.files import read_inside
from ti_flax.monitoring.row_statistics import (
    DROWNS,
    OUT_OF_RANGE,
    Evaluation,
    VectorName,
    best_of,
    gained,
)

FILE = "metrics.csv"

_MOST_ROWS_DRAWN = 6
# Bytes of `metrics.csv`, which a million steps fill.
_LARGEST_METRICS = 2**26
_COLUMNS = ("step", "loss", "grad_norm", "learning_rate", "samples_per_second")


def read_metrics(folder: Path, name: str = FILE) -> dict[str, np.ndarray]:
    """The columns of `metrics.csv`; a line that a kill cut short is left out."""
    content = read_inside(folder, name, _LARGEST_METRICS)
    if content is None:
        return {}
    try:
        lines = csv.reader(io.StringIO(content.decode(), newline=""))
        names = next(lines, [])
        missing = [column for column in _COLUMNS if column not in names]
        if missing:
            raise ValueError(f"it has no column {missing[0]}")
        places = [names.index(column) for column in _COLUMNS]
        rows = [row for line in lines if len(line) == len(names) for row in _numbers(line, places)]
    except (ValueError, csv.Error) as error:
        warn(f"{folder / name} is left out of the page: {shortened(str(error), 100)}")
        return {}
    return dict(zip(_COLUMNS, np.asarray(rows, np.float64).reshape(len(rows), len(places)).T, strict=True))


def _numbers(line: Sequence[str], places: Sequence[int]) -> Iterable[list[float]]:
    try:
        yield [float(line[place]) for place in places]
    except ValueError:
        return


def curves(metrics: dict[str, np.ndarray], table: Sequence[Evaluation]) -> str:
    """The charts of metrics and evaluations; empty where there is nothing to draw."""
    best = best_of(table)
    mark = (best.step, f"best, step {best.step}") if best is not None and gained(table) else None
    first = [*_of_evaluations(table, mark), _training_loss(metrics)]
    more = [*_of_metrics(metrics), *_of_rows(table)]
    shown = f'<div class="charts">{"".join(first)}</div>' if any(first) else ""
    folded = f'<div class="charts">{"".join(more)}</div>' if any(more) else ""
    names = "More curves: gradient norm, learning rate and the vectors"
    return shown + (f"<details><summary>{names}</summary>{folded}</details>" if folded else "")


def _training_loss(metrics: dict[str, np.ndarray]) -> str:
    return chart(
        "Training loss",
        _noisy(metrics, "loss"),
        explanation="Mostly noise: every step has images, timesteps and noise of its own.",
        unit="mean squared error",
    )


def _noisy(metrics: dict[str, np.ndarray], name: str) -> list[Curve]:
    """A column of metrics as it is, and smoothed."""
    step = metrics.get("step", np.zeros(0))
    if len(step) < 2:
        return []
    half_life = max(2.0, len(step) / 20)
    return [
        Curve("each step", step, metrics[name], faint=True),
        Curve("smoothed", step, smoothed(metrics[name], half_life)),
    ]


def _of_metrics(metrics: dict[str, np.ndarray]) -> Iterable[str]:
    yield chart("Gradient norm", _noisy(metrics, "grad_norm"))
    rate = metrics.get("learning_rate", np.zeros(0))
    if len(set(rate.tolist())) > 1:
        yield chart("Learning rate", [Curve("", metrics["step"], rate)])


def _of_evaluations(table: Sequence[Evaluation], mark: tuple[float, str] | None) -> Iterable[str]:
    if best_of(table) is None:
        return
    step = np.asarray([each.step for each in table], np.float64)
    yield chart(
        "Validation loss",
        [Curve("", step, np.asarray([each.validation_loss for each in table]), dots=True)],
        explanation="With the same images, timesteps and noise each time: only learning moves it.",
        mark=mark,
        unit="mean squared error",
    )
    heard = [each.prompt_sensitivity for each in table]
    yield chart(
        "Prompt sensitivity",
        [Curve("", step, np.asarray([math.nan if each is None else each for each in heard]), dots=True)],
        explanation="How strongly predictions answer to the rest of a prompt, relative to the start.",
        mark=mark,
        limit=Limit(DROWNS, "overpowers the rest of the prompt", below=True, always=True),
        unit="times that of the start",
    )


def _of_rows(table: Sequence[Evaluation]) -> Iterable[str]:
    if best_of(table) is None:
        return
    step = np.asarray([each.step for each in table], np.float64)
    shown = drawn_vectors(table[-1].rows)
    names = {vector: vector_name(vector) if len(shown) > 1 else "" for vector in shown}
    yield chart(
        "Length",
        [
            Curve(name, step, np.asarray([each.rows[vector].norm_to_median for each in table]), dots=True)
            for vector, name in names.items()
        ],
        limit=Limit(OUT_OF_RANGE, "out of the range of known words"),
        unit="times the known words' median length",
    )
    yield chart(
        "Likeness to the start",
        [
            Curve(name, step, np.asarray([each.rows[vector].cosine_to_start for each in table]), dots=True)
            for vector, name in names.items()
        ],
        explanation="1 is the direction that it started in.",
        unit="cosine of the angle to the start",
    )


def drawn_vectors(vectors: Iterable[str]) -> list[str]:
    """The vectors that have curves, as many of each word and text encoder: the first ones."""
    names = {vector: VectorName.of(vector) for vector in vectors}
    kinds = {(name.word, name.encoder) for name in names.values()}
    each = max(1, _MOST_ROWS_DRAWN // max(1, len(kinds)))
    return [vector for vector, name in names.items() if name.number <= each][:_MOST_ROWS_DRAWN]


def vector_name(vector: str) -> str:
    """The name of a vector in words: `cat.1_text_encoder_2` is `cat, vector 1, text_encoder_2`."""
    name = VectorName.of(vector)
    return ", ".join(part for part in (name.word, f"vector {name.number}", name.encoder) if part)
