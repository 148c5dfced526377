"""Train the demo's base model with this project's own modules: the autoencoder, then text encoder and UNet.

    python demo/train_base.py --output assets/demo-model --work build/base
    python demo/train_base.py --size tiny --output build/tiny --work build/tiny-work --scenes 100 \\
      --autoencoder_steps 20 --denoiser_steps 20 --samples 20

The same command continues where it stopped. The same seed gives the same model on the same
kind of device.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

from help_format import HelpFormatter  # noqa: E402

from ti_flax.console.program import exit_code  # noqa: E402


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train the demo's base model.", formatter_class=HelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "assets" / "demo-model", help="model folder to write")
    add(
        "--work",
        type=Path,
        default=ROOT / "build" / "base",
        help="folder that keeps the state of the training, to continue from",
    )
    add("--seed", type=int, default=0, help="seed of images, captions and training")
    add(
        "--size",
        choices=("demo", "tiny"),
        default="demo",
        help="size of the model; tiny shows in a minute that all runs",
    )
    add("--autoencoder_steps", type=int, default=7000, help="updates of the autoencoder")
    add("--denoiser_steps", type=int, default=26000, help="updates of text encoder and UNet")
    add("--scenes", type=int, default=60000, help="images to render")
    add("--captions", type=int, default=4, help="captions to write for each image")
    add("--autoencoder_batch_size", type=int, default=16, help="images per update of the autoencoder")
    add("--batch_size", type=int, default=32, help="samples per update of text encoder and UNet")
    add(
        "--samples",
        type=int,
        default=400,
        help="images that the judge looks at for each figure of the finished model",
    )
    add("--save_every", type=float, default=120.0, help="seconds between two saves")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    train(parse_arguments(argv))


def train(options: argparse.Namespace) -> None:
    """Runs both stages, or what is left of them, and writes the model folder."""
    import jax
    import numpy as np
    from autoencoder import scaled, train_autoencoder
    from base_card import write_card
    from base_model import TOKENS, untrained_model
    from captions import vocabulary
    from clip_tokenizer import write_tokenizer
    from denoiser import train_denoiser
    from measure import Studio, caption_accuracy, round_trip_accuracy
    from pool import encode_scenes, render_scenes, write_captions

    from ti_flax.models.stable_diffusion import save_stable_diffusion
    from ti_flax.models.tokenizer import load_tokenizer

    seconds = {}
    options.work.mkdir(parents=True, exist_ok=True)
    words = write_tokenizer(options.output / "tokenizer", words=" ".join(vocabulary()), length=TOKENS)
    tokenizer = load_tokenizer(options.output)
    model = untrained_model(words, seed=options.seed, size=options.size)
    scenes, images = render_scenes(options.scenes, seed=options.seed)
    model.params["vae"], seconds["autoencoder"] = train_autoencoder(model, images, options)
    latents = encode_scenes(model, images, options.work / "latents.npy")
    model = scaled(model, latents)
    token_ids = write_captions(scenes, tokenizer, options.captions, seed=options.seed)
    trained, seconds["denoiser"] = train_denoiser(model, latents, token_ids, tokenizer, options)
    model.params.update(trained)
    half = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), model.params)
    model.params.update(half)
    save_stable_diffusion(model, options.output, layout="torch")
    studio = Studio(options.output)
    drawn = caption_accuracy(studio, options.samples)
    encoded = round_trip_accuracy(studio, options.samples)
    write_card(
        options.output,
        model.params,
        options,
        seconds=seconds,
        captions=drawn,
        round_trip=encoded,
        samples=options.samples,
    )
    print((options.output / "README.md").read_text())


if __name__ == "__main__":
    sys.exit(exit_code(main))
