"""What changes on the page while a run goes on, and only that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from ti_flax.errors import TiFlaxError
from ti_flax.monitoring.report.document import escape
from ti_flax.monitoring.report.preview_table import Layout
from ti_flax.web.actions import png
from ti_flax.web.markup import code, fault_text, note, report
from ti_flax.web.runs.processes import Program
from ti_flax.web.runs.results import samples_of
from ti_flax.web.runs.stamp import stamp_of
from ti_flax.web.runs.view import STATES, RunView, look_at, queue, verdict_markup
from ti_flax.web.work_folder import WorkFolder

LIVE = ("status", "charts", "log", "preview_step", "preview", "samples", "vectors", "stop", "go_on", "queue")
LIVE += ("drawing", "concept", "reader", "preview_rows")
_MOST_SAMPLES, _MOST_RUNS, _LINES = 12, 50, 12
# How far a small preview is enlarged, and the width that it may have then, in pixels.
_MOST_TIMES, _COLUMN = 4, 860
STOP, TAKE_OUT = "Stop", "Take out of the queue"
_NO_RUN = "No run has been started in this folder yet."


class Changes(dict[str, Any]):
    """What changes, by name of the field; what has been shown already is left out.

    Args:
      seen: what was shown before, by name; what is shown now is added to it.
    """

    def __init__(self, seen: dict[str, Any]):
        super().__init__()
        self._seen = seen

    def show(self, name: str, what: object, make: Callable[[], Any]) -> None:
        """Changes a field if what it shows is not what it showed."""
        key = repr(what)
        if self._seen.get(name) != key:
            self._seen[name] = key
            self[name] = make()


def live(
    work: WorkFolder,
    name: str | None,
    seen: dict[str, Any],
    place: int,
    vectors: str | None,
    concept: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Looks at a run, where anything has changed since the last look.

    Args:
      work: the page's folder.
      name: of the run.
      seen: what the page shows, as this function gave it before.
      place: of the preview that is shown, from 1.
      vectors: that are chosen.
      concept: that is chosen, of a run of many.

    Returns:
      what changes by name of the field, what the page shows then, and the error that the run ended with.
    """
    names = work.run_names()[:_MOST_RUNS]
    folder = work.run(name)
    stamp = stamp_of(
        folder, work.runs, names, seen.get("concept_shown")
    )  # first: what changes after it is seen next
    if seen.get("stamp") == stamp:
        return {}, seen, ""
    seen = dict(seen) | {"stamp": stamp}
    changes = Changes(seen)
    if folder is None:
        changes.show("status", _NO_RUN, lambda: note(_NO_RUN))
        return changes, seen, ""
    view = look_at(folder, concept)
    seen["concept_shown"] = view.concept
    _show_concepts(changes, view)
    markup = verdict_markup(view)
    changes.show("status", markup, lambda: report(markup))
    changes.show("charts", view.charts, lambda: report(view.charts))
    said = "\n".join(Program(folder).said().splitlines()[-_LINES:])
    changes.show("log", said, lambda: said)
    _show_previews(changes, view, place, seen)
    _show_vectors(changes, view, vectors, seen)
    _show_samples(changes, view)
    label, can_stop = (TAKE_OUT, True) if view.waits else (STOP, view.at_work)
    changes.show("stop", (label, can_stop), lambda: gr.update(value=label, interactive=can_stop))
    changes.show("go_on", view.can_go_on, lambda: gr.update(interactive=view.can_go_on))
    table = queue([work.runs / each for each in names])
    changes.show("queue", table, lambda: table)
    return changes, seen, view.error


def _show_concepts(changes: Changes, view: RunView) -> None:
    """Lets one choose which concept of a run of many is shown."""
    choices = [(f"{each.name}: {STATES.get(each.state, each.state)}", each.name) for each in view.concepts]
    changes.show(
        "concept",
        (choices, view.concept),
        lambda: gr.update(choices=choices, value=view.concept or None, visible=bool(choices)),
    )


def _show_previews(changes: Changes, view: RunView, place: int, seen: dict[str, Any]) -> None:
    rows = rows_of(view)
    changes.show("preview_rows", rows, lambda: rows)
    steps, before = [*view.previews], int(seen.get("previews", 0))
    if len(steps) == before:
        return
    seen["previews"] = len(steps)
    place = len(steps) if place >= before else place  # the newest, unless somebody looks at another
    several = len(steps) > 1
    changes["preview_step"] = gr.update(maximum=max(2, len(steps)), value=max(1, place), visible=several)
    changes["preview"] = preview_of(view.previews, place)


def rows_of(view: RunView) -> str:
    """Says what the rows of a preview are of, as markup; empty where the run does not say it."""
    layout = Layout.of(view.facts) if view.previews and view.facts is not None else None
    prompts = () if layout is None else layout.prompts
    head = "From top to bottom" if len(prompts) > 1 else "Drawn"
    return note(f"{head}: {', '.join(code([each]) for each in prompts)}") if prompts else ""


def preview_of(previews: dict[int, Path], place: int) -> Any:
    """Shows the preview at a place, from 1."""
    steps = [*previews]
    if not steps:
        return gr.update(value=None, visible=False)
    step = steps[min(max(place, 1), len(steps)) - 1]
    try:
        label = f"Step {step}" if step else "Before the first step"
        return gr.update(value=enlarged(png(previews[step])), visible=True, label=label)
    except TiFlaxError:
        return gr.update()


def enlarged(image: Any) -> Any:
    """A small PIL image a whole number of times as large, which a page cannot do without blurring it."""
    from PIL.Image import Resampling

    times = min(_MOST_TIMES, _COLUMN // image.width)
    size = image.width * times, image.height * times
    return image if times < 2 else image.resize(size, Resampling.NEAREST)


def _show_vectors(changes: Changes, view: RunView, vectors: str | None, seen: dict[str, Any]) -> None:
    """Offers the vectors that can be used: the advised ones, unless somebody has chosen others."""
    usable = [*view.vectors.items()]
    offered, before = usable[0][1] if usable else None, seen.get("offered")
    seen["offered"] = offered
    chosen = vectors if vectors != before and vectors in view.vectors.values() else offered
    changes.show("vectors", usable, lambda: gr.update(choices=usable, value=chosen))
    if before not in (None, offered) and chosen != vectors:
        changes["reader"] = None  # the files that are shown are those of other vectors


def _show_samples(changes: Changes, view: RunView) -> None:
    samples = samples_of(view)[:_MOST_SAMPLES]
    changes.show("samples", samples, lambda: _gallery(samples))
    drawing = Program(view.folder, "sample")
    busy, error = drawing.is_at_work, drawing.error
    if busy or error:
        changes.show("drawing", (busy, error), lambda: note("Being drawn.") if busy else fault_text(error))
    elif samples:
        changes.show("drawing", samples, lambda: note(escape(f"Drawn: {samples[0][1]}")))


def _gallery(samples: list[tuple[Path, str]]) -> Any:
    shown = []
    for path, caption in samples:
        try:
            shown.append((png(path), caption))
        except TiFlaxError:
            continue
    return gr.update(value=shown, visible=bool(shown))
