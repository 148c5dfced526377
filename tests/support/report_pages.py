"""Facts of a run, one evaluation of it, and a parser that holds a page to its form."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from ti_flax.embedding.vocabulary import RowStatistics
from ti_flax.monitoring.previews import sheet_of
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.row_statistics import Evaluation, write_evaluations


def facts(**changes):
    given = {
        "token": "<toy>",
        "kind": "object",
        "vectors": 2,
        "width": 64,
        "base": "somebody/model",
        "single_file": False,
        "start": 'the word "cat"',
        "images": 5,
        "steps": 200,
        "batch": 8,
        "rate": "0.002, constant",
        "devices": "8 x TPU v4",
        "config": {
            "seed": 3,
            "train_data_dir": ["/home/me/secret place/cats"],
            "resolution": 512,
            "validation_prompt": ["a {} & co", "a red {}"],
            "num_validation_images": 3,
        },
        "versions": {"jax": "0.10.2"},
        "times": {"compiling": 75.0},
    }
    return RunFacts(**given | changes)


def evaluation(step, loss, length=1.5, words="cat 0.80", vectors=("1", "2"), sensitivity=1.2):
    """An evaluation of two vectors; `vectors` are their names."""
    row = RowStatistics(0.6, length, 99.0, 0.9, words)
    return Evaluation(step, loss, None, None, dict.fromkeys(vectors, row), prompt_sensitivity=sensitivity)


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    VOID = {"meta", "img", "input", "line", "polyline", "circle", "rect"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.ids = [], [], [], []
        self.feed(text)
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        inside = [link[1:] for link in self.links if link.startswith("#")]
        assert set(inside) <= set(self.ids)

    @property
    def images(self):
        """What its images are, in order."""
        return [link for link in self.links if link.startswith("data:image/")]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self.ids += [value for name, value in attrs if name == "id"]
        assert tag != "input" or dict(attrs)["type"] in ("radio", "search")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


PROMPTS, IMAGES = 2, 3  # as `facts` says


def previews(folder, steps, *, side=8, prompts=PROMPTS, images=IMAGES):
    """Previews whose images are of one colour: red says the step, green the prompt and blue the image."""
    (folder / "validation").mkdir(exist_ok=True)
    for step in steps:
        drawn = np.zeros((prompts, images, side, side, 3), np.uint8)
        drawn[..., 0] = step
        drawn[..., 1] = np.arange(prompts)[:, None, None, None]
        drawn[..., 2] = np.arange(images)[:, None, None]
        grid = drawn.swapaxes(1, 2).reshape(prompts * side, images * side, 3)
        Image.fromarray(grid).save(folder / "validation" / f"step-{step}.png")


def run_folder(folder, steps=range(0, 201, 20), side=8, **changes):
    """The files of a run of 200 steps, without its page."""
    rng = np.random.default_rng(0)
    lines = [f"{step},{rng.random():.4f},{2e-3 / step:.6f},0.01,80" for step in range(1, 201)]
    header = "step,loss,learning_rate,grad_norm,samples_per_second"
    (folder / "metrics.csv").write_text("\n".join([header, *lines, "201,0.1"]))
    table = [evaluation(0, 0.2), evaluation(100, 0.125), evaluation(200, 0.15)]
    write_evaluations(folder / "signals.csv", table)
    previews(folder, steps, side=side)
    training = np.full((5, side, side, 3), 77, np.uint8)
    shown = {step: np.zeros((PROMPTS, IMAGES, side, side, 3), np.uint8) for step in (0, 200)}
    sheet_of(["a", "b"], training, shown).save(folder / "contact_sheet.png")
    facts(**changes).write(folder)
    return folder


def pixels(link):
    """The image of a data link, `[height, width, 3]`."""
    kind, _, content = link.partition(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(content)), formats=[kind.rpartition("/")[2]]) as image:
        return np.asarray(image.convert("RGB"))


def refresh(text):
    """The seconds after which a page is loaded again; None if it is not."""
    found = re.findall(r'<meta http-equiv="refresh" content="(\d+)">', text)
    assert len(found) <= 1
    return int(found[0]) if found else None
