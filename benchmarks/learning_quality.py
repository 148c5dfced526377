"""Measure how well training learns concepts, on the demo's model, with its judge.

    python benchmarks/learning_quality.py                     all concepts, 3 seeds
    python benchmarks/learning_quality.py --quick             2 concepts, 1 seed
    python benchmarks/learning_quality.py --concepts seastar --embeds learned_embeds.safetensors
    python benchmarks/learning_quality.py --learning_rate 1e-3 --num_vectors 2

Fidelity: the share of samples of "a photo of a <concept>" whose shape, colour and texture are all right.
Editability: the share of samples of "a photo of a <concept> on a green background" and the like whose
background is the one asked for. The bounds: the initializer word alone, and the concept in plain words where
known words describe it. Options that are not listed here are those of train_flax.py.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import numpy as np  # noqa: E402
from concepts import BY_NAME, CONCEPTS, Concept, entry, prompts, write_images  # noqa: E402
from help_format import HelpFormatter  # noqa: E402
from judge import judge  # noqa: E402
from measure import GUIDANCE_SCALE, Studio, TorchStudio  # noqa: E402

from ti_flax.config import RunConfig, parse_config  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import ConfigError  # noqa: E402

# Two that the model draws well from plain words, so that what is measured is how they are learned.
QUICK = ("glowheart", "plaidmoon")
STEPS = (50, 100, 200, 400, 800)
MEASURES = ("fidelity", "editability")
_RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """What the judge saw: one truth value a sample, of fidelity and of editability."""

    fidelity: np.ndarray
    editability: np.ndarray


@dataclass(frozen=True)
class Point:
    """A score and what was measured: a concept learned from a seed for some steps, or a bound of it."""

    concept: str
    kind: str
    steps: int
    seed: int
    score: Score


def parse_arguments(argv=None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description="Measure how well training learns concepts of the demo's world.",
        formatter_class=HelpFormatter,
        epilog="All other options are those of train_flax.py.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, default=ROOT / "configs" / "demo.yaml", help="settings of the training")
    add(
        "--concepts",
        nargs="+",
        choices=sorted(BY_NAME),
        metavar="NAME",
        help="concepts to learn; by default all",
    )
    add("--seeds", type=int, default=3, help="trainings of each concept")
    add("--steps", type=int, nargs="+", default=list(STEPS), metavar="N", help="measure after so many steps")
    add("--samples", type=int, default=64, help="images that the judge looks at for each figure")
    add("--images", type=int, default=5, help="training images of each concept")
    add("--guidance_scale", type=float, default=GUIDANCE_SCALE, help="guidance of the samples; 1 is none")
    add("--num_inference_steps", type=int, default=25, help="denoising steps of a sample")
    add("--quick", action="store_true", help="learn 2 concepts from 1 seed for the configured steps")
    add(
        "--embeds",
        type=Path,
        metavar="FILE",
        help="score this embedding of the one concept named; train nothing",
    )
    add("--pytorch", action="store_true", help="draw with diffusers' StableDiffusionPipeline")
    add("--output", type=Path, default=ROOT / "build" / "learning-quality", help="folder to write to")
    return parser.parse_known_args(argv)


def measure(options: argparse.Namespace, training: list[str]) -> list[Point]:
    """Trains and scores everything that is asked for."""
    chosen = [BY_NAME[name] for name in options.concepts or [concept.name for concept in CONCEPTS]]
    if options.embeds and len(chosen) != 1:
        raise ConfigError("--embeds", expected="one name after --concepts", found=f"{len(chosen)} concepts")
    first = parse_config(["--config", str(options.config), *training])
    if options.quick:
        chosen = [BY_NAME[name] for name in options.concepts or QUICK]
        options.seeds, options.steps = 1, [first.training.max_train_steps or 0]
    folder = Path(first.model.pretrained_model_name_or_path)
    studio = (TorchStudio if options.pytorch else Studio)(
        folder, steps=options.num_inference_steps, guidance_scale=options.guidance_scale
    )
    points = [point for concept in chosen for point in bounds(studio, concept, options)]
    if options.embeds:
        score = scored(studio, chosen[0], options, options.embeds)
        return [*points, Point(chosen[0].name, "learned", 0, 0, score)]
    for concept in chosen:
        write_images(concept, options.output / "images" / concept.name, options.images)
    for seed in range(options.seeds):
        points += learned(studio, chosen, options, training, seed)
    return points


def bounds(studio: Studio | TorchStudio, concept: Concept, options: argparse.Namespace) -> list[Point]:
    """Scores the initializer word, and the concept in plain words if it has some."""
    nouns = {"initializer": concept.initializer} | ({"literal": concept.literal} if concept.has_words else {})
    return [
        Point(concept.name, kind, 0, 0, scored(studio, concept, options, None, noun))
        for kind, noun in nouns.items()
    ]


def learned(
    studio: Studio | TorchStudio,
    concepts: Sequence[Concept],
    options: argparse.Namespace,
    training: list[str],
    seed: int,
) -> list[Point]:
    """Trains all concepts from a seed, in one run, and scores their embeddings after each of the steps."""
    from ti_flax.run.train import train

    folder = train(settings(options, training, concepts, seed=seed, steps=max(options.steps)))
    points = []
    for concept in concepts:
        for steps in sorted(options.steps):
            name = "learned_embeds" if steps == max(options.steps) else f"learned_embeds-steps-{steps}"
            file = folder / concept.name / f"{name}.safetensors"
            points.append(Point(concept.name, "learned", steps, seed, scored(studio, concept, options, file)))
            shares = points[-1].score
            print(
                f"{concept.name} seed {seed} step {steps}: fidelity {shares.fidelity.mean():.2f} "
                f"editability {shares.editability.mean():.2f}",
                flush=True,
            )
    return points


def settings(
    options: argparse.Namespace, training: list[str], concepts: Sequence[Concept], *, seed: int, steps: int
) -> RunConfig:
    """The configuration of one training, whose list of concepts it writes."""
    images = options.output.resolve() / "images"
    listed = [entry(concept, images / concept.name) for concept in concepts]
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "concepts.json"
    file.write_text(json.dumps(listed, indent=1) + "\n")
    of_run = parse_config(["--config", str(options.config), *training]).to_dict()
    del of_run["placeholder_token"], of_run["initializer_token"]
    return RunConfig.from_dict(
        of_run
        | {
            "concepts": str(file),
            "seed": seed,
            "output_dir": str(options.output / f"seed-{seed}"),
            "overwrite_output_dir": True,
            "validation_prompt": None,
            "report_to": "none",
            "max_train_steps": steps,
            "save_steps": int(np.gcd.reduce(options.steps)),
        }
    )


def scored(
    studio: Studio | TorchStudio,
    concept: Concept,
    options: argparse.Namespace,
    embeds: Path | None,
    noun: str | None = None,
) -> Score:
    """Draws and judges a concept under its placeholder, or under a noun of known words."""
    noun = noun or concept.placeholder
    plain = prompts(noun, {"": ""}, options.samples)
    asked = prompts(noun, concept.settings, options.samples)
    drawn = studio.draw([text.strip() for _, text in plain + asked], seed=1000, embeds=embeds)
    verdicts = [judge(image) for image in drawn]
    wanted = (concept.shape, concept.colour, concept.texture)
    return Score(
        np.array([(seen.shape, seen.colour, seen.texture) == wanted for seen in verdicts[: len(plain)]]),
        np.array([seen.background == name for seen, (name, _) in zip(verdicts[len(plain) :], asked)]),
    )


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


def groups(points: Sequence[Point]) -> list[tuple[str, list[Point]]]:
    """The rows of the table: bounds and the learned embedding by steps.

    Where only some concepts have words, the last row holds what was learned of those.
    """
    titled: dict[str, list[Point]] = {}
    for kind in ("initializer", "learned", "literal"):
        for point in sorted((p for p in points if p.kind == kind), key=lambda p: p.steps):
            title = f"{kind} {point.steps}" if kind == "learned" and point.steps else kind
            titled.setdefault(title, []).append(point)
    literal = {point.concept for point in titled.get("literal", [])}
    final = [members for title, members in titled.items() if title.startswith("learned")][-1:]
    if final and literal and literal < {point.concept for point in final[0]}:
        titled["of these"] = [point for point in final[0] if point.concept in literal]
    return list(titled.items())


def table(points: Sequence[Point]) -> str:
    """Means and intervals as lines of text."""
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
    final = [members for title, members in rows.items() if title.startswith("learned")][-1]

    def mean(members: Sequence[Point], what: str) -> str:
        return f"{interval(members, what)[0]:.3f}" if members else "none"

    literal = rows.get("literal", [])
    return (
        f"fidelity {mean(final, 'fidelity')} literal {mean(literal, 'fidelity')} "
        f"initializer {mean(rows['initializer'], 'fidelity')} "
        f"editability {mean(final, 'editability')} literal {mean(literal, 'editability')}"
    )


def write(points: Sequence[Point], options: argparse.Namespace, training: list[str], seconds: float) -> None:
    """Writes `results.json` and, with matplotlib, `results.png`."""
    import jax

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
    content = {
        "options": training,
        "guidance_scale": options.guidance_scale,
        "num_inference_steps": options.num_inference_steps,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "seconds": round(seconds),
        "results": results,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    try:
        plot(points, options.output / "results.png")
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
        steps, mean, low, high = (np.array(column) for column in zip(*curve))
        axis.plot(steps, mean, marker="o", label="learned")
        axis.fill_between(steps, low, high, alpha=0.2)
        for point, share in rows:
            if point.kind != "learned":
                style = "--" if point.kind == "literal" else ":"
                axis.axhline(share[0], linestyle=style, color="black", label=point.kind)
        axis.set(title=what, xlabel="steps", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of samples")
    axes[1].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main(argv=None) -> None:
    options, training = parse_arguments(argv)
    began = time.perf_counter()
    points = measure(options, training)
    write(points, options, training, time.perf_counter() - began)
    print(table(points))
    print(last_line(points))


if __name__ == "__main__":
    sys.exit(exit_code(main))
