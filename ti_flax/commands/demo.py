"""Learn the concept that comes with the package: model, images and configuration, nothing is downloaded."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ti_flax.commands import train
from ti_flax.console.program import exit_code

CONFIG = "configs/demo.yaml"
_HELP = """\
usage: ti-flax demo [--name value ...]

Learn the concept that comes with the package: model, images and configuration are there, nothing is
downloaded, and it takes one to two minutes on two CPU cores. The page of the run is
outputs/demo/report.html.

Options are those of ti-flax train and win over the demo's, for example --seed 1 or --output_dir here;
ti-flax train --help says what there is."""


def bundled(name: str) -> Path:
    """Returns a file or folder of `configs/` or `assets/`, in a checkout or as package data."""
    package = Path(__file__).resolve().parent.parent
    installed = package / name
    return installed if installed.exists() else package.parent / name


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Trains with the demo's configuration; arguments are those of `train` and win over it."""
    rest = sys.argv[1:] if argv is None else list(argv)
    if rest in (["-h"], ["--help"]):
        return exit_code(lambda: print(_HELP))
    return train.main(["--config", str(bundled(CONFIG)), *rest], prog)
