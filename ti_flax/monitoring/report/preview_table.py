"""The previews as a table: a prompt is a row, a step is a column, and along a line the noise is the same.

Without a script: radio buttons choose a step and an image of each prompt, as a slider does, and the address
`#shot-...` enlarges one image over the page. Each image is in the page once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ti_flax.console.messages import warn
from ti_flax.monitoring.previews import SHEET, evenly, preview_files, step_name, training_places
from ti_flax.monitoring.report.document import escape
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.report.images import Box, Images, png_size

# What a page shows at most: steps, evenly over the run and the best among them; prompts; images of a prompt.
MOST_STEPS, MOST_PROMPTS, MOST_IMAGES = 8, 24, 12
# Images in all, and their pixels in all, which bound the page to some ten megabytes.
_MOST_SHOTS, _MOST_PIXELS = 800, 2**25
_LONGEST = 768
# Images of all prompts that are shown at once before anybody chooses.
_AT_FIRST = 8
# Sides below which images are enlarged with sharp pixels.
_TINY = 128


@dataclass(frozen=True)
class Layout:
    """What the previews of a run are laid out as.

    Attributes:
      prompts: a row of each file.
      images: columns of each file.
    """

    prompts: tuple[str, ...]
    images: int

    @classmethod
    def of(cls, facts: RunFacts) -> Layout | None:
        """The layout by a run's options; None where they do not say it."""
        given, images = facts.config.get("validation_prompt"), facts.config.get("num_validation_images")
        prompts = [given] if isinstance(given, str) else given
        if not isinstance(prompts, list) or type(images) is not int or images < 1:
            return None
        named = tuple(each.replace("{}", facts.token) for each in prompts if isinstance(each, str))
        return cls(named, images) if named and len(named) == len(prompts) else None

    def side(self, width: int, height: int) -> int:
        """The side of each square in a file; 0 if it is laid out in another way."""
        side = height // len(self.prompts)
        return side if (width, height) == (self.images * side, len(self.prompts) * side) else 0

    def side_of(self, path: Path) -> int:
        """The side of each square in a file; 0 without one, and for one of another layout."""
        try:
            size = png_size(path)
        except OSError:
            return 0
        return self.side(*size) if size is not None else 0

    def boxes(self, width: int, height: int, *, prompts: int, images: int) -> list[Box]:
        """Where the first images of the first prompts lie, prompt by prompt; none in another layout."""
        side = self.side(width, height)
        return [
            (side * image, side * prompt, side * (image + 1), side * (prompt + 1))
            for prompt in range(prompts if side else 0)
            for image in range(images)
        ]


@dataclass(frozen=True)
class Table:
    """The previews that a page shows.

    Attributes:
      prompts: shown, in order.
      hidden: prompts and images of each that are not shown.
      shots: links by step, then prompt after prompt the same number of images.
      best: the step of the best evaluation, if there is one.
      tiny: whether the images are so small that their pixels can be seen.
    """

    prompts: tuple[str, ...]
    hidden: tuple[int, int]
    shots: dict[int, list[str]]
    best: int | None
    tiny: bool

    @property
    def steps(self) -> list[int]:
        """The columns."""
        return [*self.shots]

    @property
    def images(self) -> int:
        """Of each prompt and step."""
        return len(self.shots[self.steps[0]]) // len(self.prompts)


def chosen_steps(steps: Sequence[int], best: int | None) -> list[int]:
    """At most `MOST_STEPS` steps, evenly from the first to the last, and the best in place of a neighbour."""
    chosen = evenly(steps, MOST_STEPS)
    if best in steps and best not in chosen:
        inner = chosen[1:-1] or chosen
        nearest = min(inner, key=lambda step: abs(step - best))
        chosen[chosen.index(nearest)] = best
    return sorted(set(chosen))


def read_table(folder: Path, layout: Layout, images: Images, best: int | None) -> Table | None:
    """Cuts the previews of a run's folder into their images; None where there are none of that layout."""
    found = _files(folder)
    steps = chosen_steps([*found], best)
    prompts = min(len(layout.prompts), MOST_PROMPTS)
    each = min(layout.images, MOST_IMAGES, max(1, _MOST_SHOTS // max(1, prompts * len(steps))))
    side = min(_LONGEST, int((_MOST_PIXELS / max(1, prompts * each * len(steps))) ** 0.5))

    def boxes(width: int, height: int) -> list[Box]:
        return layout.boxes(width, height, prompts=prompts, images=each)

    shots = {
        step: images.parts(folder, f"validation/{found[step].name}", boxes, side=side, key=(layout, each))
        for step in steps
    }
    shots = {step: links for step, links in shots.items() if links}
    if not shots:
        return None
    hidden = (len(layout.prompts) - prompts, layout.images - each)
    tiny = all(layout.side_of(found[step]) <= _TINY for step in shots)
    return Table(layout.prompts[:prompts], hidden, shots, best, tiny)


def _files(folder: Path) -> dict[int, Path]:
    try:
        return preview_files(folder / "validation")
    except OSError as error:
        warn(f"{folder / 'validation'} is left out of the page: {error.strerror or error}")
        return {}


def whole_previews(folder: Path, images: Images) -> str:
    """The files of the previews as they are, where nothing says how they are laid out."""
    found = _files(folder)
    if len(found) < 2:
        return ""
    drawn = [
        f"<figure><figcaption>{step_name(step)}</figcaption>"
        f"{images.whole(folder, f'validation/{found[step].name}', f'Previews at step {step}')}</figure>"
        for step in evenly([*found], MOST_STEPS)
    ]
    return f'<div class="strip">{"".join(drawn)}</div>'


def training_images(folder: Path, layout: Layout, facts: RunFacts, images: Images) -> str:
    """The training images that are on the contact sheet; empty where that is laid out in another way."""
    side = next((side for side in map(layout.side_of, [*_files(folder).values()][::-1]) if side), 0)
    if not side:
        return ""

    def boxes(width: int, height: int) -> Sequence[Box]:
        count = {"prompts": len(layout.prompts), "images": layout.images, "training": facts.images}
        return training_places((width, height), side, **count)

    links = images.parts(folder, SHEET, boxes, side=_LONGEST, key=(layout, side, facts.images))
    shown = [
        f'<img src="{link}" alt="training image {number}" loading="lazy">'
        for number, link in enumerate(links, 1)
    ]
    return f'<div class="training{" tiny" if side <= _TINY else ""}">{"".join(shown)}</div>' if shown else ""


def table_section(table: Table) -> str:
    """The table's markup, with the radio buttons that choose from it."""
    names = {step: step_name(step) for step in table.steps}
    chooses_images = table.images > 1
    all_at_first = not chooses_images or table.images * len(table.prompts) <= _AT_FIRST
    radios = _radios("step", len(table.steps), -1) if len(table.steps) > 1 else ""
    if chooses_images:
        radios += _radios("image", table.images, -1 if all_at_first else 0)
    bar = _choice("step", [_head(table, step) for step in table.steps]) if len(table.steps) > 1 else ""
    if chooses_images:
        bar += _choice("image", [f"{number}" for number in range(1, table.images + 1)])
    rows = "".join(_row(table, number, names) for number in range(len(table.prompts)))
    tiny = " tiny" if table.tiny else ""
    return (
        f'<div class="previews{tiny}" style="--n:{len(table.steps)}">{radios}'
        f'<div class="bar">{bar}</div>'
        f'<div class="table">{rows}</div></div>{_left_out(table)}'
    )


def _radios(name: str, count: int, checked: int) -> str:
    """A radio button for all, then one for each; what is checked counts from 0, and all is -1."""
    return "".join(
        f'<input type="radio" name="{name}" id="{name}{number}"{" checked" if number == checked else ""} '
        f'aria-label="{name} {number if number >= 0 else "all"}">'
        for number in range(-1, count)
    ).replace('-1"', '-all"')


def _choice(name: str, labels: Sequence[str]) -> str:
    shown = "".join(f'<label for="{name}{number}">{label}</label>' for number, label in enumerate(labels))
    title = "Step" if name == "step" else "Image"
    return (
        f'<div class="choice {name}s"><span class="what">{title}</span>'
        f'<label for="{name}-all">{"all steps" if name == "step" else "all"}</label><div class="each">{shown}</div></div>'
    )


def _head(table: Table, step: int) -> str:
    """What a column is called, and whether it is the best."""
    best = ' <b class="best">best</b>' if step == table.best else ""
    return f"{step or 'before'}{best}"


def _row(table: Table, prompt: int, names: dict[int, str]) -> str:
    shots = "".join(
        _shot(table, prompt, image, column, names)
        for image in range(table.images)
        for column in range(len(table.steps))
    )
    return (
        f'<div class="prompt" id="prompt{prompt}"><h3>{escape(table.prompts[prompt])}</h3>'
        f'<div class="cells">{shots}</div></div>'
    )


def _shot(table: Table, prompt: int, image: int, column: int, names: dict[int, str]) -> str:
    """An image of the table, with what is beside it once it is large."""
    step = table.steps[column]
    link = table.shots[step][prompt * table.images + image]
    here, which = f"shot-{prompt}-{image}-", f", image {image + 1} of {table.images}"
    said = escape(f"{table.prompts[prompt]}: {names[step]}{which if table.images > 1 else ''}")
    beside = "".join(
        f'<a href="#{here}{other}">{sign.format(names[table.steps[other]])}</a>'
        for other, sign in ((column - 1, "\u2039 {}"), (column + 1, "{} \u203a"))
        if 0 <= other < len(table.steps)
    )
    return (
        f'<figure class="shot s{column} k{image}" id="{here}{column}" '
        f'style="--s:{column + 1};--k:{image + 1}">'
        f'<a href="#{here}{column}"><img src="{link}" alt="{said}" loading="lazy"></a>'
        f"<figcaption>{names[step]}</figcaption>"
        f'<nav><span>{said}</span>{beside}<a class="close" href="#prompt{prompt}">close</a></nav>'
        "</figure>"
    )


def _left_out(table: Table) -> str:
    prompts, images = table.hidden
    said = [f"{prompts} more prompts"] if prompts else []
    said += [f"{images} more images of each prompt"] if images else []
    files = "are in the files <code>validation/step-N.png</code>"
    return f'<p class="quiet">{" and ".join(said)} {files}.</p>' if said else ""


def table_style(table: Table) -> str:
    """The rules by which radio buttons choose: what is not chosen is hidden, and the label is filled."""
    rules = []
    for name, sign, count in (("step", "s", len(table.steps)), ("image", "k", table.images)):
        for number in range(count):
            chosen = f"#{name}{number}:checked~"
            rules.append(f"{chosen}.table .shot:not(.{sign}{number}):not(:target){{display:none}}")
        for number in [*range(count), "-all"]:
            bar = f"~.bar label[for={name}{number}]"
            rules.append(f"#{name}{number}:checked{bar}{{{_FILLED}}}")
            rules.append(f"#{name}{number}:focus-visible{bar}{{{_FOCUSED}}}")
    return "\n".join(rules)


_FILLED = "background:var(--c0);border-color:var(--c0);color:var(--paper)"
_FOCUSED = "outline:2px solid var(--c0);outline-offset:2px"
