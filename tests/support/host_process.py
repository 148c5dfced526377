"""One process of a run on several hosts: train_flax.py, and what a test wants to happen in it.

`TEST_AT` is "CALL ACTION [FILE]": before that call of the device program, counted from 1, or before anything
is read (0), this process gets SIGTERM (term), raises an error (raise), or is stuck for ever and writes the
file to say so (stuck).
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jax._src import compiler, distributed  # noqa: E402

import train_flax  # noqa: E402
from ti_flax.hosts import group as hosts  # noqa: E402


def keep_programs_of_every_process():
    """Only the first process writes JAX's cache, and on CPUs no other one finds its programs there."""
    write = compiler._cache_write

    def as_the_first(*arguments):
        own, distributed.global_state.process_id = distributed.global_state.process_id, 0
        try:
            return write(*arguments)
        finally:
            distributed.global_state.process_id = own

    compiler._cache_write = as_the_first


def happens(call, action, file=""):
    name = "from_first" if call == "0" else "agree_on_steps"
    before, calls = getattr(hosts, name), iter(range(10**6) if call == "0" else range(1, 10**6))

    def meet(*arguments):
        now = next(calls) == int(call)
        if now and action == "raise":
            raise RuntimeError("asked to fail")
        if now and action == "term":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)  # another thread hears of it
        agreed = before(*arguments)
        if now and action == "stuck":  # the others are in a computation by now
            Path(file).touch()
            time.sleep(10**6)
        return agreed

    setattr(hosts, name, meet)


keep_programs_of_every_process()
if "TEST_AT" in os.environ:
    happens(*os.environ["TEST_AT"].split())
sys.exit(train_flax.main())
