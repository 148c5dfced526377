"""Convert an embedding file into another program's form, or show it: the command `ti-flax convert`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.commands.convert import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
