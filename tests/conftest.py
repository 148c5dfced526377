"""Eight virtual CPU devices, a compilation cache, and the folders tests import from."""

import contextlib
import gc
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

import environment  # noqa: E402, F401  # before JAX
import jax  # noqa: E402
import pytest  # noqa: E402
from clip_tokenizer import write_tokenizer  # noqa: E402
from shared_programs import PROGRAMS, share_programs  # noqa: E402
from tiny_folder import WORDS, write_folder, write_images  # noqa: E402

from ti_flax.models.tokenizer import load_tokenizer  # noqa: E402

share_programs()
# Files that take longest, from half a minute to one and a half: begun first, they keep no worker waiting.
LONGEST = (
    "test_step",
    "test_learning",
    "test_demo_model",
    "test_train",
    "test_tiny_benchmarks",
    "test_soak_kill",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_collection_finish():
    """Leaves out of every garbage collection what imports and collection made, which stays anyway."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Lets go of compiled programs before there are too many.

    Each takes some 300 memory maps, and a process that has 65,530 of them crashes.
    """
    yield
    if memory_maps() > 10_000:
        PROGRAMS.clear()
        jax.clear_caches()
        gc.collect()


def memory_maps():
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb") as file:
        return sum(1 for _ in file)
    return 2**16  # where nobody says


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model, `model`, and three images, `images`; a file's tests write beside them."""
    place = tmp_path_factory.mktemp("place")
    write_folder(place / "model")
    write_images(place / "pictures")
    return place


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """A folder with the tiny model's tokenizer and nothing else."""
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder / "tokenizer", words=WORDS)
    return folder


@pytest.fixture
def tokenizer(tokenizer_folder):
    """The tiny model's tokenizer, which knows no new word."""
    return load_tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def tiny_base_model(tmp_path_factory, worker_id):
    """The folder of the demo's base model in its tiny size; all workers of a run of the tests share it."""
    from tiny_base import tiny_base

    base = tmp_path_factory.getbasetemp()
    return tiny_base((base if worker_id == "master" else base.parent) / "tiny-base")
