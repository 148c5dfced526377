"""`report.html`: one file that needs nothing else, put together from the files of a run's folder."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ti_flax.config.run_config import GROUPS, OPTIONS
from ti_flax.config.values import options_of
from ti_flax.console.messages import clock, warn
from ti_flax.embedding.file_names import file_of_word, word_stem
from ti_flax.embedding.usage import pipeline_code
from ti_flax.errors import shortened
from ti_flax.files.atomic import atomic_write
from ti_flax.files.written_files import record
from ti_flax.monitoring.previews import SHEET, evenly, preview_files
from ti_flax.monitoring.report.charts import Curve, chart, smoothed
from ti_flax.monitoring.report.document import document, escape
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.report.files import read_inside
from ti_flax.monitoring.report.images import image
from ti_flax.monitoring.report.verdict import evaluations, verdict
from ti_flax.monitoring.row_statistics import (
    DROWNS,
    OUT_OF_RANGE,
    Evaluation,
    VectorName,
    best_of,
    gained,
)

PAGE = "report.html"

# Previews shown, evenly over the run; the contact sheet has the first and the last.
_MOST_PREVIEWS = 8
_MOST_ROWS_DRAWN = 6
# Bytes of `metrics.csv`, which a million steps fill.
_LARGEST_METRICS = 2**26
_COLUMNS = ("step", "loss", "grad_norm", "learning_rate")
# Layers of a text encoder that may be left out; no encoder has more.
_MOST_SKIPPED = 100


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


def page(folder: Path, facts: RunFacts) -> str:
    """The page's text.

    Args:
      folder: of the run; curves, previews and contact sheet are taken from it.
      facts: what else there is to say.
    """
    table = evaluations(folder)
    sections = [
        _head(facts),
        _judgement(table),
        _sheet(folder),
        _previews(folder),
        _curves(_metrics(folder, "metrics.csv"), table),
        _rows(table),
        _usage(facts),
        _settings(facts),
        _machine(facts),
    ]
    return document(facts.token, sections)


def _section(title: str, *content: str) -> str:
    body = "".join(content)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _head(facts: RunFacts) -> str:
    vectors = "one vector" if facts.vectors == 1 else f"{facts.vectors} vectors"
    images = "one image" if facts.images == 1 else f"{facts.images} images"
    steps = "one step" if facts.steps == 1 else f"{facts.steps} steps"
    samples = "one sample" if facts.batch == 1 else f"{facts.batch} samples"
    second = f" and {facts.second_width}" if facts.second_width else ""
    learned = (
        f": {vectors} of {facts.width}{second} numbers, learned from {images} in {steps} of {samples} at "
        f"learning rate {facts.rate}, starting from {facts.start}."
    )
    return (
        f"<header><h1>{escape(facts.token)}</h1><p>A Textual Inversion concept ({escape(facts.kind)}) for "
        f"<b>{escape(_shown(facts.base))}</b>{escape(learned)}</p>{_words(facts)}</header>"
    )


def _words(facts: RunFacts) -> str:
    """A table of several words, each with what it is; nothing for one."""
    lines = [
        f"<tr><td>{escape(word)}</td><td>{count}</td><td>{escape(facts.starts.get(word, ''))}</td></tr>"
        for word, count in facts.words.items()
    ]
    head = "<tr><th>word</th><th>vectors</th><th>starting from</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(lines)}</table></div>' if lines else ""


def _judgement(table: Sequence[Evaluation]) -> str:
    """What the evaluations say, in words."""
    said = verdict(table)
    if said is None:
        return ""
    lines = [
        f"The validation loss was {said.first.validation_loss:.4f} at step {said.first.step} and is "
        f"{said.last.validation_loss:.4f} at step {said.last.step}."
    ]
    if said.has_learned:
        lines.append(
            f"The best was {said.best.validation_loss:.4f} at step {said.best.step}: "
            "<code>learned_embeds-best.safetensors</code> holds those vectors."
        )
    lines.append(said.nothing_learned)
    lines += [f'<b class="flag">Step {step}:</b> {escape(sentence)}.' for step, sentence in said.flags]
    lines.append(said.still_improving)
    return _section("How it went", *(f"<p>{line}</p>" for line in lines if line))


def _sheet(folder: Path) -> str:
    shown = image(folder, SHEET, "Training images, and what was drawn before and after")
    return _section("Before and after", shown)


def _previews(folder: Path) -> str:
    try:
        found = preview_files(folder / "validation")
    except OSError as error:
        warn(f"{folder / 'validation'} is left out of the page: {error.strerror or error}")
        return ""
    if len(found) < 2:
        return ""
    chosen = evenly(list(found), _MOST_PREVIEWS)
    drawn = [
        f"<figure><figcaption>{f'after {step} steps' if step else 'before'}</figcaption>"
        f"{image(folder, f'validation/{found[step].name}', f'Previews at step {step}')}</figure>"
        for step in chosen
    ]
    return _section("Step by step", f'<div class="strip">{"".join(drawn)}</div>')


def _metrics(folder: Path, name: str) -> dict[str, np.ndarray]:
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


def _curves(metrics: dict[str, np.ndarray], table: Sequence[Evaluation]) -> str:
    drawn = [*_curves_of_evaluations(table)]
    step = metrics.get("step", np.zeros(0))
    if len(step) > 1:
        loss, norm, rate = (metrics[name] for name in ("loss", "grad_norm", "learning_rate"))
        half_life = max(2.0, len(step) / 20)
        several = [Curve("each step", step, loss, True), Curve("smoothed", step, smoothed(loss, half_life))]
        drawn.append(
            chart(
                "Training loss",
                several,
                explanation="Mostly noise: every step has images, timesteps and noise of its own.",
            )
        )
        several = [Curve("each step", step, norm, True), Curve("smoothed", step, smoothed(norm, half_life))]
        drawn.append(chart("Gradient norm", several))
        if len(set(rate.tolist())) > 1:
            drawn.append(chart("Learning rate", [Curve("", step, rate)]))
    return _section("Curves", f'<div class="grid">{"".join(drawn)}</div>' if any(drawn) else "")


def _curves_of_evaluations(table: Sequence[Evaluation]) -> Iterable[str]:
    best = best_of(table)
    if best is None:
        return
    step = np.asarray([each.step for each in table], np.float64)
    yield chart(
        "Validation loss",
        [Curve("", step, np.asarray([each.validation_loss for each in table]))],
        explanation="With the same images, timesteps and noise each time: only learning moves it.",
        mark=(best.step, f"best, step {best.step}") if gained(table) else None,
    )
    heard = [each.prompt_sensitivity for each in table]
    yield chart(
        "Prompt sensitivity",
        [Curve("", step, np.asarray([math.nan if each is None else each for each in heard]))],
        explanation="How strongly predictions answer to the rest of a prompt, relative to the start.",
        limit=(DROWNS, "below it the concept overpowers the rest of the prompt"),
    )
    shown = drawn_vectors(table[-1].rows)
    names = {vector: vector_name(vector) if len(shown) > 1 else "" for vector in shown}
    yield chart(
        "Length",
        [
            Curve(name, step, np.asarray([each.rows[vector].norm_to_median for each in table]))
            for vector, name in names.items()
        ],
        explanation="As a multiple of the known words' median length.",
        limit=(OUT_OF_RANGE, "out of the range of known words"),
    )
    yield chart(
        "Likeness to the start",
        [
            Curve(name, step, np.asarray([each.rows[vector].cosine_to_start for each in table]))
            for vector, name in names.items()
        ],
        explanation="Cosine of the angle to what it started as: 1 is the same direction.",
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


def _rows(table: Sequence[Evaluation]) -> str:
    if not table:
        return ""
    first, last = table[0], table[-1]
    names = ("vector", "length", "x median", "longer than", "cosine to start", "nearest words", "at first")
    head = "".join(f"<th>{name}</th>" for name in names)
    lines = []
    for vector, row in last.rows.items():
        cells = (
            escape(vector_name(vector).replace("vector ", "", 1)),
            f"{row.norm:.3f}",
            f"{row.norm_to_median:.2f}",
            f"{row.norm_percentile:.0f}% of words",
            f"{row.cosine_to_start:.3f}",
            escape(row.nearest_words),
            escape(first.rows[vector].nearest_words),
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return _section("Vectors", f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>')


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
