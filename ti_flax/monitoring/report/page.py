"""`report.html`: one file that needs nothing else, put together from the files of a run's folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ti_flax.config.run_config import GROUPS, OPTIONS
from ti_flax.config.values import options_of
from ti_flax.console.messages import clock
from ti_flax.embedding.file_names import file_of_word, word_stem
from ti_flax.embedding.usage import pipeline_code
from ti_flax.files.atomic import atomic_write
from ti_flax.files.written_files import record
from ti_flax.monitoring.previews import SHEET
from ti_flax.monitoring.report.curves import curves, read_metrics, vector_name
from ti_flax.monitoring.report.document import document, escape
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.report.images import Images
from ti_flax.monitoring.report.preview_table import (
    Layout,
    View,
    read_table,
    table_section,
    table_style,
    training_images,
    whole_previews,
)
from ti_flax.monitoring.report.run_state import RESUME, RunState, state_of
from ti_flax.monitoring.report.verdict import Verdict, evaluations, verdict
from ti_flax.monitoring.row_statistics import Evaluation

PAGE = "report.html"

# Layers of a text encoder that may be left out; no encoder has more.
_MOST_SKIPPED = 100


@dataclass(frozen=True)
class Live:
    """What a page has more that is made anew while the run goes on.

    Attributes:
      refresh: seconds after which a browser asks for it again; None: never.
      beside: markup beside the state of the run.
      view: what is chosen of the previews.
      error: why it has failed, which takes the place of its state; empty if it has not.
    """

    refresh: int | None
    beside: Callable[[RunState], str]
    view: View = View()
    error: str = ""


def write_report(folder: Path) -> Path:
    """Writes the page of a run's folder, of what is in it so far.

    Raises:
      DataError: it is no run's folder.
      OSError: the page cannot be written.
    """
    text = page(folder, RunFacts.read(folder))
    record(folder, PAGE)
    with atomic_write(folder / PAGE) as file:
        file.write(text.encode())
    return folder / PAGE


def page(folder: Path, facts: RunFacts, *, images: Images | None = None, live: Live | None = None) -> str:
    """The page's text.

    Args:
      folder: of the run; curves, previews and contact sheet are taken from it.
      facts: what else there is to say.
      images: takes the images and says where they are; None: they are in the page.
      live: what is on top of a page that is made anew while the run goes on.
    """
    images = Images() if images is None else images
    table, metrics, layout = evaluations(folder), read_metrics(folder), Layout.of(facts)
    said, state = verdict(table), state_of(folder, facts, metrics)
    best = said.best.step if said is not None and said.has_learned else None
    previews = None if layout is None else read_table(folder, layout, images, best)
    view = None if live is None else live.view
    step_by_step = table_section(previews, view) if previews else whole_previews(folder, images)
    # A page that is loaded again begins at its top: what somebody has chosen there comes first.
    upper = [_section("Step by step", step_by_step), _judgement(facts, said)]
    sections = [
        _head(facts),
        _state(state, live),
        *(upper if view is not None and view.is_chosen else reversed(upper)),
        _training_images(folder, layout, facts, images),
        _section("Curves", curves(metrics, table)),
        _rows(table),
        _usage(facts),
        _settings(facts),
        _machine(facts),
    ]
    return document(
        facts.token,
        sections,
        images=images.source,
        style=table_style(previews) if previews else "",
        refresh=live.refresh if live and state.goes_on else None,
    )


def _section(title: str, *content: str) -> str:
    body = "".join(content)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _head(facts: RunFacts) -> str:
    vectors = "one vector" if facts.vectors == 1 else f"{facts.vectors} vectors"
    images = "one image" if facts.images == 1 else f"{facts.images} images"
    steps = "one step" if facts.steps == 1 else f"{facts.steps} steps"
    samples = "one sample" if facts.batch == 1 else f"{facts.batch} samples"
    second = f" and {facts.second_width}" if facts.second_width else ""
    how = "learned from" if facts.finished else "learns from"
    learned = (
        f": {vectors} of {facts.width}{second} numbers, {how} {images} in {steps} of {samples} at "
        f"learning rate {facts.rate}, starting from {facts.start}."
    )
    return (
        f"<header><h1>{escape(facts.token)}</h1><p>A Textual Inversion concept ({escape(facts.kind)}) for "
        f"<b>{escape(_shown(facts.base))}</b>{escape(learned)}</p>{_words(facts)}</header>"
    )


def _state(state: RunState, live: Live | None) -> str:
    """How far the run is; nothing in the report of one that is finished."""
    if live is None and state.finished:
        return ""
    if live is not None and live.error:
        return f'<div class="now"><p class="flag">Failed: {escape(live.error)}</p>{live.beside(state)}</div>'
    said = escape(str(state) if live else f"When this page was written: {state}")
    said = said.replace(RESUME, f"<code>{RESUME}</code>")
    bar = ""
    if state.share is not None:
        bar = f'<progress value="{state.share:.4f}" max="1" aria-label="updates made"></progress>'
    return f'<div class="now">{bar}<p>{said}{live.beside(state) if live else ""}</p></div>'


def _words(facts: RunFacts) -> str:
    """A table of several words, each with what it is; nothing for one."""
    return _table(
        [
            {
                "word": escape(word),
                "vectors": f"{count}",
                "starting from": escape(facts.starts.get(word, "")),
            }
            for word, count in facts.words.items()
        ]
    )


def _judgement(facts: RunFacts, said: Verdict | None) -> str:
    """What the evaluations say, in a sentence, and why."""
    if said is None:
        return ""
    look = "good" if said.is_good else "flagged"
    lines = {"validation loss": _losses(facts, said)}
    lines["over-trained?"] = escape(said.over_training)
    if more := said.more_steps(facts.finished):
        lines["more steps?"] = escape(more)
    told = "".join(f"<dt>{name}</dt><dd>{line}</dd>" for name, line in lines.items())
    return (
        f'<section class="verdict {look}"><h2>How it went</h2>'
        f'<p class="headline">{escape(said.headline(facts.finished))}</p><dl>{told}</dl></section>'
    )


def _losses(facts: RunFacts, said: Verdict) -> str:
    """Where the validation loss began and where it is, and which file holds the best vectors."""
    first, last, best = said.first, said.last, said.best
    line = f"{first.validation_loss:.4f} at step {first.step}, {last.validation_loss:.4f} at step {last.step}"
    if not said.has_learned:
        return f"{line}."
    file = "learned_embeds.safetensors"
    if not facts.finished or facts.steps != best.step:
        file = "learned_embeds-best.safetensors"
    return (
        f"{line}; the best is {best.validation_loss:.4f} at step {best.step}: "
        f"<code>{file}</code> holds those vectors."
    )


def _training_images(folder: Path, layout: Layout | None, facts: RunFacts, images: Images) -> str:
    """The training images; the whole contact sheet where nothing says how it is laid out."""
    shown = "" if layout is None else training_images(folder, layout, facts, images)
    if shown:
        return _section("Training images", shown)
    sheet = images.whole(folder, SHEET, "Training images, and what was drawn before and after")
    return _section("Before and after", sheet)


def _rows(table: Sequence[Evaluation]) -> str:
    if not table:
        return ""
    first, last = table[0], table[-1]
    lines = []
    for vector, row in last.rows.items():
        cells = {
            "vector": escape(vector_name(vector).replace("vector ", "", 1)),
            "length": f"{row.norm:.3f}",
            "x median": f"{row.norm_to_median:.2f}",
            "longer than": f"{row.norm_percentile:.0f}% of words",
            "cosine to start": f"{row.cosine_to_start:.3f}",
            "nearest words": escape(row.nearest_words),
            "at first": escape(first.rows[vector].nearest_words),
        }
        lines.append(cells)
    return _section("Vectors", _table(lines))


def _table(lines: Sequence[dict[str, str]]) -> str:
    """A table of markup by column, a card for each line on a narrow screen; empty without lines."""
    if not lines:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in lines[0])
    rows = ["".join(f'<td data-name="{name}">{cell}</td>' for name, cell in line.items()) for line in lines]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _usage(facts: RunFacts) -> str:
    words = [*facts.words] or [facts.token]
    article = "a painting in the style of" if facts.kind == "style" else "a photo of a"
    prompt, skip = f"{article} {facts.token}", _clip_skip(facts)
    base = _shown(facts.base)
    load = "from_single_file" if facts.single_file else "from_pretrained"
    xl = facts.second_width > 0
    python = pipeline_code(base, prompt, loader=load, sdxl=xl, clip_skip=skip, words=words)
    command = (
        f"python scripts/generate.py --pretrained_model_name_or_path {shlex.quote(base)} \\\n"
        f"  --learned_embeds learned_embeds.safetensors --prompt {shlex.quote(prompt)}"
        f"{f' --clip_skip {skip}' if skip else ''}"
    )
    skipped = f' It was learned with "Clip skip" {skip + 1}: set the same.' if skip else ""
    stems = [escape(word_stem(word)) for word in words]
    learned = [file_of_word(word) for word in words] if words[1:] else ["learned_embeds.safetensors"]
    copied = " and ".join(
        f"{'' if xl else f'<code>{escape(file)}</code> as '}<code>{stem}.safetensors</code>"
        for file, stem in zip(learned, stems, strict=True)
    )
    named = " and ".join(f"<code>{stem}</code>" for stem in stems)
    embeddings = " and ".join(f"<code>embedding:{stem}</code>" for stem in stems)
    return _section(
        "Use it",
        f"<h3>diffusers</h3><pre>{escape(python)}</pre>",
        f"<h3>Stable Diffusion Web UI</h3><p>Copy {copied} into the folder <code>embeddings</code> and write "
        f"{named} in prompts.{escape(skipped)}</p>",
        f"<h3>ComfyUI</h3><p>Copy {copied} into <code>models/embeddings</code> and write {embeddings}.</p>",
        f"<h3>ti_flax</h3><pre>{escape(command)}</pre>",
    )


def _clip_skip(facts: RunFacts) -> int:
    found = facts.config.get("clip_skip")
    return found if type(found) is int and 0 < found <= _MOST_SKIPPED else 0


def _settings(facts: RunFacts) -> str:
    """What was set, then all options, folded."""
    changed = {
        name: value
        for name, value in facts.config.items()
        if name in OPTIONS and _plain(OPTIONS[name].default) != _plain(value)
    }
    groups = [
        f"<h3>{group}</h3>{_list({each.name: facts.config.get(each.name) for each in options_of(kind)})}"
        for group, kind in GROUPS.items()
    ]
    everything = f"<details><summary>All options</summary>{''.join(groups)}</details>"
    return _section("Settings", _list(changed), everything) if facts.config else ""


def _shown(value: object) -> str:
    """A value as text; of a place on somebody's disk the last part, since pages are passed on."""
    if isinstance(value, list | tuple):
        return "\n".join(map(_shown, value))
    if isinstance(value, dict):  # a source of images with options of its own
        return ", ".join(f"{name}: {' | '.join(_shown(each).splitlines())}" for name, each in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    text = "null" if value is None else str(value)
    return Path(text).name or text if Path(text).is_absolute() else text


def _plain(value: object) -> list[object]:
    """A value that can be compared: options that take several also take one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _machine(facts: RunFacts) -> str:
    times = {title: f"{clock(seconds)}" for title, seconds in facts.times.items()}
    return _section(
        "Where and how long", _list({"devices": facts.devices, **times}), _list(dict(facts.versions))
    )


def _list(values: dict[str, object]) -> str:
    lines = [f"<dt>{escape(name)}</dt><dd>{escape(_shown(value))}</dd>" for name, value in values.items()]
    return f"<dl>{''.join(lines)}</dl>" if lines else ""
