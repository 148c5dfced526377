"""Generate images from a base model and learned embeddings: the command `ti-flax generate`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ti_flax.commands.generate import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
