"""`index.html` of a run of many concepts: each with its state, its pictures and what went wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ti_flax.console.messages import warn
from ti_flax.errors import TiFlaxError
from ti_flax.files.atomic import atomic_write
from ti_flax.files.written_files import INDEX, record
from ti_flax.monitoring.evaluation import TABLE
from ti_flax.monitoring.previews import preview_files
from ti_flax.monitoring.report import facts
from ti_flax.monitoring.report.concepts import Entry, read_entries
from ti_flax.monitoring.report.document import document, escape
from ti_flax.monitoring.report.files import is_inside, is_there
from ti_flax.monitoring.report.images import changed, png_size
from ti_flax.monitoring.report.index_style import SCRIPT, STYLE
from ti_flax.monitoring.report.page import PAGE, write_report
from ti_flax.monitoring.report.verdict import complaints, evaluations

# Images are files of the run's own folder: with all of them inside, a page of 200 concepts is too large.
_IMAGES = "'self' file:"
# What the list can be narrowed to; those that something is said about have a state as well.
_FILTERS = ("failed", "flagged", "running", "done", "waiting")
# The largest box that a picture is shown in, in CSS pixels.
_WIDTH, _HEIGHT = 420, 200


@dataclass(frozen=True)
class Picture:
    """A preview.

    Attributes:
      step: updates made before it.
      name: of its file, relative to the run's folder.
      width: in pixels.
      height: likewise.
    """

    step: int
    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Found:
    """What the folder of a concept shows.

    Attributes:
      step: of the last evaluation; 0 without one.
      loss: its validation loss; None without one.
      complaints: what went wrong by the evaluations, a sentence each.
      pictures: the first preview and the last, as far as there are any.
      has_page: whether it has a page of its own.
    """

    step: int = 0
    loss: float | None = None
    complaints: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    has_page: bool = False


class IndexPage:
    """The page of a run; what has not changed since it was last written is not read again."""

    def __init__(self, folder: Path, *, shown_by: str = PAGE):
        """Takes the folder, and the file that shows of a concept's that it has a page."""
        self._folder, self._shown_by = folder, shown_by
        self._found: dict[str, tuple[object, Found]] = {}

    def write(self, entries: Sequence[Entry]) -> Path:
        """Writes the page.

        Raises:
          TiFlaxError: the list of the run's files cannot be written.
          OSError: the page cannot be written.
        """
        text = index_page(self._folder, self.look(entries))
        record(self._folder, INDEX)
        with atomic_write(self._folder / INDEX) as file:
            file.write(text.encode())
        return self._folder / INDEX

    def look(self, entries: Sequence[Entry]) -> list[tuple[Entry, Found]]:
        """Each concept with what its folder shows."""
        return [(entry, self._look(entry)) for entry in entries]

    def _look(self, entry: Entry) -> Found:
        if entry.state == "waiting":  # what is there is of an earlier run
            return Found()
        names = ("", TABLE, "validation", self._shown_by)
        now = tuple(changed(self._folder / entry.name / name) for name in names)
        known = self._found.get(entry.name)
        if known is None or known[0] != now:
            known = self._found[entry.name] = now, _found(self._folder, entry.name, self._shown_by)
        return known[1]


def write_index(folder: Path, entries: Sequence[Entry]) -> Path:
    """Writes the page of a run's folder once.

    Raises:
      TiFlaxError: the list of the run's files cannot be written.
      OSError: the page cannot be written.
    """
    return IndexPage(folder).write(entries)


def write_pages(folder: Path) -> Path:
    """Writes the pages of all concepts of a run that have begun, and the page that leads to them.

    Raises:
      DataError: it is no folder of a run of many concepts.
      OSError: the page cannot be written.
    """
    entries = read_entries(folder)
    for entry in entries:
        try:
            if is_there(folder, f"{entry.name}/{facts.FILE}"):
                write_report(folder / entry.name)
        except (OSError, TiFlaxError) as error:
            warn(f"{folder / entry.name / PAGE} is not written: {error}")
    return write_index(folder, entries)


def _found(folder: Path, name: str, shown_by: str) -> Found:
    """Looks into the folder of a concept; what cannot be read is left out, after a warning."""
    try:
        if not is_inside(folder, name):
            raise OSError("it is a link")
        table = evaluations(folder, f"{name}/{TABLE}")
        return Found(
            step=table[-1].step if table else 0,
            loss=table[-1].validation_loss if table else None,
            complaints=tuple(complaints(table)),
            pictures=tuple(_pictures(folder, name)),
            has_page=is_there(folder, f"{name}/{shown_by}"),
        )
    except FileNotFoundError:
        return Found()
    except Exception as error:  # whatever is wrong with it, the page of the others is written
        warn(f"{folder / name} is left out of {INDEX}: {error}")
        return Found()


def _pictures(folder: Path, name: str) -> list[Picture]:
    files = list(preview_files(folder / name / "validation").items())
    shown = [files[0], files[-1]] if len(files) > 1 else files
    found = []
    for step, path in shown:
        relative = f"{name}/validation/{path.name}"
        size = png_size(path) if is_there(folder, relative) else None
        if size is not None:
            found.append(Picture(step, relative, *size))
    return found


def index_page(
    folder: Path,
    concepts: Sequence[tuple[Entry, Found]],
    *,
    state: str = "",
    refresh: int | None = None,
) -> str:
    """The page's text: the concepts that failed, those that something is said about, and the others.

    Args:
      folder: of the run, for its name.
      concepts: in the order of the list.
      state: markup that says how far the run is, in a page that is made anew while it goes on.
      refresh: seconds after which a browser asks for it again; None: never.
    """
    cards = [_Card(entry, found) for entry, found in concepts]
    cards.sort(key=lambda card: ("failed", "flagged", "").index(card.look))
    title = folder.resolve().name or "concepts"
    counts = Counter(card.entry.state for card in cards)
    counts["flagged"] = sum(card.look == "flagged" for card in cards)
    return document(
        title,
        [
            _head(title, len(cards), counts),
            state,
            _filters(counts),
            f'<ul class="concepts">\n{"".join(map(str, cards))}</ul>',
            '<p class="none" hidden>No concept is like that.</p>',
        ],
        images=_IMAGES,
        style=STYLE,
        script=SCRIPT,
        refresh=refresh,
    )


def _head(title: str, total: int, counts: Counter[str]) -> str:
    concepts = "one concept" if total == 1 else f"{total} concepts"
    said = ", ".join(f"{counts[state]} {state}" for state in _FILTERS if counts[state] and state != "flagged")
    flagged = f"; {counts['flagged']} flagged" if counts["flagged"] else ""
    said = f": {said}{flagged}" if said else ""
    return f"<header><h1>{escape(title)}</h1><p>{concepts}{said}.</p></header>"


def _filters(counts: Counter[str]) -> str:
    """A field and buttons, which only a script can make work, and so one shows them."""
    buttons = "".join(
        f'<button type="button" value="{state}" aria-pressed="false">{state} {counts[state]}</button>'
        for state in _FILTERS
        if counts[state]
    )
    field = '<input type="search" placeholder="name or word" aria-label="name or word">'
    return f'<div class="filters" hidden>{field}{buttons}</div>'


@dataclass(frozen=True)
class _Card:
    """A concept in the page's list."""

    entry: Entry
    found: Found

    @property
    def look(self) -> str:
        """How urgently it should be looked at: failed, flagged or not at all."""
        if self.entry.state == "failed":
            return "failed"
        return "flagged" if self._complaints else ""

    @property
    def _made(self) -> int:
        # The result may be of an earlier step than the last.
        return max(self.entry.step, self.found.step)

    @property
    def _complaints(self) -> list[str]:
        said = list(self.found.complaints)
        steps = self.entry.steps
        if self.entry.state == "done" and steps is not None and self._made < steps:
            said.insert(0, f"It ended early, after {self._made} of {steps} steps.")
        return said

    def __str__(self) -> str:
        entry, state = self.entry, self.entry.state
        name, token = escape(entry.name), escape(entry.token)
        link = f'<a href="{_link(f"{entry.name}/{PAGE}")}">{name}</a>' if self.found.has_page else name
        said = [self._progress(), *(f'<p class="flag">{escape(each)}</p>' for each in self._complaints)]
        if entry.error:
            said.append(f'<p class="flag error">{escape(entry.error)}</p>')
        return (
            f'<li class="concept" data-state="{state}" data-look="{self.look}" data-text="{name} {token}">'
            f'<h2>{link}</h2><p><code>{token}</code> <span class="state {state}">{state}</span></p>'
            f"{''.join(said)}{self._pictures()}</li>\n"
        )

    def _progress(self) -> str:
        steps, loss = self.entry.steps, self.found.loss
        of = "" if steps is None else f" of {steps}"
        known = self._made or (of and self.entry.state != "failed")  # at which step it failed is not
        parts = [f"step {self._made}{of}"] if known else []
        if loss is not None:
            parts.append(f"validation loss {loss:.4f}")
        return f"<p>{', '.join(parts)}</p>" if parts else ""

    def _pictures(self) -> str:
        shown = "".join(_figure(each, escape(self.entry.name)) for each in self.found.pictures)
        return f'<div class="pictures">{shown}</div>' if shown else ""


def _figure(picture: Picture, name: str) -> str:
    scale = min(_WIDTH / picture.width, _HEIGHT / picture.height)
    width, height = (max(1, round(scale * side)) for side in (picture.width, picture.height))
    when = f"after {picture.step} steps" if picture.step else "before"
    link = _link(picture.name)
    return (
        f'<figure><a href="{link}"><img src="{link}" alt="{name} {when}" width="{width}" height="{height}" '
        f'loading="lazy" decoding="async"></a><figcaption>{when}</figcaption></figure>'
    )


def _link(name: str) -> str:
    """A relative link to a file below the page's folder, whatever its bytes."""
    return quote(os.fsencode(name))
