"""What a run computes with."""

import platform
from importlib import metadata

# Of this package; pyproject.toml reads it here.
__version__ = "0.1.0"

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that the numbers depend on."""
    found = {"ti_flax": __version__, "Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
