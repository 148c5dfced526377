"""A run whose main thread is held in a call that is not Python, and that no signal interrupts.

`TEST_HELD` is "MODULE NAME", with NAME a function, or a class and its method: calling it says "held" and
takes a minute.
"""

import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train_flax  # noqa: E402


def held(*arguments, **named):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    os.write(2, b"held\n")
    ctypes.CDLL(None).poll(None, 0, 60_000)


if "TEST_HELD" in os.environ:
    module, name = os.environ["TEST_HELD"].split()
    *owner, name = name.split(".")
    place = importlib.import_module(module)
    setattr(getattr(place, owner[0]) if owner else place, name, held)
# As where nothing is ignored, which is otherwise in the background of a shell.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.exit(train_flax.end_process(train_flax.main()))
