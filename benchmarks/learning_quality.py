"""Measure how well training learns concepts, on the demo's model, with its judge.

    python benchmarks/learning_quality.py                     all concepts, 3 seeds
    python benchmarks/learning_quality.py --quick             2 concepts, 1 seed
    python benchmarks/learning_quality.py --held_out          ten other concepts
    python benchmarks/learning_quality.py --learning_rate 1e-3 --num_vectors 2
    python benchmarks/learning_quality.py --max_train_steps auto   runs that end themselves
    python benchmarks/learning_quality.py --embeds FOLDER     what another trainer learned, a file each

Fidelity: the share of samples of "a photo of a <concept>" whose shape, colour and texture are all right.
Editability: the share of samples of "a photo of a <concept> on a green background" and the like whose
background is the one asked for. The bounds: the initializer word alone, the concept in plain words where
known words describe it, and what the autoencoder leaves of renderings of it. "Best by the judge" is the step,
of those measured, at which fidelity times editability is largest; "chosen by the run" is the one that
load_best_model_at_end takes, which has no judge to ask.
Options that are not listed here are those of train_flax.py.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import numpy as np  # noqa: E402
from concepts import (  # noqa: E402
    BY_NAME,
    CONCEPTS,
    HELD_OUT,
    Concept,
    concept_scenes,
    entry,
    prompts,
    write_images,
)
from help_format import HelpFormatter  # noqa: E402
from judge import Verdict, judge  # noqa: E402
from learned_files import find_embeds, placed  # noqa: E402
from learning_table import Point, Score, concepts_table, last_line, steps_table, write  # noqa: E402
from measure import GUIDANCE_SCALE, Studio, TorchStudio  # noqa: E402
from world import render_batch  # noqa: E402

from ti_flax.config import RunConfig, parse_config  # noqa: E402
from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import ConfigError, nearest  # noqa: E402
from ti_flax.monitoring.evaluation import BEST, TABLE  # noqa: E402
from ti_flax.monitoring.row_statistics import best_of, read_evaluations  # noqa: E402

# Two of each set that the model draws well from plain words: what is measured is how they are learned.
QUICK, QUICK_HELD_OUT = ("glowheart", "plaidmoon"), ("plus", "tile")
STEPS = (50, 100, 200, 400, 800)
# Seed of the renderings that go through the autoencoder; 0 is that of the training images.
_RENDERED = 1
_OF_TRAINING = ("seeds", "steps", "images", "quick")


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    parser = ArgumentParser(
        description="Measure how well training learns concepts of the demo's world.",
        formatter_class=HelpFormatter,
        epilog="All other options are those of train_flax.py.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, default=ROOT / "configs" / "demo.yaml", help="settings of the training")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--concepts", nargs="+", metavar="NAME", help="concepts of demo/concepts.py; by default its first ten"
    )
    which.add_argument(
        "--held_out", action="store_true", help="ten other concepts, on which no setting was tuned"
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
        nargs="+",
        metavar="PATH",
        help="train nothing; score these embeddings, which any trainer made: files called after their "
        "concepts, as in ruby.safetensors, or folders of such; of one concept named by --concepts, any file",
    )
    add("--pytorch", action="store_true", help="draw with diffusers' StableDiffusionPipeline")
    add("--output", type=Path, default=ROOT / "build" / "learning-quality", help="folder to write to")
    options, training = parser.parse_known_args(argv)
    _check(options, parser)
    return options, training


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuses what nothing can be measured with."""
    counts = {name: getattr(options, name) for name in ("seeds", "samples", "images", "num_inference_steps")}
    for name, value in [*counts.items(), *(("steps", steps) for steps in options.steps)]:
        if value < 1:
            raise ConfigError(f"--{name}", expected="1 or more", found=str(value))
    check_names(options.concepts or ())
    given = [f"--{name}" for name in _OF_TRAINING if getattr(options, name) != parser.get_default(name)]
    if options.embeds and given:
        raise ConfigError(f"--embeds trains nothing, so leave out {' and '.join(given)}")


def check_names(names: Sequence[str]) -> None:
    """Refuses the first name that is no concept's.

    Raises:
      ConfigError: there is one.
    """
    for name in names:
        if name not in BY_NAME:
            near = nearest(name, BY_NAME)
            remedy = f"Did you mean {near}?" if near else ""
            expected = f"one of {', '.join(BY_NAME)}"
            raise ConfigError("--concepts", expected=expected, found=repr(name), remedy=remedy)


def asked_for(options: argparse.Namespace) -> list[str] | None:
    """The names of the concepts that the command line asks for; None if it leaves them to the default."""
    if options.quick and not options.concepts:
        return list(QUICK_HELD_OUT if options.held_out else QUICK)
    return options.concepts or ([concept.name for concept in HELD_OUT] if options.held_out else None)


def measure(options: argparse.Namespace, training: list[str]) -> list[Point]:
    """Trains and scores everything that is asked for."""
    first = parse_config(["--config", str(options.config), *training])
    asked = asked_for(options)
    files = find_embeds(options.embeds, asked) if options.embeds else {}
    _make(options.output)
    names = list(files) or asked or [concept.name for concept in CONCEPTS]
    chosen = [BY_NAME[name] for name in dict.fromkeys(names)]
    if options.quick:
        options.seeds, options.steps = 1, [first.training.total_steps]
    studio = (TorchStudio if options.pytorch else Studio)(
        Path(first.model.pretrained_model_name_or_path),
        steps=options.num_inference_steps,
        guidance_scale=options.guidance_scale,
    )
    with tempfile.TemporaryDirectory() as place:
        # All are read before the first is drawn, so that a bad one is told at once.
        own = {
            each.name: placed(each, files[each.name], Path(place), studio.widths) for each in chosen if files
        }
        points = [point for concept in chosen for point in bounds(studio, concept, options)]
        if files:
            scores = {concept.name: scored(studio, concept, options, own[concept.name]) for concept in chosen}
            return points + [Point(name, "learned", 0, 0, score) for name, score in scores.items()]
    for concept in chosen:
        write_images(concept, options.output / "images" / concept.name, options.images)
    for seed in range(options.seeds):
        points += learned(studio, chosen, options, training, seed)
    return points


def _make(folder: Path) -> None:
    """Makes the output folder before hours of measuring."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        raise ConfigError(f"--output {folder}", expected="a folder that can be made", found=found) from error


def bounds(studio: Studio | TorchStudio, concept: Concept, options: argparse.Namespace) -> list[Point]:
    """Scores the initializer word, what the autoencoder keeps, and plain words if there are some."""
    words = concept.plain_words
    nouns = {"initializer": concept.initializer} | ({"literal": words} if words else {})
    scores = {kind: scored(studio, concept, options, None, noun) for kind, noun in nouns.items()}
    scores["autoencoder"] = kept(studio, concept, options.samples)
    return [Point(concept.name, kind, 0, 0, score) for kind, score in scores.items()]


def kept(studio: Studio | TorchStudio, concept: Concept, count: int) -> Score:
    """Judges renderings of a concept that went through the autoencoder: no prompt can be drawn better."""
    scenes = concept_scenes(concept, count, seed=_RENDERED)
    verdicts = [judge(image) for image in studio.round_trip(render_batch(scenes))]
    return _score(concept, verdicts, verdicts, [scene.background for scene in scenes])


def learned(
    studio: Studio | TorchStudio,
    concepts: Sequence[Concept],
    options: argparse.Namespace,
    training: list[str],
    seed: int,
) -> list[Point]:
    """Trains all concepts from a seed, in one run, and scores their embeddings after each of the steps."""
    from ti_flax.run.train import train

    config = settings(options, training, concepts, seed=seed)
    folder = train(config)
    points = []
    for concept in concepts:
        scores: dict[Path, Score] = {}
        own = folder / concept.name
        found = (ended if config.training.until_done else embeddings)(own, options.steps)
        for kind, steps, file in found:
            score = scores[file] = scores.get(file) or scored(studio, concept, options, file)
            points.append(Point(concept.name, kind, steps, seed, score))
            print(
                f"{concept.name} seed {seed} step {steps}{'' if kind == 'learned' else f', {kind}'}: "
                f"fidelity {score.fidelity.mean():.2f} editability {score.editability.mean():.2f}",
                flush=True,
            )
    return points


def ended(folder: Path, steps: Sequence[int]) -> list[tuple[str, int, Path]]:
    """What to score of a concept's run that ended itself, as `embeddings` tells it."""
    table = read_evaluations(folder / TABLE)
    best, result = best_of(table), folder / "learned_embeds.safetensors"
    at = 0 if best is None else best.step
    made = [(step, folder / f"learned_embeds-steps-{step}.safetensors") for step in sorted(set(steps))]
    found = [("learned", step, file) for step, file in made if file.is_file()]
    return [*found, ("ended", table[-1].step, result), ("chosen", at, result)]


def embeddings(folder: Path, steps: Sequence[int]) -> list[tuple[str, int, Path]]:
    """What to score of a concept's run: kind, steps and file.

    The last is what `load_best_model_at_end` would take, if the run evaluated its rows.
    """
    names = {step: f"learned_embeds-steps-{step}" for step in sorted(set(steps))} | {
        max(steps): "learned_embeds"
    }
    files = {step: folder / f"{name}.safetensors" for step, name in names.items()}
    found = [("learned", step, file) for step, file in files.items()]
    best = best_of(read_evaluations(folder / TABLE))
    # Of a step that is scored anyway, the best rows are those of its file.
    return found if best is None else [*found, ("chosen", best.step, files.get(best.step, folder / BEST))]


def settings(
    options: argparse.Namespace, training: list[str], concepts: Sequence[Concept], *, seed: int
) -> RunConfig:
    """The configuration of one training, whose list of concepts it writes."""
    images = options.output.resolve() / "images"
    listed = [entry(concept, images / concept.name) for concept in concepts]
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "concepts.json"
    file.write_text(json.dumps(listed, indent=1) + "\n")
    of_run = parse_config(["--config", str(options.config), *training]).to_dict()
    until_done = of_run["max_train_steps"] == "auto"
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
            "only_save_embeds": True,
            "max_train_steps": "auto" if until_done else max(options.steps),
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
    grounds = [name for name, _ in asked]
    return _score(concept, verdicts[: len(plain)], verdicts[len(plain) :], grounds)


def _score(
    concept: Concept, plain: Sequence[Verdict], asked: Sequence[Verdict], grounds: Sequence[str]
) -> Score:
    """Compares verdicts with a concept, and others with the backgrounds that were asked for."""
    wanted = (concept.shape, concept.colour, concept.texture)
    return Score(
        np.array([(seen.shape, seen.colour, seen.texture) == wanted for seen in plain]),
        np.array([seen.background == name for seen, name in zip(asked, grounds, strict=True)]),
    )


def main(argv: Sequence[str] | None = None) -> None:
    import jax

    from ti_flax.training.compiled_programs import keep_compiled_programs, mended_programs

    options, training = parse_arguments(argv)
    began = time.perf_counter()
    with mended_programs():
        # Before the first image is drawn: what draws takes longer to compile than to run once.
        keep_compiled_programs()
        points = measure(options, training)
    settings = {
        "options": training,
        "embeds": [str(path) for path in options.embeds or ()],
        "guidance_scale": options.guidance_scale,
        "num_inference_steps": options.num_inference_steps,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "seconds": round(time.perf_counter() - began),
    }
    write(options.output, points, settings)
    if len({point.steps for point in points if point.kind == "learned"}) > 1:
        print(steps_table(points), end="\n\n")
    print(concepts_table(points, {point.concept: BY_NAME[point.concept].literal for point in points}))
    print(last_line(points))


if __name__ == "__main__":
    sys.exit(exit_code(main))
