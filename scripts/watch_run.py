"""Show a run in the browser while it goes on: the command `ti-flax watch`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.commands.watch import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
