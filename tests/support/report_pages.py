"""Facts of a run, one evaluation of it, and a parser that holds a page to its form."""

from html.parser import HTMLParser

from ti_flax.embedding.vocabulary import RowStatistics
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.row_statistics import Evaluation


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
        "config": {"seed": 3, "train_data_dir": ["/home/me/secret place/cats"], "resolution": 512},
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

    VOID = {"meta", "img", "input", "line", "polyline", "circle"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag
