"""What benchmarks/learning_quality.py measured, and how it is told: tables, results.json, a plot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MEASURES = ("fidelity", "editability")
_RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """What the judge saw: one truth value a sample, of fidelity and of editability."""

    fidelity: np.ndarray
    editability: np.ndarray


@dataclass(frozen=True)
class Point:
    """A score and what was measured.

    Attributes:
      concept: by name.
      kind: `initializer`, `literal` or `autoencoder`, the bounds; `learned`, after so many steps or from a
        file; `ended`, the result of a run that ended itself after so many; `chosen`, what the run takes for
        its best.
      steps: made before; 0 for bounds and files.
      seed: of the training.
      score: of its samples.
    """

    concept: str
    kind: str
    steps: int
    seed: int
    score: Score


@dataclass(frozen=True)
class _Columns:
    """Columns of the table of concepts that stand under one heading, and the points that they are about."""

    title: str
    points: Sequence[Point]
    measures: Sequence[str] = MEASURES
    with_steps: bool = False

    @property
    def heads(self) -> list[str]:
        return ["step"] * self.with_steps + [_SHORT[what] for what in self.measures]

    def of(self, concept: str) -> list[str]:
        """The cells of a concept; empty ones where nothing was measured, as of words that there are not."""
        points = [point for point in self.points if point.concept == concept]
        if not points:
            return [""] * len(self.heads)
        steps = sorted({point.steps for point in points})
        told = f"{steps[0]}-{steps[-1]}" if len(steps) > 1 else str(steps[0])
        shares = [np.mean([getattr(point.score, what).mean() for point in points]) for what in self.measures]
        return [told] * self.with_steps + [f"{share:.2f}" for share in shares]

    def over_all(self) -> list[list[str]]:
        """The cells of three rows: the mean over concepts, and where its 95% interval begins and ends."""
        columns = [interval(self.points, what) for what in self.measures]
        return [[""] * self.with_steps + [f"{value:.2f}" for value in row] for row in zip(*columns)]


# Kinds that a mark in the plot stands for, at their mean step.
_MARKED = {"chosen": ("*", "chosen by the run"), "ended": ("s", "ended by itself")}
# Lines in the plot that stand for bounds.
_BOUNDS = {"initializer": ":", "literal": "--", "autoencoder": "-."}
_SHORT = {"fidelity": "fid.", "editability": "edit."}
_LEGEND = "fid.: fidelity, edit.: editability, shares of the samples"


def interval(points: Sequence[Point], what: str) -> tuple[float, float, float]:
    """Mean over concepts of the mean over their samples, and its 95% interval.

    The interval is a bootstrap over concepts, then seeds, then samples (Davison & Hinkley 1997, section 3.8).
    """
    rng = np.random.default_rng(0)
    by_concept: dict[str, list[np.ndarray]] = {}
    for point in points:
        by_concept.setdefault(point.concept, []).append(getattr(point.score, what))
    shares = [np.array([truth.mean() for truth in seeds]) for seeds in by_concept.values()]
    sizes = [len(seeds[0]) for seeds in by_concept.values()]
    mean = float(np.mean([share.mean() for share in shares]))
    drawn = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        chosen = rng.integers(0, len(shares), len(shares))
        resampled = []
        for concept in chosen:
            picked = rng.choice(shares[concept], len(shares[concept]))
            resampled.append(rng.binomial(sizes[concept], picked).mean() / sizes[concept])
        drawn[index] = np.mean(resampled)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return mean, float(low), float(high)


def best_by_the_judge(points: Sequence[Point]) -> list[Point]:
    """The learned points of the step at which a concept is best, of each concept.

    That is where fidelity times editability, each the mean over seeds, is largest; of equals the first.
    """
    best: list[Point] = []
    for concept in dict.fromkeys(point.concept for point in points):
        by_steps: dict[int, list[Point]] = {}
        for point in sorted(points, key=lambda point: point.steps):
            if point.concept == concept and point.kind == "learned":
                by_steps.setdefault(point.steps, []).append(point)
        best += max(by_steps.values(), key=_worth, default=[])
    return best


def _worth(points: Sequence[Point]) -> float:
    shares = [[getattr(point.score, what).mean() for what in MEASURES] for point in points]
    return float(np.prod(np.mean(shares, axis=0)))


def concepts_table(points: Sequence[Point], shown: Mapping[str, str]) -> str:
    """A row for each concept, then the mean over them and its interval, as lines of text.

    Args:
      points: of all concepts.
      shown: what each concept is, by its name, in the order of the rows.
    """
    names = ["", "concept", *shown, "mean", "95% from", "95% to"]
    what = ["", "", *shown.values(), "", "", ""]
    left = [[f"{line:<{max(map(len, lines))}}" for line in lines] for lines in (names, what)]
    right = [
        _block(each.title, [each.heads, *map(each.of, shown), *each.over_all()]) for each in _columns(points)
    ]
    return "\n".join([_LEGEND, *("   ".join(line).rstrip() for line in zip(*left, *right))])


def _columns(points: Sequence[Point]) -> list[_Columns]:
    kinds = {point.kind: [other for other in points if other.kind == point.kind] for point in points}
    learned = kinds.get("learned", [])
    last = max((point.steps for point in learned), default=0)
    bounds = [("initializer", "initializer"), ("in words", "literal"), ("autoencoder", "autoencoder")]
    made = [_Columns(title, kinds[kind], ["fidelity"]) for title, kind in bounds if kind in kinds]
    if learned and "ended" not in kinds:
        title = f"after {last} steps" if last else "of the file"
        made.append(_Columns(title, [point for point in learned if point.steps == last]))
    if "ended" in kinds:
        made.append(_Columns("ended by itself", kinds["ended"], with_steps=True))
    if len({point.steps for point in learned}) > 1:
        made.append(_Columns("best by the judge", best_by_the_judge(points), with_steps=True))
    if "chosen" in kinds:
        made.append(_Columns("chosen by the run", kinds["chosen"], with_steps=True))
    return made


def _block(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of the same width: the title, then rows of cells."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [title, *("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths)) for row in rows)]
    return [f"{line:>{max(map(len, lines))}}" for line in lines]


def groups(points: Sequence[Point]) -> list[tuple[str, list[Point]]]:
    """The rows of the table of steps: bounds and the learned embedding by steps.

    Where only some concepts have words, the last row holds what was learned of those.
    """
    titled: dict[str, list[Point]] = {}
    for kind in ("initializer", "learned", "ended", "chosen", "literal", "autoencoder"):
        for point in sorted((p for p in points if p.kind == kind), key=lambda p: p.steps):
            title = f"{kind} {point.steps}" if kind == "learned" and point.steps else kind
            titled.setdefault(title, []).append(point)
    literal = {point.concept for point in titled.get("literal", [])}
    final = [members for title, members in titled.items() if _is_final(title)][-1:]
    if final and literal and literal < {point.concept for point in final[0]}:
        titled["of these"] = [point for point in final[0] if point.concept in literal]
    return list(titled.items())


def _is_final(title: str) -> bool:
    """Whether rows under a title may be the result of trainings; the last such are."""
    return title.startswith(("learned", "ended"))


def steps_table(points: Sequence[Point]) -> str:
    """Means over concepts, with their intervals, after each number of steps, as lines of text."""
    lines = [f"{'':14}{'fidelity':>22}{'editability':>22}   concepts x seeds x samples"]
    for title, members in groups(points):
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(*interval(members, what)) for what in MEASURES]
        concepts = len({point.concept for point in members})
        counts = f"{concepts} x {len(members) // concepts} x {len(members[0].score.fidelity)}"
        lines.append(f"{title:14}{cells[0]:>22}{cells[1]:>22}   {counts}")
    return "\n".join(lines)


def last_line(points: Sequence[Point]) -> str:
    """The result in one line: learned at the last step, between its bounds.

    Over the same concepts: those that plain words describe, where there are some.
    """
    with_words = {point.concept for point in points if point.kind == "literal"}
    rows = dict(groups([point for point in points if point.concept in with_words or not with_words]))
    final = [members for title, members in rows.items() if _is_final(title)][-1]

    def mean(members: Sequence[Point], what: str) -> str:
        return f"{interval(members, what)[0]:.3f}" if members else "none"

    literal = rows.get("literal", [])
    return (
        f"fidelity {mean(final, 'fidelity')} literal {mean(literal, 'fidelity')} "
        f"initializer {mean(rows['initializer'], 'fidelity')} "
        f"editability {mean(final, 'editability')} literal {mean(literal, 'editability')}"
    )


def write(folder: Path, points: Sequence[Point], settings: Mapping[str, Any]) -> None:
    """Writes `results.json` and, with matplotlib, `results.png`.

    Args:
      folder: where to.
      points: what was measured, an entry each.
      settings: what they were measured with, which goes before them.
    """
    results = [
        {
            "concept": point.concept,
            "kind": point.kind,
            "steps": point.steps,
            "seed": point.seed,
            "samples": len(point.score.fidelity),
            "fidelity": float(point.score.fidelity.mean()),
            "editability": float(point.score.editability.mean()),
        }
        for point in points
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({**settings, "results": results}, indent=1) + "\n")
    try:
        plot(points, folder / "results.png")
    except ImportError:
        print("note: no plot; `pip install matplotlib` adds results.png")


def plot(points: Sequence[Point], file: Path) -> None:
    """Draws shares by steps, with their intervals and bounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, what in zip(axes, MEASURES):
        rows = [
            (members[0], interval(members, what)) for title, members in groups(points) if title != "of these"
        ]
        curve = [(point.steps, *share) for point, share in rows if point.kind == "learned"]
        if curve:
            steps, mean, low, high = (np.array(column) for column in zip(*curve))
            axis.plot(steps, mean, marker="o", label="learned")
            axis.fill_between(steps, low, high, alpha=0.2)
        for point, share in rows:
            if point.kind in _MARKED:
                steps = np.mean([each.steps for each in points if each.kind == point.kind])
                marker, label = _MARKED[point.kind]
                axis.plot(steps, share[0], marker=marker, markersize=12, linestyle="none", label=label)
            elif point.kind != "learned":
                style = _BOUNDS[point.kind]
                axis.axhline(share[0], linestyle=style, color="black", label=point.kind)
        axis.set(title=what, xlabel="steps", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of samples")
    axes[1].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
