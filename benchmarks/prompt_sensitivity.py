"""Measure what tells over-training: which number orders words as the judge of the demo's world does.

    python benchmarks/prompt_sensitivity.py                the demo's ten concepts, two rates, five steps
    python benchmarks/prompt_sensitivity.py --held_out     ten other concepts

AdamW teaches words at several rates; they are judged after several numbers of steps, and measured. A word is
over-trained where less than 0.9 of its images have the background that the prompt asks for. The area under
the ROC curve is the chance that a word that is over-trained has a smaller number than one that is not. What
is judged and measured is kept under --output: a run that goes on does the rest. Other options are those of
train_flax.py.
"""

import argparse
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import learning_quality  # noqa: E402
import numpy as np  # noqa: E402
from concepts import BY_NAME, CONCEPTS, HELD_OUT, Concept, write_images  # noqa: E402
from help_format import HelpFormatter  # noqa: E402
from measure import Studio  # noqa: E402

from ti_flax.config import parse_config  # noqa: E402
from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.monitoring.prompt_sensitivity import NOISES as OF_A_RUN  # noqa: E402
from ti_flax.monitoring.prompt_sensitivity import PROMPTS, TIMESTEP, PromptSensitivity  # noqa: E402
from ti_flax.monitoring.row_statistics import DROWNS  # noqa: E402

OVER_TRAINED = 0.9
TIMESTEPS = (0.4, 0.6, 0.8, TIMESTEP)
NOISES = 16
_CHOICES = 20


@dataclass(frozen=True)
class Word:
    """A word that was taught, judged and measured.

    Attributes:
      concept, rate, step: which one it is.
      fidelity, editability: as the judge says.
      length: of its vector.
      loss: its validation loss.
      distances: `[timesteps, noises, prompts - 1]`, of the word.
      at_start: likewise, of its initializer.
      file: with its vector.
    """

    concept: str
    rate: str
    step: int
    fidelity: float
    editability: float
    length: float
    loss: float
    distances: np.ndarray
    at_start: np.ndarray
    file: Path

    def heard(self, timestep: float = TIMESTEP, noises: object = slice(None)) -> np.ndarray:
        """The prompt sensitivity of each setting relative to the initializer's, over some of the noises."""
        measured = (each[TIMESTEPS.index(timestep)][noises] for each in (self.distances, self.at_start))
        of_word, of_start = (np.mean(each, axis=0) for each in measured)
        return of_word / of_start

    def sensitivity(self, timestep: float = TIMESTEP, noises: object = slice(None)) -> float:
        """That of the setting that is heard least."""
        return float(np.min(self.heard(timestep, noises)))

    @property
    def as_in_a_run(self) -> float:
        """As a run measures it."""
        return self.sensitivity(noises=slice(OF_A_RUN))


def parse_arguments(
    argv: Sequence[str] | None = None, *, measures: str = "over-training"
) -> tuple[argparse.Namespace, list[str]]:
    parser = ArgumentParser(
        description=f"Measure what tells {measures}, in the demo's world.",
        formatter_class=HelpFormatter,
        epilog="All other options are those of train_flax.py.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, default=ROOT / "configs" / "demo.yaml", help="settings of the training")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--concepts", nargs="+", metavar="NAME", help="to teach; by default the first ten")
    which.add_argument("--held_out", action="store_true", help="ten other concepts")
    add("--rates", nargs="+", default=["1e-2", "3e-2"], metavar="RATE", help="learning rates")
    add(
        "--steps", type=int, nargs="+", default=[25, 50, 100, 200, 400], metavar="N", help="judge after those"
    )
    add("--samples", type=int, default=32, help="images that the judge looks at for each figure")
    add("--num_inference_steps", type=int, default=25, help="denoising steps of a sample")
    add("--seed", type=int, default=0, help="of the trainings")
    add("--output", type=Path, default=ROOT / "build" / "prompt-sensitivity", help="folder to write to")
    options, training = parser.parse_known_args(argv)
    learning_quality.check_names(options.concepts or ())
    return options, training


class Meter:
    """Measures the prompt sensitivity of words at every timestep, with all noises."""

    def __init__(self, studio: Studio):
        import jax

        from ti_flax.models.noise_schedule import NoiseSchedule
        from ti_flax.training.devices import replicate
        from ti_flax.training.state import StepConfig

        model = studio.model
        self._studio, self._devices, self._programs = studio, jax.local_devices(), {}
        self._frozen = replicate(model.step_params, self._devices)
        self._config = StepConfig(
            model=model,
            schedule=NoiseSchedule.from_config(model.configs["scheduler"]),
            optimizer=types.SimpleNamespace(),  # pyright: ignore[reportArgumentType]
            trainable={name: np.ones(1, bool) for name in model.widths},
            first_added_id=len(studio.tokenizer()),
            batch_size=8,
        )

    def __call__(self, noun: str, embeds: Path | None = None) -> tuple[np.ndarray, float]:
        """The distances of a noun, `[timesteps, noises, prompts - 1]`, and the length of its vector."""
        from ti_flax.embedding.learned_embeds import add_learned_embeds
        from ti_flax.models.tokenizer import encode_prompts

        tokenizer, widths = self._studio.tokenizer(), self._studio.model.widths
        rows = {name: np.zeros((1, width), np.float32) for name, width in widths.items()}
        if embeds is not None:
            rows = add_learned_embeds(tokenizer, embeds, widths=widths)
        ids = encode_prompts(tokenizer, [prompt.replace("{}", noun) for prompt in PROMPTS["object"]])
        found = [
            PromptSensitivity(
                self._config,
                self._frozen,
                ids[None],
                side=self._studio.side,
                devices=self._devices,
                noises=NOISES,
                timestep=timestep,
                programs=self._programs,
            ).distances(rows)[0]
            for timestep in TIMESTEPS
        ]
        return np.stack(found), float(np.linalg.norm(next(iter(rows.values()))[0]))


def studio_of(options: argparse.Namespace, training: list[str]) -> Studio:
    """Draws with the model that is trained."""
    base = parse_config(["--config", str(options.config), *training]).model.pretrained_model_name_or_path
    return Studio(Path(base), steps=options.num_inference_steps)


def words(options: argparse.Namespace, training: list[str], studio: Studio) -> Iterator[Word]:
    """Teaches, judges and measures what is not there yet."""
    chosen = HELD_OUT if options.held_out else [BY_NAME[name] for name in options.concepts or ()] or CONCEPTS
    meter = Meter(studio)
    of_initializers = {concept.name: meter(concept.initializer)[0] for concept in chosen}
    for rate in options.rates:
        # Named by the concepts, as one run teaches them all.
        names = "-".join(sorted(concept.name for concept in chosen))
        folder = taught(options, training, chosen, rate, options.output / rate / names)
        for concept in chosen:
            losses = validation_losses(folder / concept.name)
            for step in sorted(options.steps):
                name = f"learned_embeds{'' if step == max(options.steps) else f'-steps-{step}'}"
                file = folder / concept.name / f"{name}.safetensors"
                yield judged(options, studio, meter, concept, rate, step, file, losses, of_initializers)


def taught(
    options: argparse.Namespace, training: list[str], chosen: Sequence[Concept], rate: str, output: Path
) -> Path:
    """The folder of the run that teaches all concepts at a rate."""
    from ti_flax.run.train import train

    of_run, _ = learning_quality.parse_arguments(
        ["--config", str(options.config), "--output", str(output), "--steps", *map(str, options.steps)]
    )
    for concept in chosen:
        write_images(concept, output.resolve() / "images" / concept.name, of_run.images)
    flags = [
        "--preset",
        "null",
        *training,
        "--learning_rate",
        rate,
        "--eval_steps",
        str(np.gcd.reduce(options.steps)),
    ]
    config = learning_quality.settings(of_run, flags, chosen, seed=options.seed)
    again = {"overwrite_output_dir": False, "resume_from_checkpoint": "auto"}
    return train(config.replace(**again))


def validation_losses(folder: Path) -> dict[int, float]:
    """The validation loss of each evaluation of a concept's run."""
    from ti_flax.monitoring.evaluation import TABLE
    from ti_flax.monitoring.row_statistics import read_evaluations

    return {each.step: each.validation_loss for each in read_evaluations(folder / TABLE)}


def judged(
    options: argparse.Namespace,
    studio: Studio,
    meter: Meter,
    concept: Concept,
    rate: str,
    step: int,
    file: Path,
    losses: dict[int, float],
    of_initializers: dict[str, np.ndarray],
) -> Word:
    """A word, measured now or by an earlier call."""
    kept = options.output / "words" / f"{concept.name}-{rate}-{step}-{options.seed}-{options.samples}.npz"
    if not kept.exists():
        distances, length = meter(concept.placeholder, file)
        scoring, _ = learning_quality.parse_arguments(["--samples", str(options.samples)])
        score = learning_quality.scored(studio, concept, scoring, file)
        kept.parent.mkdir(parents=True, exist_ok=True)
        values = {"fidelity": score.fidelity.mean(), "editability": score.editability.mean()}
        np.savez(kept, distances=distances, length=length, **values)
    found = np.load(kept)
    word = Word(
        concept.name,
        rate,
        step,
        float(found["fidelity"]),
        float(found["editability"]),
        float(found["length"]),
        losses.get(step, float("nan")),
        found["distances"],
        of_initializers[concept.name],
        file,
    )
    print(
        f"{concept.name} at {rate}, step {step}: fidelity {word.fidelity:.2f} editability "
        f"{word.editability:.2f} prompt sensitivity {word.as_in_a_run:.2f}",
        flush=True,
    )
    return word


def area(numbers: Sequence[float], over_trained: Sequence[bool]) -> float:
    """The area under the ROC curve of numbers that are small where a word is over-trained."""
    values, bad = np.asarray(numbers), np.asarray(over_trained)
    lower = values[bad][:, None] < values[~bad]
    equal = values[bad][:, None] == values[~bad]
    return float(np.mean(lower + 0.5 * equal)) if lower.size else float("nan")


def table(measured: Sequence[Word]) -> str:
    """What was found, as lines of text."""
    bad = [word.editability < OVER_TRAINED for word in measured]
    called = [word.as_in_a_run < DROWNS for word in measured]
    found = sum(one and other for one, other in zip(bad, called, strict=True))
    rng = np.random.default_rng(0)
    lines = [f"{len(measured)} words, {sum(bad)} over-trained. Area under the ROC curve:"]
    for timestep in TIMESTEPS:
        areas = [area([word.sensitivity(timestep) for word in measured], bad)]
        lines.append(_line(f"prompt sensitivity, timestep {timestep:.1f} of 1, {NOISES} noises", areas))
    for count in (8, 4, 2):
        chosen = [rng.choice(NOISES, count, replace=False) for _ in range(_CHOICES)]
        areas = [area([word.sensitivity(noises=some) for word in measured], bad) for some in chosen]
        lines.append(_line(f"at {TIMESTEP} with {count} noises, mean of {_CHOICES} choices", areas))
    lines.append(_line(f"with the {OF_A_RUN} of a run", [area([word.as_in_a_run for word in measured], bad)]))
    of_all = [area([float(np.mean(word.heard())) for word in measured], bad)]
    lines.append(_line("mean of all settings in place of the least", of_all))
    lines.append(_line("length of the vector", [area([-word.length for word in measured], bad)]))
    lines.append(
        f"Below {DROWNS} are {found} of {sum(bad)} over-trained words, and {sum(called) - found} of "
        f"{len(bad) - sum(bad)} others."
    )
    return "\n".join(lines)


def _line(what: str, areas: Sequence[float]) -> str:
    return f"  {what:52}{np.mean(areas):.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    options, training = parse_arguments(argv)
    print(table(list(words(options, training, studio_of(options, training)))))


if __name__ == "__main__":
    sys.exit(exit_code(main))
