"""Generate images from a base model and learned embeddings, with this project's own modules.

Embeddings may have any form that `ti-flax convert` reads. All devices of this machine share the work.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ti_flax.config.options import ModelOptions
from ti_flax.console.arguments import ArgumentParser
from ti_flax.console.program import exit_code
from ti_flax.errors import printable

_MODEL_OPTIONS = frozenset(field.name for field in dataclasses.fields(ModelOptions))


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=prog,
        description="Generate images from a base model and learned embeddings.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --pretrained_model_name_or_path MODEL --prompt TEXT [--name value ...]",
        epilog="A line of a prompt file: a cat --n dogs --w 512 --h 768 --d 1 --s 20 --l 7.5 --ss ddim, for "
        "negative\nprompt, width, height, seed, steps, guidance scale and sampler, each of which may be "
        "left out.\nEmpty lines and lines that begin with # are passed over.",
    )
    _add_model_options(parser.add_argument_group("model").add_argument)
    add = parser.add_argument_group("embeddings").add_argument
    add(
        "--learned_embeds",
        metavar="FILE",
        action="append",
        default=[],
        help="embedding of any form, or TOKEN=FILE to give it another word; repeatable",
    )
    add(
        "--placeholder_token",
        metavar="WORD",
        help="word of the only --learned_embeds; if left out the file's own, or else its name",
    )
    add(
        "--compare",
        action="store_true",
        help="draw each prompt without the embeddings too, from the same seeds, in rows with labels",
    )
    _add_prompt_options(parser.add_argument_group("prompts").add_argument)
    _add_drawing_options(parser.add_argument_group("drawing").add_argument)
    add = parser.add_argument_group("output").add_argument
    add(
        "--output",
        metavar="FILE",
        type=Path,
        help="PNG grid to write; if left out pictures.png, or grid.png in --output_dir, with a number where "
        "that is taken",
    )
    add("--output_dir", metavar="FOLDER", type=Path, help="write each image there too, numbered on")
    add("--overwrite", action="store_true", help="replace the grid if it is there already")
    return parser


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    return make_parser(prog).parse_args(argv)


def _tokens(text: str) -> int | None:
    """Raises an ArgumentTypeError for what is no whole number."""
    if text != "any" and not (text.isascii() and text.removeprefix("-").isdigit()):
        raise argparse.ArgumentTypeError(f"expected a multiple of 75, or any, found {text!r}")
    return None if text == "any" else int(text)


def _add_model_options(add) -> None:
    add(
        "--pretrained_model_name_or_path", metavar="MODEL", required=True, help="model folder, file or Hub id"
    )
    add("--revision", help="branch, tag or commit of the Hub repository")
    add("--variant", help="variant of the weight files, such as fp16")
    add("--tokenizer_name", metavar="ID_OR_FOLDER", help="tokenizer in place of the model's")
    add("--config_name", metavar="ID_OR_FOLDER", help="model folder that describes a single file")
    add("--pretrained_vae_model_name_or_path", metavar="VAE", help="VAE in place of the model's")
    add("--clip_skip", metavar="N", type=int, default=0, help="layers of the text encoder left out (0)")
    add("--prediction_type", choices=("epsilon", "v_prediction"), help="what the UNet predicts")
    add(
        "--rescale_betas_zero_snr",
        action=argparse.BooleanOptionalAction,
        help="for models trained with a last timestep of pure noise",
    )
    add("--mixed_precision", choices=("no", "bf16"), default="no", help="no, the default, is float32")


def _add_prompt_options(add) -> None:
    add("--prompt", metavar="TEXT", action="append", default=[], help="what to draw; repeatable, a row each")
    add(
        "--prompt_file",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="text file with a prompt a line, and options behind it (see below); repeatable",
    )
    add("--negative_prompt", metavar="TEXT", default="", help="what to move away from")
    add(
        "--max_token_length",
        metavar="N",
        type=_tokens,
        default=75,
        help="tokens of a prompt, a multiple of 75, or any, as in the Web UI; what is longer is cut off (75)",
    )
    add(
        "--prompt_weights",
        action="store_true",
        help="read (word:1.2), (word), [word] and BREAK as the Web UI does",
    )


def _add_drawing_options(add) -> None:
    add("--num_images", metavar="N", type=int, default=4, help="images for each prompt (4)")
    add("--num_inference_steps", metavar="N", type=int, default=25, help="denoising steps (25)")
    add("--guidance_scale", metavar="X", type=float, default=7.5, help="1 is no guidance (7.5)")
    add(
        "--sampler",
        choices=("ddim", "dpmsolver++", "euler"),
        default="dpmsolver++",
        help="dpmsolver++, the default, is the 2M solver",
    )
    add("--seed", metavar="N", type=int, default=0, help="of the first image; the next ones count up (0)")
    add("--resolution", metavar="N", type=int, help="side in pixels; the model's own if left out")
    add(
        "--batch_size",
        metavar="N",
        type=int,
        help="images drawn at once on each device; if left out, those of a prompt, shared out",
    )


def run(options: argparse.Namespace) -> None:
    """Draws and writes what was asked for."""
    from ti_flax.generation.generate import GenerateRequest, generate_files
    from ti_flax.training.compiled_programs import check_chosen_folder, mended_programs

    values = vars(options)
    model = ModelOptions(**{name: value for name, value in values.items() if name in _MODEL_OPTIONS})
    request = {name: value for name, value in values.items() if name not in _MODEL_OPTIONS}
    prompts, files = request.pop("prompt"), request.pop("prompt_file")
    check_chosen_folder()
    with mended_programs():
        print(printable(generate_files(GenerateRequest(model, prompts, files, **request))))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
