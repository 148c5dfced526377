"""Write a caption beside every image: the command `ti-flax caption`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.commands.caption import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
