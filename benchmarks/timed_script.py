"""Runs a training script unchanged, and stops it at every so many steps until its parent says "go".

    python benchmarks/timed_script.py SEGMENT TOTAL SCRIPT ARGUMENTS...

The clock is the script's own progress bar. A script that shows its loss at each step has finished a step
when it moves the bar; one that only writes it at the end of an epoch (diffusers' Flax script) has finished
its steps when it writes a line, and then its epochs have to be as long as a segment
(`TIMED_SCRIPT_AT=write`). train_flax.py draws no such bar: a hook counts its updates
(`TIMED_SCRIPT_AT=hook`). After each segment a line "segment STEPS SECONDS" goes to the file descriptor named
by `TIMED_SCRIPT_PIPE`. peers.py starts this program.
"""

import importlib.util
import os
import random
import runpy
import sys
import time
import types
from functools import partial
from typing import Any

import tqdm
import tqdm.auto

if len(sys.argv) < 4 or sys.argv[1] in ("-h", "--help") or "TIMED_SCRIPT_PIPE" not in os.environ:
    print(__doc__, file=sys.stderr)
    sys.exit(0 if sys.argv[1:2] in (["-h"], ["--help"]) else 2)
segment, total, script = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
report = os.fdopen(int(os.environ["TIMED_SCRIPT_PIPE"]), "w", buffering=1)
clock = os.environ.get("TIMED_SCRIPT_AT")
began, steps, bars_write = None, 0, clock == "write"


def finished() -> None:
    """Reports the segment that has just ended, and waits."""
    global began, steps
    seconds = 0.0 if began is None else time.perf_counter() - began
    print("segment", steps, seconds, file=report)
    if sys.stdin.readline().strip() != "go":
        os._exit(0)
    began, steps = time.perf_counter(), 0


class Bar(tqdm.std.tqdm):
    """The script's progress bar."""

    def update(self, n: float | None = 1):
        global steps
        super().update(n)
        # Not another bar of the script, such as that of its epochs.
        of_steps = self.total == segment and "Epoch" not in self.desc if bars_write else self.total == total
        steps += int(n or 0) if of_steps else 0
        if not bars_write and steps >= segment:
            finished()

    @classmethod
    def write(cls, *arguments, **options):
        if bars_write:
            finished()


def follow_our_updates() -> None:
    """Counts the updates of train_flax.py with a hook of its own, called after all others."""
    from ti_flax.run import train as run
    from ti_flax.training.loop import Chunk, Hook

    class Turns(Hook):
        every = segment

        def on_metrics(self, chunk: Chunk) -> None:
            global steps
            steps += len(chunk.loss)

        def on_step(self, step: int, state: Any) -> None:
            finished()

    run.train = partial(run.train, hooks=[Turns()])


def stand_in_for_torchvision() -> None:
    """Gives the script what it takes from torchvision, where there is none: a mirror image, and a crop."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    from PIL import ImageOps

    class RandomHorizontalFlip:
        def __init__(self, p=0.5):
            self.p = p

        def __call__(self, image):
            return ImageOps.mirror(image) if random.random() < self.p else image

    class RandomCrop:
        def __init__(self, size):
            pass

        @staticmethod
        def get_params(image, output_size):
            height, width = output_size
            places = (random.randint(0, whole) for whole in (image.height - height, image.width - width))
            return *places, height, width

    def crop(image, top, left, height, width):
        return image.crop((left, top, left + width, top + height))

    # This remembers that there is none: to transformers it would not be enough.
    importlib.import_module("transformers.utils").is_torchvision_available()
    transforms: Any = types.ModuleType("torchvision.transforms")
    for kind in (RandomHorizontalFlip, RandomCrop):
        setattr(transforms, kind.__name__, kind)
    transforms.functional = types.SimpleNamespace(crop=crop)
    torchvision: Any = types.ModuleType("torchvision")
    torchvision.transforms = transforms
    sys.modules |= {"torchvision": torchvision, "torchvision.transforms": transforms}


sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
if clock == "hook":
    follow_our_updates()
else:
    tqdm.tqdm = tqdm.auto.tqdm = Bar
if os.environ.get("TIMED_SCRIPT_OF_DIFFUSERS"):
    import diffusers.utils

    # A script of a checkout asks for that checkout's version.
    diffusers.utils.check_min_version = lambda version: None
    stand_in_for_torchvision()
sys.argv = [script, *sys.argv[4:]]
runpy.run_path(script, run_name="__main__")
