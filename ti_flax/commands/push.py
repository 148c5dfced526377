"""Upload a finished run to the Hugging Face Hub, as `push_to_hub` does at the end of a run.

    hf auth login
    %(prog)s outputs/cat --hub_model_id your-name/cat-toy

A second upload changes only what is new. Small copies of training images, in `concept_images`, are part of
it: delete that folder, and its lines in README.md, to keep them and what shows them to yourself.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ti_flax.config.constraints import check_upload
from ti_flax.config.options import HubOptions, OutputOptions
from ti_flax.config.values import options_of
from ti_flax.console.arguments import ArgumentParser
from ti_flax.console.program import exit_code
from ti_flax.errors import ConfigError, OutputError

_OPTIONS = ("hub_model_id", "hub_token", "hub_private_repo", "hub_strategy", "hub_whole_pipeline")


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output_dir", type=Path, help="folder of a finished run")
    for option in options_of(HubOptions):
        if option.name not in _OPTIONS:
            continue
        if option.kind is bool:
            parser.add_argument(f"--{option.name}", action="store_true", help=option.rule.help)
        else:
            parser.add_argument(
                f"--{option.name}",
                metavar=option.rule.metavar or None,
                choices=option.choices or None,
                default=option.default,
                help=option.rule.help,
            )
    return parser


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parsed, rest = make_parser(prog).parse_known_args(argv)
    if rest:  # what follows the name of an option may be a token
        raise ConfigError(
            f"unknown argument {rest[0].partition('=')[0]}"
            if rest[0].startswith("-")
            else "an argument too many",
            remedy="--help lists all options.",
        )
    return parsed


def run(options: argparse.Namespace) -> None:
    """Checks the folder and the repository, then uploads.

    Raises:
      OutputError: the folder is not a finished run's, or the upload failed.
    """
    from ti_flax.export.upload import files_to_upload, open_repository, refusal, repository_name, upload
    from ti_flax.files.folder_files import LINK_REMEDY

    folder = options.output_dir
    if not (folder / "learned_embeds.safetensors").is_file():
        raise OutputError(
            folder, expected="the folder of a finished run", found="no learned_embeds.safetensors in it"
        )
    given = {name: getattr(options, name) for name in _OPTIONS}
    hub = HubOptions(push_to_hub=True, **given)
    if hub.hub_whole_pipeline and not (folder / "model_index.json").is_file():
        raise OutputError(folder, expected="a whole pipeline", found="no model_index.json in it")
    check_upload(hub, OutputOptions(output_dir=str(folder)))
    try:
        files_to_upload(hub, folder)
    except OSError as error:
        raise OutputError(
            folder, expected="files of its own", found=error.strerror or str(error), remedy=LINK_REMEDY
        ) from None
    made = open_repository(hub, folder)
    if made.failure is not None:
        raise refusal(repository_name(hub, folder), made.failure)
    if upload(dataclasses.replace(hub, hub_model_id=made.repo_id), folder) is not None:
        raise SystemExit(1)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
