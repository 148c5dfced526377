"""What happens when somebody uses the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from ti_flax.errors import TiFlaxError, unwritable
from ti_flax.monitoring.report.document import escape
from ti_flax.web import actions
from ti_flax.web.faults import PLACES, place_of
from ti_flax.web.form import Form, shown
from ti_flax.web.image_sets import captioned, captions_of, take_files, write_captions
from ti_flax.web.live import LIVE, live, preview_of
from ti_flax.web.markup import code, fault, fault_text, no_fault, note
from ti_flax.web.page import (
    CROPS,
    NO_CAPTIONS,
    NO_PRESET,
    OF_DEMO,
    SETTINGS,
    Fields,
    default_text,
    faults_cleared,
    fields,
)
from ti_flax.web.runs.processes import Program
from ti_flax.web.runs.results import files_for, sample
from ti_flax.web.runs.view import look_at
from ti_flax.web.runs.waiting import Queue
from ti_flax.web.words import look_at_word
from ti_flax.web.work_folder import DEMO_IMAGES, DEMO_MODEL, WorkFolder

_FORM = ("model", "images", "placeholder_token", "initializer_token", "num_vectors", "learnable_property")
_FORM += (
    "preset",
    *SETTINGS,
    "validation_prompt",
    "use_captions",
    "crop",
    "mirror",
    "whole_model",
    "further",
)
_FAULTS = tuple(f"fault_{place}" for place in PLACES)
_IMAGES = ("images", "captions", "use_captions", "mirror")
# Seconds between two looks for files that browsers sent or were given, and that are older than so many.
_TIDIED = (3600, 24 * 3600)
Changes = dict[str, Any]


def blocks_of(work: WorkFolder) -> gr.Blocks:
    """Lays out the page and binds what it does."""
    with gr.Blocks(analytics_enabled=False, title="ti_flax", delete_cache=_TIDIED) as blocks:
        Events(work, fields(work), blocks).bind()
    return blocks.queue(api_open=False)


class Events:
    """Binds what the fields and buttons of a page do.

    Args:
      work: the page's folder.
      fields: of the page, inside of its `gr.Blocks`.
      blocks: the page.
    """

    def __init__(self, work: WorkFolder, fields: Fields, blocks: gr.Blocks):
        self._work, self._fields, self._blocks = work, fields, blocks

    def bind(self) -> None:
        """Binds all of them."""
        fields, form = self._fields, _FORM
        self._on(fields.drop.upload, self._take, ("drop",), (*_IMAGES, "drop", *_FAULTS))
        self._on(fields.images.change, self._show_images, ("images",), _IMAGES[1:])
        self._on(
            fields.captions.input, self._write_captions, ("images", "captions"), ("use_captions", *_FAULTS)
        )
        self._on(fields.focal.click, self._crop, form, (*_IMAGES, "sheet", *_FAULTS), waits=True)
        self._on(fields.look.click, self._look, form, ("sheet", "report", *_FAULTS), waits=True)
        word = ("model", "placeholder_token", "initializer_token", "num_vectors")
        for name in word:
            self._on(
                fields.part[name].change,
                self._look_at_word,
                word,
                ("look_at_word", "fault_word", "fault_start"),
                last=True,
            )
        for happens in (fields.model.change, fields.preset.change):
            self._on(happens, self._fit_settings, ("model", "preset"), tuple(SETTINGS))
        changed = ("run", "started", "command", "seen", *_FAULTS)
        self._on(fields.start.click, self._start, form, changed, waits=True)
        self._on(fields.stop.click, self._stop, ("run",), ("run", *_FAULTS))
        self._on(fields.go_on.click, self._go_on, ("run",), changed)
        self._watch()

    def _watch(self) -> None:
        """Binds what shows a run and its results."""
        fields = self._fields
        given, changed = (
            ("run", "seen", "started", "preview_step", "vectors", "concept"),
            (*LIVE, "seen", *_FAULTS),
        )
        self._on(fields.timer.tick, self._tick, given, changed)
        self._on(self._blocks.load, self._open, (), ("run", "images"))
        self._on(fields.run.change, self._choose, ("run",), ("seen", "command", "files", "reader"))
        self._on(fields.concept.input, self._choose_concept, (), ("seen", "files", "reader"))
        self._on(
            fields.preview_step.change,
            self._preview,
            ("run", "preview_step", "concept"),
            ("preview",),
            last=True,
        )
        asked = ("run", "prompt", "count", "vectors", "concept")
        self._on(fields.draw.click, self._draw, asked, ("drawing",))
        self._on(fields.prompt.submit, self._draw, asked, ("drawing",))
        for happens in (fields.reader.change, fields.vectors.input):
            self._on(
                happens, self._download, ("run", "vectors", "reader", "concept"), ("files", "download_fault")
            )

    def _on(
        self,
        happens: Callable[..., Any],
        what: Callable[..., Changes],
        given: tuple[str, ...],
        changed: tuple[str, ...],
        *,
        last: bool = False,
        waits: bool = False,
    ) -> None:
        """Lets something happen: `what` takes the named fields and gives those that change, by name."""
        fields = self._fields

        def called(*values: Any) -> Any:
            try:
                changes = what(*values) if given != _FORM else what(dict(zip(given, values, strict=True)))
            except OSError as error:  # such as of a full disk
                said = fault(str(unwritable(self._work.root, error)))
                changes = {"fault_run": said} if "fault_run" in changed else {}
            return {fields.part[name]: value for name, value in changes.items()} or gr.skip()

        happens(
            called,
            fields.some(*given),
            fields.some(*changed),
            api_name=what.__name__.lstrip("_"),
            api_visibility="private",
            show_progress="minimal" if waits else "hidden",
            trigger_mode="always_last" if last else "once",
        )

    def _take(self, files: list[str] | None) -> Changes:
        taken = take_files(self._work, files or [])
        changes: Changes = {"drop": None, **faults_cleared()}
        if taken.folder is not None:
            changes |= self._chosen(self._work.shown(taken.folder))
        if taken.faults:
            changes["fault_images"] = fault(*taken.faults)
        return changes

    def _chosen(self, folder: str) -> Changes:
        """Chooses a folder of images and shows its captions."""
        choices = [*self._work.image_sets(), DEMO_IMAGES]
        return {"images": gr.update(choices=choices, value=folder), **self._show_images(folder)}

    def _show_images(self, images: str | None) -> Changes:
        try:
            folder = self._work.image_folder(images)
        except TiFlaxError:
            return {
                "captions": gr.update(visible=False),
                "use_captions": gr.update(visible=False, value=False),
            }
        ours = folder.is_relative_to(self._work.images)
        table = captions_of(folder)
        return {
            "captions": gr.update(value=table, visible=True, interactive=ours),
            "use_captions": _captions_tick(table),
            **({"mirror": False} if images == DEMO_IMAGES else {}),  # its stripes lean to one side
        }

    def _write_captions(self, images: str | None, table: list[list[Any]]) -> Changes:
        try:
            folder = self._work.image_folder(images)
            write_captions(self._work, folder, table)
        except TiFlaxError as error:
            return {"fault_images": fault(str(error))}
        return {"use_captions": _captions_tick(captions_of(folder)), "fault_images": no_fault()}

    def _crop(self, form: Mapping[str, Any]) -> Changes:
        try:
            folder, sheet = actions.cropped(
                self._work, form["images"], form_of(form).options["resolution"] or ""
            )
        except TiFlaxError as error:
            return {**faults_cleared(), "fault_images": fault(str(error))}
        changes = {**faults_cleared(), **self._chosen(self._work.shown(folder))}
        return {**changes, "sheet": gr.update(value=sheet, visible=True, label="How the images were cut")}

    def _look(self, form: Mapping[str, Any]) -> Changes:
        try:
            sheet, said = actions.look(self._work, form_of(form))
        except TiFlaxError as error:
            return self._faulty(error)
        return {
            **faults_cleared(),
            "sheet": gr.update(value=sheet, visible=True, label="Images as training sees them"),
            "report": gr.update(value=said, visible=True),
        }

    def _look_at_word(self, model: str, placeholder: str, initializer: str, vectors: str) -> Changes:
        found = {"fault_word": no_fault(), "fault_start": no_fault(), "look_at_word": ""}
        try:
            look = look_at_word(self._work.model(model or ""), placeholder, initializer, vectors)
        except TiFlaxError:
            return found  # the model's own message comes when it is used
        found |= {f"fault_{place}": fault(message) for place, message in look.faults}
        lines = []
        if look.tokens:
            count = "one new token" if len(look.tokens) == 1 else f"{len(look.tokens)} new tokens"
            lines.append(f"The word is {count}: {code(look.tokens)}")
        if look.start:
            count = "one known token" if len(look.start) == 1 else f"{len(look.start)} known tokens"
            lines.append(f"It starts as {count}: {code(look.start)}")
        for word, others in look.nearest:
            near = ", ".join(f"{escape(other)} {cosine:.2f}" for other, cosine in others)
            lines.append(f"Nearest to <b>{escape(word)}</b>: {near}")
        return found | {"look_at_word": note(*lines)}

    def _fit_settings(self, model: str, preset: str) -> Changes:
        """Shows in empty fields what they then are."""
        return {name: gr.update(placeholder=default_text(name, preset, model)) for name in SETTINGS}

    def _start(self, form: Mapping[str, Any]) -> Changes:
        try:
            name = actions.start(self._work, form_of(form))
        except TiFlaxError as error:
            return self._faulty(error)
        return self._begun(name)

    def _go_on(self, name: str | None) -> Changes:
        try:
            name = actions.go_on(self._work, name)
        except TiFlaxError as error:
            return self._faulty(error)
        return self._begun(name)

    def _begun(self, name: str) -> Changes:
        run = gr.update(choices=self._work.run_names(), value=name)
        return {**faults_cleared(), "run": run, "started": name, "command": self._command(name), "seen": {}}

    def _stop(self, name: str | None) -> Changes:
        try:
            said = actions.stop(self._work, name)
        except TiFlaxError as error:
            return self._faulty(error)
        changes: Changes = {"fault_run": gr.update(value=note(escape(said)), visible=True)}
        if self._work.run(name) is None:  # it was only waiting
            changes["run"] = self._runs()
        return changes

    def _runs(self) -> Any:
        """Shows the runs there are, and chooses the one at work or the newest."""
        names = self._work.run_names()
        chosen = Queue(self._work.root).at_work() or next(iter(names), None)
        return gr.update(choices=names, value=chosen)

    def _command(self, name: str | None) -> str:
        folder = self._work.run(name)
        if folder is None:
            return ""
        started = Program(folder).started
        waiting = {each.run: each.arguments for each in Queue(self._work.root).waiting()}
        given = waiting.get(folder.name) or (started.arguments if started else ())
        return shown(given) if given else ""

    def _faulty(self, error: TiFlaxError) -> Changes:
        """Shows an error beside the field that it is about, and no other."""
        return {**faults_cleared(), f"fault_{place_of(str(error), SETTINGS)}": fault(str(error))}

    def _tick(
        self,
        name: str | None,
        seen: dict,
        started: str,
        shown_step: int,
        vectors: str | None,
        concept: str | None,
    ) -> Changes:
        changes, now, error = live(self._work, name, seen, int(shown_step or 1), vectors, concept)
        if now is seen:
            return {}
        changes |= {"seen": (seen := now)}
        if error and name == started and seen.get("told") != error:
            seen["told"] = error
            changes[f"fault_{place_of(error, SETTINGS)}"] = fault(error)
        return changes

    def _open(self) -> Changes:
        return {
            "run": self._runs(),
            "images": gr.update(choices=[*self._work.image_sets(), DEMO_IMAGES]),
        }

    def _choose(self, name: str | None) -> Changes:
        files = gr.update(value=None, visible=False)
        return {"seen": {}, "command": self._command(name), "files": files, "reader": None}

    def _choose_concept(self) -> Changes:
        return {"seen": {}, "files": gr.update(value=None, visible=False), "reader": None}

    def _preview(self, name: str | None, place: int, concept: str | None) -> Changes:
        folder = self._work.run(name)
        return (
            {} if folder is None else {"preview": preview_of(look_at(folder, concept).previews, int(place))}
        )

    def _draw(
        self, name: str | None, prompt: str, count: int, vectors: str | None, concept: str | None
    ) -> Changes:
        folder = self._work.run(name)
        if folder is None:
            return {"drawing": fault_text("Start a run first.")}
        try:
            said = sample(look_at(folder, concept), prompt or "", int(count), vectors or "")
        except TiFlaxError as error:
            return {"drawing": fault_text(str(error))}
        return {"drawing": note(escape(said))}

    def _download(
        self, name: str | None, vectors: str | None, reader: str | None, concept: str | None
    ) -> Changes:
        folder = self._work.run(name)
        if folder is None or reader is None:
            return {"files": gr.update(value=None, visible=False), "download_fault": ""}
        try:
            files = files_for(look_at(folder, concept), vectors or "", reader, self._work.temporary)
        except TiFlaxError as error:
            return {"files": gr.update(value=None, visible=False), "download_fault": fault_text(str(error))}
        return {"files": gr.update(value=[*map(str, files)], visible=True), "download_fault": ""}


def _captions_tick(table: Sequence[Sequence[str]]) -> Any:
    """Learns with captions where every image has one, without which a run would end at once."""
    having, images = captioned(table)
    some = 0 < having < images
    info = f"{having} of {images} images have one; it takes one for each." if some else NO_CAPTIONS
    return gr.update(visible=True, value=having == images > 0, info=info)


def form_of(values: Mapping[str, Any]) -> Form:
    """The form that the fields' values make."""
    names = (
        "placeholder_token",
        "num_vectors",
        "initializer_token",
        "learnable_property",
        "preset",
        *SETTINGS,
    )
    options: dict[str, str | None] = {name: values[name] for name in names}
    if values["preset"] == NO_PRESET:
        options["preset"] = None
    for name, value in (OF_DEMO if values["model"] == DEMO_MODEL else {}).items():
        options[name] = (values[name] or "").strip() or value
    if crop := CROPS.get(values["crop"], ""):
        options[crop] = "true"
    if not values["mirror"]:
        options["flip_p"] = "0"
    return Form(
        values["model"] or "",
        values["images"],
        options,
        previews=values["validation_prompt"] or "",
        captions=bool(values["use_captions"]),
        whole_model=bool(values["whole_model"]),
        further=values["further"] or "",
    )
