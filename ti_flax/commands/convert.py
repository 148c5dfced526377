"""Convert an embedding file into the form of another program, mix two, or show what is in one.

    %(prog)s learned_embeds.safetensors my-cat.pt
    %(prog)s my-cat.png learned_embeds.bin --token "<my-cat>"
    %(prog)s embeddings_gs-6099.pt my-cat.safetensors --to kohya
    %(prog)s my-sdxl-cat.safetensors learned_embeds.safetensors --to diffusers
    %(prog)s --mix my-cat.pt my-dog.safetensors 0.5 cat-dog.safetensors --token "<cat-dog>"
    %(prog)s --inspect my-cat.pt --pretrained_model_name_or_path MODEL

What IN is, its content says: files of diffusers, of AUTOMATIC1111's Web UI (.pt, .safetensors, and images
that carry an embedding), of kohya's scripts, InvokeAI, OneTrainer, the original repository and diffusers'
first Flax script. For SDXL diffusers has two files, learned_embeds and learned_embeds_2: either of them, or
their folder, stands for both, and OUT is the first of them. No PyTorch is needed, and nothing in a file is
executed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ti_flax.console.arguments import ArgumentParser
from ti_flax.console.program import exit_code
from ti_flax.errors import ConfigError, printable

if TYPE_CHECKING:
    from ti_flax.export.convert import ConvertRequest

_CONVERTING = ("input", "output", "to", "token", "name", "dtype", "picture", "mix", "overwrite")
_INSPECTING = ("pretrained_model_name_or_path", "revision", "variant", "tokenizer_name")
_FORMS = ("diffusers", "automatic1111", "kohya", "invoke", "onetrainer", "rinongal")


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s IN OUT [--to FORM] [--name value ...]\n"
        "       %(prog)s --mix A B WEIGHT OUT [--to FORM] [--name value ...]\n       %(prog)s --inspect FILE",
    )
    add = parser.add_argument
    add(
        "input",
        metavar="IN",
        type=Path,
        nargs="?",
        help="embedding file of any kind, or a folder of learned_embeds",
    )
    add("output", metavar="OUT", type=Path, nargs="?", help="file to write")
    add(
        "--to",
        metavar="FORM",
        choices=_FORMS,
        help="diffusers (.safetensors, .bin), automatic1111 (.pt, .safetensors, .png), kohya (.safetensors, "
        ".pt), invoke (.safetensors), onetrainer (.safetensors) or rinongal (.pt), the original repository; "
        "if left out, .safetensors and .bin are diffusers', .pt and .png the Web UI's, and for SDXL "
        ".safetensors and .pt kohya's",
    )
    add(
        "--token",
        metavar="WORD",
        help="placeholder token to write, or the one to take where IN holds several; if left out, IN's own, "
        "or else the name of its file",
    )
    add("--name", help="name in the Web UI's and kohya's files; the token if left out")
    add("--dtype", choices=("float32", "float16"), help="of the numbers; float32 if left out")
    add("--picture", metavar="FILE", type=Path, help="image to hide the embedding in; if left out, a card")
    add(
        "--mix",
        nargs=3,
        metavar=("A", "B", "WEIGHT"),
        help="write the word between two embeddings for the same base, from 0 (A) to 1 (B): each vector's "
        "direction on the great circle between theirs, its norm between their norms; --token names it, or "
        "else OUT does",
    )
    add("--overwrite", action="store_true", help="replace OUT if it is there already")
    add("--inspect", metavar="FILE", type=Path, help="show what is in an embedding file, and write nothing")
    add(
        "--pretrained_model_name_or_path",
        metavar="MODEL",
        help="with --inspect: model folder, file or Hub id whose vocabulary to compare with",
    )
    add("--revision", help="with --inspect: branch, tag or commit of the Hub repository")
    add("--variant", help="with --inspect: variant of the weight files, such as fp16")
    add("--tokenizer_name", metavar="ID_OR_FOLDER", help="with --inspect: tokenizer in place of the model's")
    return parser


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    return make_parser(prog).parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Converts or shows."""
    if options.inspect is not None:
        _refuse(options, _CONVERTING, "without --inspect")
        print(printable(_inspect(options)))
        return
    _refuse(options, _INSPECTING, "with --inspect")
    if options.mix is not None:
        print(printable(_mix(options)))
        return
    if options.input is None or options.output is None:
        raise ConfigError(
            "convert",
            expected="IN and OUT, or --inspect FILE",
            found="IN alone" if options.input is not None else "neither",
            remedy="See --help.",
        )
    from ti_flax.export.convert import convert_embedding

    print(printable(convert_embedding(options.input, options.output, _request(options))))


def _request(options: argparse.Namespace) -> "ConvertRequest":
    from ti_flax.export.convert import ConvertRequest

    return ConvertRequest(
        form=options.to,
        token=options.token,
        name=options.name,
        dtype=options.dtype or "float32",
        image=options.picture,
        overwrite=options.overwrite,
    )


def _mix(options: argparse.Namespace) -> str:
    from ti_flax.export.convert import mix_embeddings

    one, other, text = options.mix
    if options.input is None or options.output is not None:
        found = "two files" if options.output is not None else "none"
        raise ConfigError("--mix", expected="A, B, WEIGHT and one file to write", found=found)
    try:
        weight = float(text)
    except ValueError:
        raise ConfigError("--mix", expected="a weight from 0 (A) to 1 (B)", found=repr(text)) from None
    return mix_embeddings((Path(one), Path(other)), weight, options.input, _request(options))


def _refuse(options: argparse.Namespace, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if getattr(options, name) not in (None, False):
            shown = {"input": "IN", "output": "OUT"}.get(name, f"--{name}")
            raise ConfigError(shown, expected=f"to be given {where}")


def _inspect(options: argparse.Namespace) -> str:
    from ti_flax.embedding.inspect import describe_embeddings, load_model
    from ti_flax.embedding.read import read_embeddings

    found = read_embeddings(options.inspect)
    model = options.pretrained_model_name_or_path
    if model is None:
        _refuse(options, _INSPECTING[1:], "with --pretrained_model_name_or_path")
        return describe_embeddings(options.inspect, found)
    from ti_flax.config.options import ModelOptions
    from ti_flax.models.base_model import MODEL_PARTS, base_tokenizer, find_base_model

    named = ModelOptions(
        pretrained_model_name_or_path=model, revision=options.revision, variant=options.variant
    )
    # All parts' configs say what kind of model it is; of weights only the text encoders' are fetched.
    parts = find_base_model(named, components=MODEL_PARTS, weights=False).components
    encoders = [part for part in parts if part.startswith("text_encoder")]
    base = find_base_model(named, components=("tokenizer", *encoders))
    tokenizer = base_tokenizer(base, options.tokenizer_name)
    return describe_embeddings(options.inspect, found, load_model(base, tokenizer, model, encoders=encoders))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
