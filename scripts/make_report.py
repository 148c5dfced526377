"""Write the pages of a run anew: the command `ti-flax report`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.commands.report import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
