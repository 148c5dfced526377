"""Learn the concept that comes with the package: model, images and configuration, nothing is downloaded."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ti_flax.commands import train

CONFIG = "configs/demo.yaml"


def bundled(name: str) -> Path:
    """Returns a file or folder of `configs/` or `assets/`, in a checkout or as package data."""
    package = Path(__file__).resolve().parent.parent
    installed = package / name
    return installed if installed.exists() else package.parent / name


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Trains with the demo's configuration; arguments are those of `train` and win over it."""
    rest = sys.argv[1:] if argv is None else list(argv)
    return train.main(["--config", str(bundled(CONFIG)), *rest], prog)
