"""Crop, split, mirror and caption images for training: the command `ti-flax prepare`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.commands.prepare import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
