"""Measure where a concept can be learned: in the row that enters the text encoder, or in what leaves it.

    python benchmarks/learning_places.py                              a concept without a word, at every place
    python benchmarks/learning_places.py --concepts posy daisy --places row output --steps 200 400

On the demo's model, with its judge (see learning_quality.py for fidelity and editability). The places:

    row       the row of the token table, which is what a training learns
    layers    a row of its own for each of the denoiser's layers that read the prompt (arXiv:2303.09522)
    word      a vector that is added to the text encoder's output at the word
    replaced  a vector in the place of that output, as OneTrainer's output embeddings are
    rest      one that is added at the end of the text and at the padding behind it
    end       one that is added at the end of the text alone
    output    all that the text encoder tells of "a photo of a <concept>", in its place: a bound of all
              methods that leave the denoiser as it is; it says nothing but the concept

Several with a plus sign between them learn together: `row+word`.
"""

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from concepts import BY_NAME, Concept, entry, prompts, write_images  # noqa: E402
from help_format import HelpFormatter  # noqa: E402
from judge import judge  # noqa: E402
from learning_quality import check_names  # noqa: E402
from measure import GUIDANCE_SCALE  # noqa: E402

from ti_flax.config import parse_config  # noqa: E402
from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.data.dataset import padded  # noqa: E402
from ti_flax.embedding.conditioning import encode_with_rows  # noqa: E402
from ti_flax.errors import ConfigError  # noqa: E402
from ti_flax.generation.generator import starting_noise  # noqa: E402
from ti_flax.generation.samplers import sample_images, sampling_steps  # noqa: E402
from ti_flax.models.prompt_encoding import PromptEncoding  # noqa: E402
from ti_flax.models.tokenizer import encode_prompts  # noqa: E402
from ti_flax.run.inputs import TrainingInputs, load_inputs  # noqa: E402
from ti_flax.run.step_config import make_step_config  # noqa: E402
from ti_flax.training.batches import choose, draw, example_of  # noqa: E402
from ti_flax.training.state import StepConfig  # noqa: E402
from ti_flax.training.step import error_when_told  # noqa: E402

PLACES = ("row", "layers", "word", "replaced", "rest", "end", "output")
_AT_ONCE = 32
# Updates of one call of the compiled program.
_CHUNK = 100


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(
        description="Measure where a concept can be learned: before the text encoder or behind it.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, default=ROOT / "configs" / "demo.yaml", help="settings of the training")
    add("--concepts", nargs="+", default=["posy"], metavar="NAME", help="to learn")
    add("--places", nargs="+", default=list(PLACES), metavar="PLACE", help="where to learn them")
    add("--steps", type=int, nargs="+", default=[200, 400], metavar="N", help="measure after so many steps")
    add("--samples", type=int, default=32, help="images that the judge looks at for each figure")
    add("--seed", type=int, default=0, help="seed of the training")
    add("--row_rate", type=float, default=2e-3, help="learning rate of the row")
    add("--behind_rate", type=float, default=1e-2, help="learning rate behind the text encoder")
    add("--constant", action="store_true", help="keep the learning rates; by default they fall by a cosine")
    add("--guidance_scale", type=float, default=GUIDANCE_SCALE, help="guidance of the samples; 1 is none")
    add("--num_inference_steps", type=int, default=25, help="denoising steps of a sample")
    add("--output", type=Path, help="file that each result is added to, as a line of JSON")
    options = parser.parse_args(argv)
    check_names(options.concepts)
    for place in options.places:
        if not set(place.split("+")) <= set(PLACES):
            raise ConfigError("--places", expected=f"some of {', '.join(PLACES)}", found=place)
    return options


class Teaching:
    """A concept that is taught at places of the text encoder.

    What is learned is a tree of float32 by place: `row`, `word` and `replaced` are `[1, width]`, `layers`
    `[layers, 1, width]`, `rest` and `end` `[width]`, `output` `[tokens, width]`.

    Args:
      concept: of the demo's world.
      options: of the command line.
      folder: for its images.
    """

    def __init__(self, concept: Concept, options: argparse.Namespace, folder: Path):
        self.concept, self._options = concept, options
        write_images(concept, folder / concept.name)
        given = entry(concept, folder / concept.name)
        flags = [f"--{name}={given[name]}" for name in ("placeholder_token", "initializer_token")]
        flags += [f"--train_data_dir={given['train_data_dir']}", f"--output_dir={folder}", "--num_vectors=1"]
        self._config = parse_config(["--config", str(options.config), *flags])
        self.inputs = inputs = load_inputs(self._config)
        self.step_config = step_config_of(self._config, inputs)
        self._params = jax.tree.map(jnp.asarray, dict(inputs.model.params))
        self._layers = layers_that_read(inputs.model.params["unet"])
        self._examples = padded(inputs.examples)

    def compiled(self, programs: dict[str, Any]) -> None:
        """Takes the programs of another concept, which are the same, or leaves its own for others."""
        self._update = programs.setdefault("update", jax.jit(self._updates, static_argnames="layered"))
        self._draw = programs.setdefault("draw", jax.jit(self._images, static_argnames="layered"))

    def start(self) -> dict[str, jax.Array]:
        """What is at every place before the first update: the initializer's word, and nothing added."""
        row = jnp.asarray(self.inputs.added.start["text_encoder"])
        ids = self._ids([f"a photo of a {self.concept.placeholder}"])
        nothing = jnp.zeros(row.shape[1])
        told = self._encode(self._params, row, ids)[0]
        at = int(jnp.argmax(ids[0] == self.step_config.first_added_id))
        return {
            "row": row,
            "layers": jnp.repeat(row[None], self._layers, axis=0),
            "word": jnp.zeros_like(row),
            "replaced": told[at][None],
            "rest": nothing,
            "end": nothing,
            "output": told,
        }

    def told(
        self, params: Any, learned: Any, used: Mapping[str, jax.Array], ids: jax.Array, *, layered: bool
    ) -> jax.Array:
        """What the denoiser is told of prompts, `[batch, tokens, width]`.

        With `layered`, the tokens that one layer reads follow those of another.

        Args:
          params: of the model.
          learned: of every place.
          used: `[]` 1 or 0 for `replaced` and `output`, which take the place of something.
          ids: `[batch, tokens]` int32.
          layered: whether each layer is told by a row of its own, in the order in which they read.
        """
        rows = learned["layers"] if layered else learned["row"][None]
        told = jax.vmap(lambda row: self._told_by(params, row, learned, used, ids))(rows)
        return jnp.concatenate(list(told), axis=1)

    def _told_by(self, params, row, learned, used, ids):
        """The same by one row."""
        word = ids >= self.step_config.first_added_id
        behind = ids == self.step_config.special.end_of_text
        end = behind & (jnp.cumsum(behind, axis=1) == 1)
        named = jnp.any(word, axis=1, keepdims=True)
        hidden = self._encode(params, row, ids)
        placed = jnp.where(used["replaced"] > 0, learned["replaced"][0], hidden + learned["word"][0])
        hidden = jnp.where(word[..., None], placed, hidden)
        for place, where in (("rest", behind), ("end", end)):
            hidden = hidden + jnp.where((where & named)[..., None], learned[place], 0.0)
        return jnp.where((used["output"] > 0) & named[..., None], learned["output"], hidden)

    def learn(self, place: str) -> list[dict[str, Any]]:
        """Learns at a place and measures after each of the steps."""
        parts, began, options = place.split("+"), time.perf_counter(), self._options
        layered = "layers" in parts
        rates = {
            name: (options.row_rate if name in ("row", "layers") else options.behind_rate) * (name in parts)
            for name in PLACES
        }
        used = {name: jnp.float32(name in parts) for name in ("replaced", "output")}
        state = (learned := self.start()), _ADAM.init(learned), jnp.int32(0)
        results, total = [], max(options.steps)
        while (done := int(state[2])) < total:
            until = min(step for step in (*options.steps, done + _CHUNK) if step > done)
            progress = np.arange(done, done + _CHUNK) / total
            factors = np.ones(_CHUNK) if options.constant else 0.5 * (1 + np.cos(np.pi * progress))
            arguments = used, rates, factors.astype(np.float32), until - done
            state, loss = self._update(self._params, self._examples, state, *arguments, layered=layered)
            if until in options.steps:
                figures = self.measure(state[0], used, layered=layered)
                seconds = round(time.perf_counter() - began)
                found = {"concept": self.concept.name, "place": place, "step": until, **figures}
                results.append({**found, "loss": round(float(loss), 4), "seconds": seconds})
                say(results[-1], options)
        return results

    def measure(
        self, learned: Mapping[str, jax.Array], used: Mapping[str, jax.Array], *, layered: bool
    ) -> dict[str, float]:
        """Fidelity and editability, and the share of images whose shape is right."""
        count, concept = self._options.samples, self.concept
        plain = prompts(concept.placeholder, {"": ""}, count)
        asked = prompts(concept.placeholder, concept.settings, count)
        texts = [text.strip() for _, text in plain + asked]
        texts += texts[-1:] * (-len(texts) % _AT_ONCE)
        images = []
        for first in range(0, len(texts), _AT_ONCE):
            seeds = range(1000 + first, 1000 + first + _AT_ONCE)
            noise = starting_noise(self.inputs.model, seeds, (self._side, self._side))
            ids = self._ids(texts[first : first + _AT_ONCE])
            asked_for = ids, self._ids([""]), noise
            images.append(self._draw(self._params, learned, used, *asked_for, layered=layered))
        drawn = np.round(np.concatenate(images) * 255).astype(np.uint8)
        seen = [judge(image) for image in drawn[: 2 * count]]
        wanted = (concept.shape, concept.colour, concept.texture)
        right = [(each.shape, each.colour, each.texture) == wanted for each in seen[:count]]
        grounds = [each.background == name for each, (name, _) in zip(seen[count:], asked)]
        shapes = [each.shape == concept.shape for each in seen[:count]]
        measured = {"fidelity": right, "editability": grounds, "shape": shapes}
        return {name: round(float(np.mean(truth)), 2) for name, truth in measured.items()}

    @property
    def _side(self) -> int:
        model = self.inputs.model
        return model.configs["unet"]["sample_size"] * model.vae.config.downsampling

    def _ids(self, texts: Sequence[str]) -> jax.Array:
        expanded = [self.inputs.concept.expand(text) for text in texts]
        return jnp.asarray(encode_prompts(self.inputs.tokenizer, expanded))

    def _encode(self, params: Any, row: jax.Array, ids: jax.Array) -> jax.Array:
        first = self.step_config.first_added_id
        rows = {"text_encoder": row}
        return encode_with_rows(self.inputs.model, params, rows, ids, first_added_id=first).hidden_states

    def _updates(self, params, examples, state, used, rates, factors, count, *, layered):
        """So many updates, with the first of the factors on their rates; the mean loss comes with them."""
        config, key = self.step_config, jax.random.key(self._options.seed)
        positions = jnp.arange(config.global_batch)

        def loss_of(learned, batch):
            told = PromptEncoding(self.told(params, learned, used, batch.token_ids, layered=layered))
            with each_layer_reads_its_part(self._layers if layered else 1):
                return jnp.mean(error_when_told(told, params, batch, config))

        def update(index, carry):
            (learned, adam, step), total = carry
            batch = jax.vmap(partial(sample_of, config, examples, key, step))(positions)
            loss, gradient = jax.value_and_grad(loss_of)(learned, batch)
            moves: Any
            moves, adam = _ADAM.update(gradient, adam, learned)
            moved = {name: learned[name] - rates[name] * factors[index] * moves[name] for name in learned}
            return (moved, adam, step + 1), total + loss

        state, total = jax.lax.fori_loop(0, count, update, (state, jnp.float32(0)))
        return state, total / count

    def _images(self, params, learned, used, ids, negative_ids, noise, *, layered):
        model, schedule = self.inputs.model, self.step_config.schedule
        layers = self._layers if layered else 1
        empty = self._encode(params, learned["row"], negative_ids)
        empty = jnp.tile(empty, (len(noise), layers, 1))
        scheduler, steps = model.configs["scheduler"], self._options.num_inference_steps
        with each_layer_reads_its_part(layers):
            return sample_images(
                model,
                params,
                prompt=PromptEncoding(self.told(params, learned, used, ids, layered=layered)),
                negative_prompt=PromptEncoding(empty),
                noise=noise,
                steps=sampling_steps(schedule, scheduler, steps=steps, sampler="dpmsolver++"),
                sampler="dpmsolver++",
                schedule=schedule,
                guidance_scale=self._options.guidance_scale,
            )


_ADAM = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(1e-2))
# The attention of a denoiser's layer to the prompt.
_TO_PROMPT = "attn2"


def layers_that_read(params: Mapping[str, Any]) -> int:
    """How many layers of a denoiser read the prompt."""
    return sum(
        1 if name == _TO_PROMPT else layers_that_read(part)
        for name, part in params.items()
        if isinstance(part, Mapping)
    )


@contextlib.contextmanager
def each_layer_reads_its_part(parts: int) -> Iterator[None]:
    """Lets every layer of the denoiser read a part of the prompt of its own, in code that is traced here.

    Args:
      parts: that the prompt's tokens consist of, of equal length, in the order in which the layers read.
    """
    turn = itertools.count()

    def read(attend, arguments, keywords, context):
        if context.module.name != _TO_PROMPT or context.method_name != "__call__":
            return attend(*arguments, **keywords)
        hidden_states, prompt = arguments
        return attend(hidden_states, jnp.split(prompt, parts, axis=1)[next(turn) % parts], **keywords)

    with nn.intercept_methods(read):
        yield


def step_config_of(config: Any, inputs: TrainingInputs) -> StepConfig:
    """The fixed parts of a training's step, on one device."""
    first = inputs.concept.token_ids[0]
    found, _ = make_step_config(
        config,
        inputs.model,
        first,
        added=inputs.added,
        special=inputs.tokenizers.special,
        devices=1,
        batches=1,
    )
    return found


def sample_of(config: StepConfig, examples: Any, key: jax.Array, step: jax.Array, position: jax.Array):
    """One sample of an update, as a training draws it, without the batch axis."""
    bucket = examples.buckets[0]
    choice = choose(config.draw_rules, key, bucket, examples.prompts, step=step, position=position)
    shown = {"image": choice.image, "mirrored": choice.mirrored, "prompt": choice.prompt}
    example = example_of(bucket, examples.prompts, **shown)
    return draw(config.draw_rules, example, choice.timestep, choice.keys)


def say(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Prints a result and adds it to the file of results."""
    print("  ".join(f"{name} {value}" for name, value in result.items()), flush=True)
    if options.output is not None:
        with options.output.open("a") as file:
            file.write(
                json.dumps({**result, "behind_rate": options.behind_rate, "seed": options.seed}) + "\n"
            )


def main(argv=None) -> None:
    options = parse_arguments(argv)
    programs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.concepts:
            teaching = Teaching(BY_NAME[name], options, Path(folder))
            teaching.compiled(programs)
            for place in options.places:
                teaching.learn(place)


if __name__ == "__main__":
    sys.exit(exit_code(main))
