"""The folder in which results are kept for the next run."""

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """Return where results are kept: `$TI_FLAX_CACHE`, else `ti_flax` in the user's cache folder."""
    if os.environ.get("TI_FLAX_CACHE"):
        return Path(os.environ["TI_FLAX_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ti_flax"
