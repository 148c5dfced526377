"""The previews as a table: a prompt is a row, a step is a column, and along a line the noise is the same.

Without a script: radio buttons choose a step and an image of each prompt, as a slider does, and the address
`#shot-...` lays one image over the page. Each image is in the page once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from ti_flax.config.picture_size import picture_size
from ti_flax.console.messages import warn
from ti_flax.monitoring.previews import SHEET, evenly, preview_files, step_name, tile_size, training_places
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
# Fields of an address, and digits of a number in one; none of a page's own has as many.
_MOST_FIELDS, _MOST_DIGITS = 16, 12
# Sides below which images are enlarged with sharp pixels.
_TINY = 128


@dataclass(frozen=True)
class Layout:
    """What the previews of a run are laid out as.

    Attributes:
      prompts: a row of each file.
      images: columns of each file.
      size: height and width of an image, of which the proportion counts.
    """

    prompts: tuple[str, ...]
    images: int
    size: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, facts: RunFacts) -> Layout | None:
        """The layout by a run's options; None where they do not say it."""
        given = facts.previews or facts.config.get("validation_prompt")
        images = facts.config.get("num_validation_images")
        prompts = [given] if isinstance(given, str) else given
        if not isinstance(prompts, list) or type(images) is not int or images < 1:
            return None
        named = tuple(each.replace("{}", facts.token) for each in prompts if isinstance(each, str))
        size = facts.preview_size or facts.config.get("validation_size")
        proportion = picture_size(size) if isinstance(size, str) else (1, 1)
        if not named or len(named) != len(prompts) or proportion is None:
            return None
        return cls(named, images, proportion)

    def tile(self, width: int, height: int) -> tuple[int, int] | None:
        """Height and width of each image in a file; None if it is laid out in another way."""
        return tile_size((height, width), len(self.prompts), self.images, self.size)

    def tile_of(self, path: Path) -> tuple[int, int] | None:
        """Height and width of each image in a file; None without one, and for one of another layout."""
        try:
            size = png_size(path)
        except OSError:
            return None
        return self.tile(*size) if size is not None else None

    def boxes(self, width: int, height: int, *, prompts: int, images: int) -> list[Box]:
        """Where the first images of the first prompts lie, prompt by prompt; none in another layout."""
        tall, wide = self.tile(width, height) or (0, 0)
        return [
            (wide * image, tall * prompt, wide * (image + 1), tall * (prompt + 1))
            for prompt in range(prompts if tall else 0)
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
    if best is not None and best in steps and best not in chosen:
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
    tiny = all(max(layout.tile_of(found[step]) or (0,)) <= _TINY for step in shots)
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
    tile = next((tile for tile in map(layout.tile_of, [*_files(folder).values()][::-1]) if tile), None)
    if tile is None:
        return ""

    def boxes(width: int, height: int) -> Sequence[Box]:
        count = {"prompts": len(layout.prompts), "images": layout.images, "training": facts.images}
        return training_places((width, height), tile, **count)

    links = images.parts(folder, SHEET, boxes, side=_LONGEST, key=(layout, tile, facts.images))
    shown = [
        f'<img src="{link}" alt="training image {number}" loading="lazy">'
        for number, link in enumerate(links, 1)
    ]
    return (
        f'<div class="training{" tiny" if max(tile) <= _TINY else ""}">{"".join(shown)}</div>'
        if shown
        else ""
    )


@dataclass(frozen=True)
class View:
    """What is chosen of a table, in the address of a page that is loaded again and again.

    Attributes:
      step: None: all.
      image: of each prompt, from 1; 0: all; None: what a page shows at first.
      large: prompt and image, from 0, and step of the image that is over the page.
      paused: whether the page is not loaded again.
    """

    step: int | None = None
    image: int | None = None
    large: tuple[int, int, int] | None = None
    paused: bool = False

    @property
    def is_chosen(self) -> bool:
        """Whether anything is chosen."""
        return (self.step, self.image, self.large) != (None, None, None)

    @classmethod
    def of(cls, query: str) -> View:
        """Reads an address's query; what is none of a page's own is left out."""
        given = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
        large = [_whole(part) for part in given.get("large", "").split("-")]
        fits = len(large) == 3 and None not in large
        return cls(
            step=_whole(given.get("step", "")),
            image=_whole(given.get("image", "")),
            large=(large[0] or 0, large[1] or 0, large[2] or 0) if fits else None,
            paused="paused" in given,
        )

    def link(self, **changes: Any) -> str:
        """The query, as an attribute holds it, of the same page with something else chosen."""
        view = replace(self, **changes)
        said = {"step": view.step, "image": view.image}
        fields = {name: str(value) for name, value in said.items() if value is not None}
        if view.large is not None:
            fields["large"] = "-".join(map(str, view.large))
        if view.paused:
            fields["paused"] = ""
        return f"?{urlencode(fields)}".replace("&", "&amp;")


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS else None


def table_section(table: Table, view: View | None = None) -> str:
    """The table's markup, with the radio buttons that choose from it.

    Args:
      table: to show.
      view: of a page that is loaded again and again, which would forget what was chosen by buttons and by
        `#shot-...`: links choose instead.
    """
    shown = _Shown(table, view)
    radios = shown.radios("step", shown.column) if len(table.steps) > 1 else ""
    radios += shown.radios("image", shown.image) if table.images > 1 else ""
    bar = shown.choice("step") if len(table.steps) > 1 else ""
    bar += shown.choice("image") if table.images > 1 else ""
    rows = "".join(map(shown.row, range(len(table.prompts))))
    tiny = " tiny" if table.tiny else ""
    return (
        f'<div class="previews{tiny}" id="previews" style="--n:{len(table.steps)}">{radios}'
        f'<div class="bar">{bar}</div><div class="table">{rows}</div></div>{_left_out(table)}'
    )


@dataclass(frozen=True)
class _Shown:
    """A table as it is shown.

    Attributes:
      table: all there is.
      view: None where the browser itself keeps what is chosen.
    """

    table: Table
    view: View | None

    @property
    def column(self) -> int:
        """The column that is shown; -1: all."""
        step = self.view.step if self.view else None
        return self.table.steps.index(step) if step in self.table.steps else -1

    @property
    def image(self) -> int:
        """The image of each prompt that is shown; -1: all."""
        image = self.view.image if self.view else None
        if image is not None and image <= self.table.images:
            return image - 1
        return -1 if self.table.images * len(self.table.prompts) <= _AT_FIRST else 0

    def radios(self, name: str, checked: int) -> str:
        """A radio button for all, then one for each."""
        count = len(self.table.steps) if name == "step" else self.table.images
        return "".join(
            f'<input type="radio" name="{name}" id="{name}{_sign(number)}"'
            f"{' checked' if number == checked else ''}>"
            for number in range(-1, count)
        )

    def choice(self, name: str) -> str:
        """The labels of the buttons, which for steps stand over the columns."""
        steps = self.table.steps
        numbers = range(len(steps) if name == "step" else self.table.images)
        labels = "".join(self._label(name, number) for number in numbers)
        title = "Step" if name == "step" else "Image"
        return (
            f'<div class="choice {name}s"><span class="what">{title}</span>{self._label(name, -1)}'
            f'<div class="each">{labels}</div></div>'
        )

    def _label(self, name: str, number: int) -> str:
        if name == "step":
            step = None if number < 0 else self.table.steps[number]
            text, chosen = "all steps" if step is None else f"{step or 'before'}", {"step": step}
            if step is not None and step == self.table.best:
                text += ' <b class="best">best</b>'
        else:
            text, chosen = f"{number + 1}" if number >= 0 else "all", {"image": number + 1}
        if self.view is not None:
            text = f'<a href="{self._link(**chosen)}">{text}</a>'
        return f'<label for="{name}{_sign(number)}">{text}</label>'

    def row(self, prompt: int) -> str:
        """The images of a prompt: a line for each noise, in which the steps follow one another."""
        shots = "".join(
            self._shot(prompt, image, column)
            for image in range(self.table.images)
            for column in range(len(self.table.steps))
        )
        return (
            f'<div class="prompt" id="prompt{prompt}"><h3>{escape(self.table.prompts[prompt])}</h3>'
            f'<div class="cells">{shots}</div></div>'
        )

    def _shot(self, prompt: int, image: int, column: int) -> str:
        """An image of the table, with what is beside it once it is large."""
        table, step = self.table, self.table.steps[column]
        link = table.shots[step][prompt * table.images + image]
        which = f", image {image + 1} of {table.images}" if table.images > 1 else ""
        said = escape(f"{table.prompts[prompt]}: {step_name(step)}{which}")
        beside = "".join(
            f'<a href="{self._large(prompt, image, other)}">{sign.format(step_name(table.steps[other]))}</a>'
            for other, sign in ((column - 1, "\u2039 {}"), (column + 1, "{} \u203a"))
            if 0 <= other < len(table.steps)
        )
        close = self._link() or f"#prompt{prompt}"
        is_large = self.view is not None and self.view.large == (prompt, image, step)
        return (
            f'<figure class="shot s{column} k{image}{" large" if is_large else ""}" '
            f'id="shot-{prompt}-{image}-{column}" style="--s:{column + 1};--k:{image + 1}">'
            f'<a href="{self._large(prompt, image, column)}">'
            f'<img src="{link}" alt="{said}" loading="lazy"></a>'
            f"<figcaption>{step_name(step)}</figcaption><nav><span>{said}</span>{beside}"
            f'<a class="close" href="{close}">close</a></nav></figure>'
        )

    def _large(self, prompt: int, image: int, column: int) -> str:
        """What makes an image large."""
        shot = prompt, image, self.table.steps[column]
        return self._link(large=shot) or f"#shot-{prompt}-{image}-{column}"

    def _link(self, **chosen: Any) -> str:
        """The link of a page that is loaded again and again; empty for another.

        It has no `#`, with which browsers would not load the page again.
        """
        if self.view is None:
            return ""
        return self.view.link(**{"image": self.image + 1, "large": None} | chosen)


def _sign(number: int) -> str:
    """Part of the name of a button."""
    return f"{number}" if number >= 0 else "-all"


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
            rules.append(f"{chosen}.table .shot:not(.{sign}{number},:target,.large){{display:none}}")
        for number in [*range(count), "-all"]:
            bar = f"~.bar label[for={name}{number}]"
            rules.append(f"#{name}{number}:checked{bar}{{{_FILLED}}}")
            rules.append(f"#{name}{number}:focus-visible{bar}{{{_FOCUSED}}}")
    return "\n".join(rules)


_FILLED = "background:var(--c0);border-color:var(--c0);color:var(--paper)"
_FOCUSED = "outline:2px solid var(--c0);outline-offset:2px"
