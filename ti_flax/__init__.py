"""Textual Inversion for Stable Diffusion in JAX/Flax (arXiv:2208.01618)."""

import sys

__version__ = "0.1.0"

# Every program imports this before anything that an older Python cannot: what stands here it must understand.
if sys.version_info < (3, 11):  # noqa: UP036
    if sys.stderr is not None:
        sys.stderr.write(
            "error: ti_flax needs Python 3.11 or newer, found {}.{}.{}: {}. Install a newer one, for example "
            "with `uv venv --python 3.12` or `conda create -n ti_flax python=3.12`.\n".format(
                *sys.version_info[:3], sys.executable
            )
        )
    raise SystemExit(2)
