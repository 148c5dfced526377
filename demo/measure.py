"""Measure the demo's base model: does it draw what a caption says?

    python demo/measure.py --model assets/demo-model
    python demo/measure.py --model assets/demo-model --pytorch

The captions are of known words in combinations that training never showed together. The last lines say what
the autoencoder alone loses: renderings, encoded and decoded, as the judge reads them.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import numpy as np  # noqa: E402
from concepts import CONCEPTS, prompts  # noqa: E402
from help_format import HelpFormatter  # noqa: E402
from judge import Verdict, judge  # noqa: E402
from world import random_scene, render_batch  # noqa: E402

from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402

ATTRIBUTES = ("background", "shape", "colour", "texture")
_AT_ONCE = 32
# With 7.5 this model gets shapes 0.94, colours 0.99 and textures 0.91 right; with this 0.91, 1.00 and 0.95.
GUIDANCE_SCALE = 5.0


class Studio:
    """Draws prompts with a model folder, with or without a learned embedding; compiles once.

    All devices share the images out; the cores of a CPU are devices where nobody has asked for others.

    Args:
      folder: of the model.
      steps: of the sampler.
      guidance_scale: 1 is no guidance.
    """

    def __init__(self, folder: Path, *, steps: int = 25, guidance_scale: float = GUIDANCE_SCALE):
        import jax

        from ti_flax.generation.generator import ImageGenerator, on_all
        from ti_flax.hosts.devices import show_cores
        from ti_flax.models.stable_diffusion import load_stable_diffusion

        show_cores()
        self._folder = folder
        self.model = load_stable_diffusion(folder)
        self.widths = self.model.widths
        self.side = self.model.configs["unet"]["sample_size"] * self.model.vae.config.downsampling
        first_added_id = len(self.tokenizer())
        devices = jax.local_devices()
        self._painter = ImageGenerator(
            self.model, first_added_id=first_added_id, steps=steps, devices=devices
        )
        self._params = on_all(self.model.params, devices)
        self._guidance_scale = guidance_scale

    def tokenizer(self) -> Any:
        """The model's tokenizer, anew: words that are added to it are in no other."""
        from ti_flax.models.tokenizer import load_tokenizer

        return load_tokenizer(self._folder)

    def draw(self, texts: Sequence[str], *, seed: int = 0, embeds: Path | None = None) -> np.ndarray:
        """Draws one image a prompt, `[prompts, side, side, 3]` uint8, with seeds that count up."""
        from ti_flax.embedding.learned_embeds import add_learned_embeds
        from ti_flax.models.tokenizer import encode_prompts, expand_known

        tokenizer = self.tokenizer()
        rows = {name: np.zeros((1, width), np.float32) for name, width in self.widths.items()}
        if embeds is not None:
            rows = add_learned_embeds(tokenizer, embeds, widths=self.widths)
            texts = [expand_known(tokenizer, text) for text in texts]
        whole = [*texts, *[""] * (-len(texts) % _AT_ONCE)]
        token_ids = encode_prompts(tokenizer, whole)
        empty = encode_prompts(tokenizer, [""] * _AT_ONCE)
        drawn = [
            self._painter.generate(
                self._params,
                rows,
                prompt_ids=token_ids[start : start + _AT_ONCE],
                negative_ids=empty,
                seeds=range(seed + start, seed + start + _AT_ONCE),
                size=(self.side, self.side),
                guidance_scale=self._guidance_scale,
            )
            for start in range(0, len(whole), _AT_ONCE)
        ]
        return np.concatenate(drawn)[: len(texts)]

    def round_trip(self, images: np.ndarray) -> np.ndarray:
        """Encodes and decodes images with the model's autoencoder alone."""
        import jax
        import jax.numpy as jnp

        vae, channels = self.model.vae, self.model.vae.config.latent_channels

        @jax.jit
        def through(params, batch):
            moments = jnp.asarray(vae.apply({"params": params}, batch / 127.5 - 1.0, method=vae.encode))
            decoded = vae.apply({"params": params}, moments[..., :channels], method=vae.decode)
            return jnp.clip((jnp.asarray(decoded) + 1.0) * 127.5, 0, 255)

        params = jax.device_put(self.model.params["vae"])
        parts = [
            through(params, images[start : start + 50].astype(np.float32))
            for start in range(0, len(images), 50)
        ]
        return np.round(np.concatenate(parts)).astype(np.uint8)


class TorchStudio:
    """Draws with the same folder in PyTorch's StableDiffusionPipeline, with noise of its own.

    Args:
      folder: of the model.
      steps: of the sampler.
      guidance_scale: 1 is no guidance.
    """

    def __init__(self, folder: Path, *, steps: int = 25, guidance_scale: float = GUIDANCE_SCALE):
        # By name, because its types say nothing of what it makes.
        diffusers = importlib.import_module("diffusers")
        self._pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
        self.widths = {"text_encoder": self._pipeline.text_encoder.config.hidden_size}
        solver = diffusers.DPMSolverMultistepScheduler
        self._pipeline.scheduler = solver.from_config(self._pipeline.scheduler.config)
        self._pipeline.set_progress_bar_config(disable=True)
        self._asked = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "output_type": "np"}

    def draw(self, texts: Sequence[str], *, seed: int = 0, embeds: Path | None = None) -> np.ndarray:
        """Draws one image a prompt, `[prompts, side, side, 3]` uint8, with seeds that count up."""
        import torch

        if embeds is not None:
            self._pipeline.load_textual_inversion(str(embeds))
        drawn = []
        for start in range(0, len(texts), _AT_ONCE):
            some = list(texts[start : start + _AT_ONCE])
            seeds = range(seed + start, seed + start + len(some))
            generators = [torch.Generator().manual_seed(number) for number in seeds]
            drawn.append(self._pipeline(some, generator=generators, **self._asked).images)
        if embeds is not None:
            self._pipeline.unload_textual_inversion()
        return np.round(np.concatenate(drawn) * 255).astype(np.uint8)

    def round_trip(self, images: np.ndarray) -> np.ndarray:
        """Encodes and decodes images with the model's autoencoder alone."""
        import torch

        vae, decoded = self._pipeline.vae, []
        for start in range(0, len(images), 50):
            batch = torch.tensor(images[start : start + 50].astype(np.float32) / 127.5 - 1.0)
            with torch.no_grad():
                mean = vae.encode(batch.permute(0, 3, 1, 2)).latent_dist.mode()
                decoded.append(vae.decode(mean).sample.permute(0, 2, 3, 1).numpy())
        return np.round(np.clip((np.concatenate(decoded) + 1.0) * 127.5, 0, 255)).astype(np.uint8)


def share_right(verdicts: Sequence[Verdict], wanted: Sequence[dict[str, str]]) -> dict[str, float]:
    """How many verdicts say what was wanted, for each attribute, from 0 to 1."""
    return {
        name: float(
            np.mean([getattr(verdict, name) == want[name] for verdict, want in zip(verdicts, wanted)])
        )
        for name in ATTRIBUTES
    }


def caption_accuracy(studio: Studio | TorchStudio, count: int, *, seed: int = 0) -> dict[str, float]:
    """Share of samples right for each attribute, on captions that are held out but made of known words."""
    asked = [concept for concept in CONCEPTS if concept.has_words]
    texts, wanted = [], []
    for concept in asked:
        for background, text in prompts(concept.literal, concept.settings, -(-count // len(asked))):
            texts.append(text)
            parts = {"shape": concept.shape, "colour": concept.colour, "texture": concept.texture}
            wanted.append({"background": background, **parts})
    return share_right([judge(image) for image in studio.draw(texts, seed=seed)], wanted)


def round_trip_accuracy(studio: Studio | TorchStudio, count: int, *, seed: int = 0) -> dict[str, float]:
    """The judge's accuracy on renderings that went through the autoencoder."""
    rng = np.random.default_rng([seed, 2])
    scenes = [random_scene(rng) for _ in range(count)]
    verdicts = [judge(image) for image in studio.round_trip(render_batch(scenes))]
    return share_right(verdicts, [{name: getattr(scene, name) for name in ATTRIBUTES} for scene in scenes])


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(description="Measure the demo's base model.", formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "assets" / "demo-model", help="model folder")
    add("--samples", type=int, default=400, help="images that the judge looks at for each figure")
    add("--steps", type=int, default=25, help="denoising steps")
    add("--guidance_scale", type=float, default=GUIDANCE_SCALE, help="guidance of the samples; 1 is none")
    add("--seed", type=int, default=0, help="seed of the first image; the next ones count up")
    add("--pytorch", action="store_true", help="draw with diffusers' StableDiffusionPipeline")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    options = parse_arguments(argv)
    kind = TorchStudio if options.pytorch else Studio
    studio = kind(options.model, steps=options.steps, guidance_scale=options.guidance_scale)
    for title, measure in [("captions", caption_accuracy), ("round trip", round_trip_accuracy)]:
        shares = measure(studio, options.samples, seed=options.seed)
        print(f"{title:11}", "  ".join(f"{name} {share:.3f}" for name, share in shares.items()), flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
