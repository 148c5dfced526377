"""Measure what tells likeness: which loss orders words as the judge of the demo's world orders their images.

    python benchmarks/likeness.py                the demo's ten concepts, two rates, five steps
    python benchmarks/likeness.py --held_out     ten other concepts

The words are those that prompt_sensitivity.py teaches and judges; what is there is not done again. Of each
concept they are ranked by the judged fidelity and by a signal, a small one first; the rank correlation
(Spearman) is 1 where both say the same. What is lost by choice is how far the fidelity at the smallest signal
of a run lies below the best of the run, among the steps at which the prompt is heard.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import numpy as np  # noqa: E402
import prompt_sensitivity  # noqa: E402
from concepts import BY_NAME, Concept, concept_scenes  # noqa: E402
from measure import Studio  # noqa: E402
from prompt_sensitivity import Word  # noqa: E402
from scipy.stats import rankdata  # noqa: E402
from world import render_batch  # noqa: E402

from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.monitoring.report.curves import read_metrics  # noqa: E402
from ti_flax.monitoring.row_statistics import DROWNS  # noqa: E402

# Timesteps, as shares of all, and noises of each image at each of them.
TIMESTEPS = tuple((2 * place + 1) / 20 for place in range(10))
NOISES = 4
# With its context, as previews ask for the concept, and without.
PROMPTS = ("a photo of a {}", "{}")
# Seeds of the images that a word is measured on: those of its training, and others of the same thing.
SEEDS = {"training images": 0, "other images": 1}
# Training losses that are averaged.
_UPDATES = 25


@dataclass(frozen=True)
class Measured:
    """A word and its losses.

    Attributes:
      word: taught and judged.
      losses: `[image sets, prompts, timesteps]` float64, the mean squared errors of the predicted noise.
      trained: the mean training loss of the last updates before it was saved.
    """

    word: Word
    losses: np.ndarray
    trained: float


class Losses:
    """Measures the denoising errors of words, the same noise for each.

    Args:
      studio: with the model.
      images: of each set.
    """

    def __init__(self, studio: Studio, images: int = 5):
        import jax

        from ti_flax.models.noise_schedule import NoiseSchedule

        self._studio, self._images = studio, images
        self.schedule = NoiseSchedule.from_config(studio.model.configs["scheduler"])
        self._params = jax.device_put(dict(studio.model.params))
        self._latents: dict[str, np.ndarray] = {}
        self._encode, self._errors = jax.jit(self._encoded), jax.jit(self._measured)

    def __call__(self, concept: Concept, embeds: Path) -> np.ndarray:
        """The losses of a concept's word, `[image sets, prompts, timesteps]`."""
        from ti_flax.embedding.learned_embeds import add_learned_embeds
        from ti_flax.models.tokenizer import encode_prompts, expand_known

        tokenizer = self._studio.tokenizer()
        rows = add_learned_embeds(tokenizer, embeds, widths=self._studio.model.widths)
        texts = [expand_known(tokenizer, prompt.replace("{}", concept.placeholder)) for prompt in PROMPTS]
        ids = encode_prompts(tokenizer, texts)
        found = [
            np.stack([self._errors(self._params, rows, each[None], latents) for each in ids])
            for latents in self._shown(concept)
        ]
        return np.asarray(found, np.float64)

    def _shown(self, concept: Concept) -> np.ndarray:
        """The latents of each set of images, `[image sets, images, height, width, channels]`."""
        if concept.name not in self._latents:
            sets = [render_batch(concept_scenes(concept, self._images, seed=seed)) for seed in SEEDS.values()]
            found = [self._encode(self._params, images.astype(np.float32)) for images in sets]
            self._latents[concept.name] = np.stack(found)
        return self._latents[concept.name]

    def _encoded(self, params: Any, images: Any) -> Any:
        import jax.numpy as jnp

        vae = self._studio.model.vae
        moments = jnp.asarray(vae.apply({"params": params["vae"]}, images / 127.5 - 1.0, method=vae.encode))
        return moments[..., : vae.config.latent_channels] * vae.config.scaling_factor

    def _measured(self, params: Any, rows: Any, ids: Any, latents: Any) -> Any:
        """The mean error of a prompt at each timestep."""
        import jax
        import jax.numpy as jnp

        from ti_flax.embedding.conditioning import encode_with_rows

        model, first = self._studio.model, len(self._studio.tokenizer())
        told = encode_with_rows(model, params, rows, ids, first_added_id=first).hidden_states
        shown = jnp.repeat(latents, NOISES, axis=0)
        told = jnp.repeat(told, len(shown), axis=0)
        noise = jax.random.normal(jax.random.key(0), (len(TIMESTEPS), *shown.shape))

        def error(at: tuple[Any, Any]) -> Any:
            timestep, drawn = jnp.full(len(shown), at[0]), at[1]
            noisy = self.schedule.add_noise(shown, drawn, timestep)
            predicted = model.unet.apply({"params": params["unet"]}, noisy, timestep, told)
            return jnp.mean(jnp.square(jnp.asarray(predicted) - drawn))

        return jax.lax.map(error, (jnp.asarray(self.timesteps), noise))

    @property
    def timesteps(self) -> np.ndarray:
        """`[timesteps]` int32."""
        return np.asarray([share * self.schedule.num_train_timesteps for share in TIMESTEPS], np.int32)

    @property
    def debiased(self) -> np.ndarray:
        """The weight of each timestep with `debiased_estimation_loss`, `[timesteps]` of sum 1."""
        from ti_flax.config.options import LossOptions
        from ti_flax.training.objective import timestep_weights

        table = timestep_weights(LossOptions(debiased_estimation_loss=True), self.schedule)
        weights = np.asarray(table)[self.timesteps]
        return weights / weights.sum()


def training_loss(folder: Path, step: int) -> float:
    """The mean loss of a run's last updates before a step."""
    metrics = read_metrics(folder)
    last = (metrics["step"] > step - _UPDATES) & (metrics["step"] <= step)
    return float(np.mean(metrics["loss"][last]))


def signals(losses: Losses) -> dict[str, Callable[[Measured], float]]:
    """What words are ranked by, by name; small is good."""
    alike = np.full(len(TIMESTEPS), 1 / len(TIMESTEPS))
    found: dict[str, Callable[[Measured], float]] = {
        "validation loss of the run": lambda each: each.word.loss,
        f"training loss, mean of {_UPDATES} updates": lambda each: each.trained,
        "length of the vector": lambda each: each.word.length,
        "number of steps, the later the better": lambda each: -each.word.step,
    }
    for place, images in enumerate(SEEDS):
        for row, prompt in enumerate(PROMPTS):
            for name, weights in (("alike", alike), ("debiased", losses.debiased)):
                found[f"{images}, '{prompt}', timesteps {name}"] = (
                    lambda each, at=(place, row), weights=weights: float(each.losses[at] @ weights)
                )
    return found


def rank_correlation(words: Sequence[Measured], signal: Callable[[Measured], float]) -> float:
    """Spearman's of fidelity and a signal that is small where it is good, the mean over concepts.

    A concept whose words are all alike says nothing and is left out.
    """
    found = []
    for name in {each.word.concept for each in words}:
        own = [each for each in words if each.word.concept == name]
        ranks = [rankdata([say(each) for each in own]) for say in (lambda each: -signal(each), _fidelity)]
        if np.ptp(ranks, axis=1).all():
            found.append(np.corrcoef(ranks)[0, 1])
    return float(np.mean(found)) if found else float("nan")


def _fidelity(each: Measured) -> float:
    return each.word.fidelity


def lost_by_choice(words: Sequence[Measured], signal: Callable[[Measured], float]) -> float:
    """How far the fidelity at the smallest signal is from the best of a run, while the prompt is heard."""
    runs: dict[tuple[str, str], list[Measured]] = {}
    for each in words:
        if each.word.as_in_a_run >= DROWNS:
            runs.setdefault((each.word.concept, each.word.rate), []).append(each)
    lost = [
        max(each.word.fidelity for each in run) - min(run, key=signal).word.fidelity for run in runs.values()
    ]
    return float(np.mean(lost)) if lost else float("nan")


def table(words: Sequence[Measured], losses: Losses) -> str:
    """What was found, as lines of text."""
    heard = [each for each in words if each.word.as_in_a_run >= DROWNS]
    lines = [
        f"{len(words)} words, {len(heard)} of which leave the rest of a prompt heard.",
        f"  {'':56}  rank correlation       lost by",
        f"  {'':56}    all   if heard       choice",
    ]
    for name, signal in signals(losses).items():
        all_of_them, those = rank_correlation(words, signal), rank_correlation(heard, signal)
        lines.append(f"  {name:56}{all_of_them:7.2f}{those:11.2f}{lost_by_choice(words, signal):13.3f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    options, training = prompt_sensitivity.parse_arguments(argv, measures="likeness")
    studio = prompt_sensitivity.studio_of(options, training)
    losses = Losses(studio)
    words = [
        Measured(word, losses(BY_NAME[word.concept], word.file), training_loss(word.file.parent, word.step))
        for word in prompt_sensitivity.words(options, training, studio)
    ]
    print(table(words, losses))


if __name__ == "__main__":
    sys.exit(exit_code(main))
