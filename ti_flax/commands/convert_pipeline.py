"""Convert a model, with learned embeddings or without, into the folder of a PyTorch pipeline of diffusers.

    %(prog)s outputs/demo pipeline-for-torch
    %(prog)s stable-diffusion-v1-5/stable-diffusion-v1-5 cat-pipeline \\
      --learned_embeds outputs/cat/learned_embeds.safetensors

No PyTorch is needed. The result is safetensors in the dtype of the source.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ti_flax.config.options import ModelOptions
from ti_flax.console.arguments import ArgumentParser
from ti_flax.console.program import exit_code
from ti_flax.errors import OutputError


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="model folder (Flax or PyTorch layout), single file, or Hub id")
    add("output", type=Path, help="folder to write; must be new or empty")
    add(
        "--learned_embeds",
        metavar="FILE",
        action="append",
        default=[],
        help="embedding of any form; repeatable",
    )
    add("--revision", help="branch, tag or commit of the Hub repository")
    add("--variant", help="variant of the weight files, such as fp16")
    add("--tokenizer_name", metavar="ID_OR_FOLDER", help="tokenizer in place of the model's")
    add("--config_name", metavar="ID_OR_FOLDER", help="model folder that describes a single file")
    add("--pretrained_vae_model_name_or_path", metavar="VAE", help="VAE in place of the model's")
    return parser


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    return make_parser(prog).parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Reads the model, adds the embeddings, and writes the PyTorch folder."""
    from ti_flax.export.with_embeds import save_pipeline_with

    output = options.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(output, expected="a new or empty folder", found="something in it")
    named = ModelOptions(
        pretrained_model_name_or_path=options.model,
        revision=options.revision,
        variant=options.variant,
        config_name=options.config_name,
        tokenizer_name=options.tokenizer_name,
        pretrained_vae_model_name_or_path=options.pretrained_vae_model_name_or_path,
    )
    files = [Path(file) for file in options.learned_embeds]
    source = save_pipeline_with(named, files, output, layout="torch")
    pipeline = "StableDiffusionXLPipeline" if source.is_sdxl else "StableDiffusionPipeline"
    print(f'{output}: load it with {pipeline}.from_pretrained("{output}")')


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
