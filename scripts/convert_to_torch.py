"""Write a PyTorch pipeline folder: the command `ti-flax convert-pipeline`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.commands.convert_pipeline import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
