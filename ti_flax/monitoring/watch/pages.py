"""What a browser gets of a run's folder: its page, made anew each time, and the images on it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from ti_flax.console.messages import Display, Level, clock, shown_on
from ti_flax.errors import DataError, TiFlaxError
from ti_flax.files.written_files import CONCEPTS, is_list, last_run
from ti_flax.monitoring.report import facts as run_facts
from ti_flax.monitoring.report.concepts import Entry, read_entries
from ti_flax.monitoring.report.document import document, escape
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.report.files import is_there, read_inside
from ti_flax.monitoring.report.images import Encoded, Images
from ti_flax.monitoring.report.index_page import Found, IndexPage, index_page
from ti_flax.monitoring.report.page import PAGE, Live, page
from ti_flax.monitoring.report.preview_table import View
from ti_flax.monitoring.report.run_state import NOBODY, RESUME, RunState, state_of

HTML = "text/html; charset=utf-8"
# Seconds between two looks at a run that goes on.
REFRESH = 5
# Silence that is worth a word, in seconds: a chunk of updates takes about two.
_LONG_SILENCE = 30.0
# Pages of concepts whose images are kept, and bytes that a preview of the index may have.
_MOST_PAGES, _LARGEST_PREVIEW = 8, 2**28
_MOST_LINES = 1000


@dataclass(frozen=True)
class Answer:
    """What is sent to a browser.

    Attributes:
      content: of the answer.
      kind: its media type.
      found: whether there is something of the address.
      lasting: whether the same address stands for the same bytes for ever.
      digest: of the content, where it is known already.
    """

    content: bytes
    kind: str = HTML
    found: bool = True
    lasting: bool = False
    digest: str = ""


def digest_of(content: bytes) -> str:
    """The first 128 bits of a SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:32]


class ServedImages(Images):
    """The images of one page, which a browser asks for by addresses that say what is in them."""

    source = "'self'"

    def __init__(self) -> None:
        super().__init__()
        self._now: dict[str, Answer] = {}
        self._before: dict[str, Answer] = {}

    def begin(self) -> None:
        """Begins the page anew; images of the one before can still be asked for, but no older ones."""
        self.forget_unused()
        self._now, self._before = {}, self._now

    def link(self, encoded: Encoded) -> str:
        kind, content = encoded
        digest = digest_of(content)
        address = f"/images/{digest}.{kind}"
        self._now[address] = Answer(content, f"image/{kind}", lasting=True, digest=digest)
        return address

    def find(self, address: str) -> Answer | None:
        """The image of an address that the page has or had just before; None if it has none of it."""
        return self._now.get(address) or self._before.get(address)


class _Once(Display):
    """Says each line once, however often a page is made."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def line(self, text: str, level: Level) -> None:
        if text not in self._said and len(self._said) < _MOST_LINES:
            self._said.add(text)
            super().line(text, level)


class RunPages:
    """The pages of a run's folder, which answers several threads, one after another.

    Args:
      folder: of a run, or of one of many concepts.
    """

    def __init__(self, folder: Path):
        self._folder, self._lock, self._display = folder, threading.Lock(), _Once()
        self._index = IndexPage(folder, shown_by=run_facts.FILE)
        self._images: OrderedDict[str, ServedImages] = OrderedDict()
        self._previews: set[str] = set()

    def answer(self, target: str) -> Answer:
        """What there is at an address, path and query as a browser sends them."""
        with self._lock, shown_on(self._display):
            try:
                return self._answer(target)
            except (OSError, TiFlaxError) as error:
                said = error.strerror or str(error) if isinstance(error, OSError) else str(error)
                text = f"<header><h1>No page</h1></header><p>{escape(said)}</p>"
                return Answer(document("No page", [text], refresh=REFRESH).encode())

    def _answer(self, target: str) -> Answer:
        parts = urlsplit(target)
        path = os.fsdecode(unquote_to_bytes(parts.path))
        view = View.of(parts.query)
        many = os.path.lexists(self._folder / CONCEPTS)
        if path == "/":
            text = self._index_page(view) if many else self._run_page(self._folder, None, view)
            return Answer(text.encode())
        image = next((found for each in self._images.values() if (found := each.find(path))), None)
        if image is not None:
            return image
        if many:
            return self._of_concept(path.removeprefix("/"), view)
        return _nothing()

    def _of_concept(self, name: str, view: View) -> Answer:
        """A concept's page, or one of the previews on the index as it was last shown."""
        if name in self._previews:
            content = read_inside(self._folder, name, _LARGEST_PREVIEW)
            return _nothing() if content is None else Answer(content, "image/png")
        for entry in read_entries(self._folder):
            begun = entry.state != "waiting" and is_there(self._folder, entry.name)
            if name == f"{entry.name}/{PAGE}" and begun:
                return Answer(self._run_page(self._folder / entry.name, entry, view).encode())
        return _nothing()

    def _run_page(self, folder: Path, entry: Entry | None, view: View) -> str:
        """The page of a run, or of one of many concepts: the report with how far it is on top."""
        failed = entry is not None and entry.state == "failed"
        back = "" if entry is None else '<a href="/">all concepts</a>'
        refresh = None if failed or view.paused else REFRESH

        def beside(state: RunState) -> str:
            if failed or not state.goes_on:
                return back
            return f"{_silence(state)}{_pause(view)}{back}"

        require_run(folder)
        if not os.path.lexists(folder / run_facts.FILE):
            state = state_of(folder, None, {})
            said = f'<div class="now"><p>{escape(str(state))}{beside(state)}</p></div>'
            title = folder.resolve().name
            head = f"<header><h1>{escape(title)}</h1></header>"
            return document(title, [head, said], refresh=refresh)
        images = self._images_of("" if entry is None else entry.name)
        images.begin()
        live = Live(refresh, beside, view, error=entry.error if entry is not None and failed else "")
        return page(folder, RunFacts.read(folder), images=images, live=live)

    def _images_of(self, name: str) -> ServedImages:
        images = self._images.pop(name, None) or ServedImages()
        self._images[name] = images
        while len(self._images) > _MOST_PAGES:
            self._images.popitem(last=False)
        return images

    def _index_page(self, view: View) -> str:
        entries = read_entries(self._folder)
        concepts = self._index.look(entries)
        self._previews = set(_shown(concepts))
        run = last_run(self._folder)
        at_work = None if run is None else run.is_at_work
        goes_on = any(entry.state in ("waiting", "running") for entry in entries)
        return index_page(
            self._folder,
            concepts,
            state=_state_of_many(entries, at_work, view),
            refresh=REFRESH if goes_on and not view.paused else None,
        )


def require_run(folder: Path) -> None:
    """Checks that a folder is a run's, or a concept's of one.

    Raises:
      DataError: it is not.
    """
    names = (run_facts.FILE, CONCEPTS)
    if not (is_list(folder) or any(os.path.lexists(folder / name) for name in names)):
        raise DataError(
            folder,
            expected="the output folder of a run",
            found="none of the files that one begins with" if folder.is_dir() else "no such folder",
            remedy=_other_runs(folder),
        )


def _other_runs(folder: Path) -> str:
    """What to do about a folder that is no run's: its folders that are, or to start one."""
    try:
        here = sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError:
        here = []
    runs = [each for each in here if is_list(each) or os.path.lexists(each / run_facts.FILE)]
    if runs:
        return f"Name one of the runs in it, such as {runs[0]}."
    return "Start the run first: its first act is to make its output_dir."


def _state_of_many(entries: Iterable[Entry], at_work: bool | None, view: View) -> str:
    states = [entry.state for entry in entries]
    if not {"waiting", "running"} & set(states):
        said = "The run is finished."
    elif at_work is False:
        said = f"{NOBODY}. The same command with <code>{RESUME}</code> goes on."
    else:
        said = "The run goes on."
    bar = ""
    if states and "finished" not in said:
        over = sum(state in ("done", "failed") for state in states)
        bar = f'<progress value="{over}" max="{len(states)}" aria-label="concepts that are done"></progress>'
    pause = "" if "finished" in said else _pause(view)
    return f'<div class="now">{bar}<p>{said}{pause}</p></div>'


def _silence(state: RunState) -> str:
    """How long nothing has been written, where that is worth a word."""
    if state.at_work is False or (state.silence or 0.0) < _LONG_SILENCE:
        return ""
    return f" Nothing was written for {clock(state.silence or 0.0)}."


def _pause(view: View) -> str:
    now, link = f"refreshes every {REFRESH} s", "stop"
    if view.paused:
        now, link = "does not refresh", "go on"
    return f' <span class="quiet">{now}</span><a href="{view.link(paused=not view.paused)}">{link}</a>'


def _shown(concepts: Iterable[tuple[Entry, Found]]) -> Iterable[str]:
    """The previews on the index, by name."""
    return (picture.name for _, found in concepts for picture in found.pictures)


def _nothing() -> Answer:
    text = '<header><h1>Not found</h1></header><p><a href="/">The page of the run</a></p>'
    return Answer(document("Not found", [text]).encode(), found=False)
