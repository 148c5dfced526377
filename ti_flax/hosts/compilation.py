"""Programs that are compiled in threads, side by side, while the run does other things."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, NamedTuple

from ti_flax.console.alarms import without_alarms
from ti_flax.console.messages import detail, stage

# XLA ends a process in which one CPU device waits so long for another; a step of a large model takes minutes.
_PATIENCE_OF_CORES = 24 * 3600
# Seconds in which a program that was compiled before is lowered and read.
_READING = 2.0
# Seconds after which a compilation may alarm XLA, which counts two minutes.
_ALARM = 90.0


class Compilation:
    """A program that a thread of its own lowers and compiles.

    Lowering is Python, so it goes one program at a time, in the order in which they are needed; compiling is
    XLA, which lets the others go on meanwhile.

    Args:
      lower: traces and lowers it.
      devices: that it is for.
      what: it computes, in words.
      after: is lowered first.
    """

    def __init__(
        self,
        lower: Callable[[], Any],
        devices: Sequence[Any],
        *,
        what: str,
        after: Compilation | None = None,
    ):
        self._devices, self._what, self._after = devices, what, after
        self._lowered, self._ended = threading.Event(), threading.Event()
        self._program: Any = None
        self._error: BaseException | None = None
        # Not a daemon: the interpreter must not end under XLA, which would crash.
        call = (self._make, lower)
        threading.Thread(target=copy_context().run, args=call, name=f"compiling {what}").start()

    @property
    def ended(self) -> bool:
        """Whether `program` returns, or raises, at once."""
        return self._ended.is_set()

    def program(self) -> Any:
        """The compiled program; shows that it is waited for.

        Raises:
          Exception: what lowering or compiling raised.
        """
        if not self.ended:
            with stage(f"preparing {self._what}"):
                self._ended.wait(_READING)
        if not self.ended:
            with stage(f"compiling {self._what}, the first time only", done=f"compiled {self._what}"):
                self._wait()
        if self._error is not None:
            raise self._error
        return self._program

    def _wait(self) -> None:
        if not self._ended.wait(_ALARM):
            with without_alarms():
                self._ended.wait()

    def _make(self, lower: Callable[[], Any]) -> None:
        try:
            if self._after is not None:
                self._after._lowered.wait()
            began = time.perf_counter()
            lowered = lower()
            self._lowered.set()
            between = time.perf_counter()
            self._program = compiled(lowered, self._devices)
            seconds = (between - began, time.perf_counter() - between)
            detail(f"{self._what}: lowered in {seconds[0]:.1f} s, compiled or read in {seconds[1]:.1f} s")
        except BaseException as error:  # raised where the program is wanted
            self._error = error
        finally:
            self._lowered.set()
            self._ended.set()


class Memory(NamedTuple):
    """Bytes of a device that a compiled program takes.

    Attributes:
      arguments: what it is given.
      temporary: all else that lives while it runs.
      program: its machine code.
    """

    arguments: int
    temporary: int
    program: int


def planned_memory(program: Any) -> Memory:
    """What the compiler has planned for a program; nothing where it does not say."""
    planned = program.memory_analysis()
    if planned is None:
        return Memory(0, 0, 0)
    beside = planned.output_size_in_bytes - planned.alias_size_in_bytes
    return Memory(
        planned.argument_size_in_bytes,
        planned.temp_size_in_bytes + beside,
        planned.generated_code_size_in_bytes,
    )


def has_no_room(error: Exception) -> bool:
    """Whether a compilation failed because the program does not fit in a device's memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Ran out of memory" in str(error)


def shapes_in(tree: Any) -> Any:
    """What a program is compiled for: structure, shapes and dtypes of its arguments, as a key."""
    import jax

    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


def compiled(lowered: Any, devices: Sequence[Any]) -> Any:
    """Compiles a lowered program for its devices."""
    options = {}
    if devices[0].platform == "cpu" and len(devices) > 1:
        names = ("warn_stuck_seconds", "terminate_timeout_seconds")
        options = {f"xla_cpu_collective_call_{name}": _PATIENCE_OF_CORES for name in names}
    return lowered.compile(compiler_options=options) if options else lowered.compile()
