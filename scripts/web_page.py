"""Serve a page that teaches words in the browser: the command `ti-flax web`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.commands.web import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
