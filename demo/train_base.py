"""Train the demo's base model with this project's own modules: the autoencoder, then text encoder and UNet.

    python demo/train_base.py --output assets/demo-model --work build/base
    python demo/train_base.py --size tiny --output build/tiny --work build/tiny-work --scenes 100 \\
      --autoencoder_steps 20 --denoiser_steps 20 --samples 20
    python demo/train_base.py --start assets/demo-model --output build/better --work build/better-work

The second command shows in a minute that all runs; the third goes on from a finished model. The same
command continues where it stopped. The same seed gives the same model on the same kind of device.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

from help_format import HelpFormatter  # noqa: E402

from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import ConfigError  # noqa: E402


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(description="Train the demo's base model.", formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "assets" / "demo-model", help="model folder to write")
    add(
        "--work",
        type=Path,
        default=ROOT / "build" / "base",
        help="folder that keeps the state of the training, to continue from",
    )
    add(
        "--start",
        type=Path,
        metavar="MODEL",
        help="folder of a finished model to go on from, with other captions or scenes; its autoencoder stays",
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
    add("--peak_rate", type=float, default=6e-4, help="their highest learning rate")
    add("--scenes", type=int, default=60000, help="images to render")
    add(
        "--described",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of each batch taken from scenes whose shape has no noun, beside those that fall to it",
    )
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
    from base_model import TOKENS, continued_model, untrained_model
    from captions import vocabulary
    from clip_tokenizer import write_tokenizer
    from denoiser import train_denoiser
    from measure import Studio, caption_accuracy, round_trip_accuracy
    from pool import encode_scenes, render_scenes, write_captions
    from world import HELD_OUT_SHAPES

    from ti_flax.hosts.devices import show_cores
    from ti_flax.models.stable_diffusion import save_stable_diffusion
    from ti_flax.models.tokenizer import load_tokenizer

    _check(options)
    show_cores()
    seconds = {}
    options.work.mkdir(parents=True, exist_ok=True)
    words = write_tokenizer(options.output / "tokenizer", words=" ".join(vocabulary()), length=TOKENS)
    tokenizer = load_tokenizer(options.output)
    model = untrained_model(words, seed=options.seed, size=options.size)
    if options.start is not None:
        model = continued_model(model, words, options.start)
    scenes, images = render_scenes(options.scenes, seed=options.seed)
    if options.start is None:
        model.params["vae"], seconds["autoencoder"] = train_autoencoder(model, images, options)
        latents = encode_scenes(model, images, options.work / "latents.npy")
        model = scaled(model, latents)
    else:
        latents = encode_scenes(model, images, options.work / "latents.npy")
    token_ids = write_captions(scenes, tokenizer, options.captions, seed=options.seed)
    described = np.flatnonzero([scene.shape in HELD_OUT_SHAPES for scene in scenes])
    trained, seconds["denoiser"] = train_denoiser(model, latents, token_ids, described, tokenizer, options)
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


def _check(options: argparse.Namespace) -> None:
    """Refuses what nothing can be trained with."""
    if not 0 <= options.described <= 1:
        raise ConfigError("--described", expected="a share from 0 to 1", found=f"{options.described:g}")
    if options.start is not None and options.start.resolve() == options.output.resolve():
        raise ConfigError("--output", expected="another folder than --start", found=str(options.output))
    if options.start is not None and not options.start.is_dir():
        found = "a file" if options.start.exists() else "no such folder"
        raise ConfigError(f"--start {options.start}", expected="the folder of a finished model", found=found)


if __name__ == "__main__":
    sys.exit(exit_code(main))
