"""One run on several hosts: who is the first, what all take from it, and one end for all of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jax

from ti_flax.config.options import HostOptions
from ti_flax.console.interrupt import Interrupt
from ti_flax.console.messages import warn
from ti_flax.errors import START_AGAIN, ConfigError, Stopped, TiFlaxError
from ti_flax.hosts import joining as host_joining
from ti_flax.hosts.devices import start_devices
from ti_flax.hosts.joining import Place
from ti_flax.hosts.link import Link

# Seconds in which another host's end shows itself as the reason of an error here.
_SECOND_THOUGHTS = 2.0
# How much longer the others wait for one that still reads and encodes.
PREPARING = 10
_SHOW_CURSOR = "\x1b[?25h\n"

_LINK: ContextVar[Link | None] = ContextVar("link", default=None)


class _ThisProcess:
    """The end of this process for another host's sake, past everything that its main thread may hold."""

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{_SHOW_CURSOR if os.isatty(2) else ''}error: {text}\n".encode())

    def end(self, code: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)


@contextlib.contextmanager
def joined(
    options: HostOptions, same: Mapping[str, str], interrupt: Interrupt | None = None
) -> Iterator[None]:
    """Joins the other processes of the run, if there are any, before anything asks for devices.

    What ends one of them inside ends all, with its message and exit code, and ends this process.

    Args:
      options: where the others are, and how long they are waited for.
      same: what has to be the same on all of them, by name.
      interrupt: listens for signals, and tells the others when one ends this process.

    Raises:
      ConfigError: the others cannot be found, or are started otherwise than this one.
    """
    place = host_joining.find_place(options) if options.multi_host else None
    if place is None or place.count == 1:
        _warn_if_alone(options)
        yield
        return
    timeout = options.host_timeout
    link, port = host_joining.join(place, same, timeout=timeout, ending=_ThisProcess())
    if interrupt is not None:
        interrupt.tell_others = link.fail
    with on_line(link):
        try:
            with ending_all(link):
                _start_jax(place, port, timeout)
                start_devices()
                yield
        finally:  # of all of them: whatever ends one alone does not come here
            with ending_all(link):
                link.meet("the end")
            if interrupt is not None:
                interrupt.tell_others = None
            link.leave()


@contextlib.contextmanager
def on_line(link: Link) -> Iterator[Link]:
    """Asks the other hosts of this line in what is done inside."""
    token = _LINK.set(link)
    try:
        yield link
    finally:
        _LINK.reset(token)


def _start_jax(place: Place, port: int, timeout: int) -> None:
    _abort_slowly()
    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    if jax.distributed.is_initialized():
        return
    host = f"[{place.host}]" if ":" in place.host else place.host
    jax.distributed.initialize(
        f"{host}:{port}",
        place.count,
        place.index,
        initialization_timeout=timeout,
        # JAX ends processes with the trace of an abort, so the line between the hosts is to notice it before.
        heartbeat_timeout_seconds=timeout + 60,
        shutdown_timeout_seconds=timeout,
    )


def _abort_slowly() -> None:
    """Lets an abort wait for some seconds.

    When the first host is killed, JAX's service is gone with it, and jaxlib aborts the other processes from
    a thread of its own. Meanwhile the line between the hosts says which one is gone, and ends the process
    with the exit code that belongs to that. The operating system's `sleep` may be called where `SIGABRT` is
    handled; it takes the signal's number, 6, for the seconds.
    """
    if sys.platform != "linux":
        return
    system = ctypes.CDLL(None)
    system.signal.restype, system.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    system.signal(signal.SIGABRT, ctypes.cast(system.sleep, ctypes.c_void_p))


def _warn_if_alone(options: HostOptions) -> None:
    """Says that a process seems to be one of several which nobody has told so.

    Raises:
      ConfigError: its devices are those of several hosts.
      DeviceError: it has none.
    """
    who = host_joining.seems_one_of_several(os.environ)
    if who is not None and not options.multi_host:
        warn(f"{who}, and this one runs alone; --multi_host makes them one run")
    start_devices()
    if jax.process_count() > 1:
        raise ConfigError(
            "multi_host", expected=f"to be given, as on {jax.process_count()} hosts", found="not"
        )


@contextlib.contextmanager
def ending_all(link: Link) -> Iterator[None]:
    """Ends every host with what ends this one."""
    try:
        yield
    except TiFlaxError as error:
        link.fail(str(error), 2)
    except KeyboardInterrupt as error:
        if link.asked_to_end:
            raise
        link.fail(str(error) or "interrupted", START_AGAIN if isinstance(error, Stopped) else 130)
    except Exception as error:
        time.sleep(_SECOND_THOUGHTS)  # a computation fails because another host is gone: that one is to blame
        os.write(2, traceback.format_exc().encode())
        lines = str(error).splitlines()
        link.fail(f"{type(error).__name__}: {lines[0] if lines else ''}", 1)


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def from_first(what: str, value: Any) -> Any:
    """The first host's value, of a kind that JSON has, on every one; `what` names it in words."""
    link = _LINK.get()
    return value if link is None else link.meet(what, value, limit=link.timeout)[0]


def agree(tree: Any) -> Any:
    """What the first process has, on every process: arrays of the same shapes and dtypes everywhere."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def agree_on_steps(steps: int, asked: bool) -> int | None:
    """What all processes do next: the first one's number of updates, or None if any was asked to end."""
    link = _LINK.get()
    if link is None:
        return None if asked else steps
    everyone = link.meet("the next updates", [steps, asked], limit=link.timeout)
    link.asked_to_end = any(each[1] for each in everyone)
    return None if link.asked_to_end else everyone[0][0]


def check_same(what: str, here: Mapping[str, str], *, patience: int = 1) -> None:
    """Refuses to go on where hosts differ.

    Args:
      what: what is compared, in words.
      here: what this host has, by name.
      patience: how many times host_timeout the others wait for one that is late.

    Raises:
      ConfigError: says which host differs in what.
    """
    link = _LINK.get()
    if link is None:
        return
    first, *others = link.meet(what, dict(here), limit=link.timeout * patience)
    found = [
        f"{difference} on host {host}"
        for host, other in enumerate(others, 1)
        for difference in host_joining.differences(first, other)
    ]
    if found and link.index > 0:
        link.meet("the end of a run that differs")
    if found:
        raise ConfigError(what, expected="the same on all hosts", found="; ".join(found))


@contextlib.contextmanager
def silence_secondary_hosts() -> Iterator[None]:
    """Keeps the reports of the other processes, but not the error that ends one, to themselves."""
    if is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
