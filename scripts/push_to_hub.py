"""Upload a finished run to the Hugging Face Hub: the command `ti-flax push`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.commands.push import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
