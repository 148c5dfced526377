"""Write a configuration file for a folder of images: the command `ti-flax init`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.commands.init import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
