"""Textual Inversion for Stable Diffusion in JAX/Flax (arXiv:2208.01618).

The names below are the public interface; each is imported when it is first used, so that `import ti_flax`
starts neither JAX nor anything else.
"""

import importlib
import sys

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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ti_flax.commands.demo import bundled
    from ti_flax.commands.main import main
    from ti_flax.config import RunConfig, load_config
    from ti_flax.console.versions import __version__
    from ti_flax.embedding.learned_embeds import save_learned_embeds
    from ti_flax.embedding.read import EmbeddingFile, load_embedding
    from ti_flax.errors import TiFlaxError
    from ti_flax.export.convert import convert_embedding
    from ti_flax.generation.generate import generate
    from ti_flax.monitoring.notebook import ShowInNotebook
    from ti_flax.monitoring.report.page import write_report
    from ti_flax.run.train import train
    from ti_flax.training.loop import Chunk, Hook

__all__ = [
    "Chunk",
    "EmbeddingFile",
    "Hook",
    "RunConfig",
    "ShowInNotebook",
    "TiFlaxError",
    "__version__",
    "bundled",
    "convert_embedding",
    "generate",
    "load_config",
    "load_embedding",
    "main",
    "save_learned_embeds",
    "train",
    "write_report",
]

_MODULES = {
    "Chunk": "training.loop",
    "EmbeddingFile": "embedding.read",
    "Hook": "training.loop",
    "RunConfig": "config",
    "ShowInNotebook": "monitoring.notebook",
    "TiFlaxError": "errors",
    "__version__": "console.versions",
    "bundled": "commands.demo",
    "convert_embedding": "export.convert",
    "generate": "generation.generate",
    "load_config": "config",
    "load_embedding": "embedding.read",
    "main": "commands.main",
    "save_learned_embeds": "embedding.learned_embeds",
    "train": "run.train",
    "write_report": "monitoring.report.page",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError("module 'ti_flax' has no attribute " + repr(name))
    value = getattr(importlib.import_module("ti_flax." + _MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list:
    return sorted(set(globals()) | set(__all__))
