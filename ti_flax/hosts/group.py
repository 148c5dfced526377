"""One run on several hosts: who is the first, what all take from it, and one end for all of them.

JAX's distributed service joins the hosts, and its heartbeats end those that a dead one has left behind. Hosts
tell one another what they have through its key-value store: at every meeting each of them writes a value, and
reads everyone's. A host that fails writes its error instead, so the others end at that meeting.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ti_flax.config.options import HostOptions
from ti_flax.console.interrupt import Interrupt
from ti_flax.console.messages import warn
from ti_flax.errors import ConfigError, Stopped, TiFlaxError, in_short
from ti_flax.hosts.devices import start_devices

# Seconds without a heartbeat after which JAX's service counts a process as dead, and ends the others.
HEARTBEAT_TIMEOUT = 60
# How much longer the others wait for one that still reads and encodes.
PREPARING = 10
# The first host also draws, evaluates, writes and uploads while the others wait for it.
_PATIENCE_WITH_THE_FIRST = 10
# Seconds between two looks at the store, from the first ones of a meeting to the later ones.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.25
# What an error is on the other hosts, the first that fits.
_ENDS = (TiFlaxError, Stopped, KeyboardInterrupt)

# Sizes of one job by the variables of whoever started it, where each process has been told of them.
_SIZES = {"SLURM_STEP_NUM_TASKS": "SLURM", "OMPI_COMM_WORLD_SIZE": "Open MPI"}
_TPU_WORKERS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


@dataclass(frozen=True)
class Group:
    """The hosts of a run, as one of them sees it.

    Attributes:
      store: JAX's client, with its key-value store.
      index: number of this host; 0 is the first.
      count: how many hosts there are.
      timeout: seconds to wait for a host that is late.
    """

    store: Any
    index: int
    count: int
    timeout: float

    def meet(self, what: str, value: Any = None, *, patience: float = 1) -> list[Any]:
        """Returns the values of all hosts, by host, once each of them has come to the same point.

        Args:
          what: where they meet, in words; the same on every host.
          value: anything that JSON has words for.
          patience: how many times the timeout this host waits.

        Raises:
          TiFlaxError: another host has failed.
          Stopped: a signal has ended another host.
          TimeoutError: a host is late.
          RuntimeError: another host is somewhere else in the program.
        """
        number = self._write({"what": what, "value": value})
        met = self._read(number, what, patience)
        if number > 1:  # everybody is here, so nobody still reads what was written at the last meeting
            self.store.key_value_delete(_key(number - 1, self.index))
        for host, each in met.items():
            if each["what"] != what:
                raise RuntimeError(f"host {host} is at {each['what']!r}, host {self.index} at {what!r}")
        return [met[host]["value"] for host in range(self.count)]

    def tell(self, error: BaseException) -> None:
        """Leaves the error that ends this host for the others' next meeting."""
        kind = next((each.__name__ for each in _ENDS if isinstance(error, each)), "")
        text = f"{'' if kind else type(error).__name__ + ': '}{in_short(error)}"
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the first host is gone, and its store with it
            self._write({"ended": f"host {self.index}: {text}", "kind": kind})

    def _write(self, message: Mapping[str, Any]) -> int:
        # The store counts, so that a second run of the same processes goes on where the first one was.
        number = self.store.key_value_increment(f"ti_flax/meetings/{self.index}", 1)
        self.store.key_value_set(_key(number, self.index), json.dumps(message))
        return number

    def _read(self, number: int, what: str, patience: float) -> dict[int, dict[str, Any]]:
        began, pause = time.monotonic(), _SHORTEST_PAUSE
        while True:
            entries = self.store.key_value_dir_get(_key(number, ""))
            met = {int(key.rpartition("/")[2]): json.loads(message) for key, message in entries}
            for each in met.values():
                if "ended" in each:
                    kinds = {kind.__name__: kind for kind in _ENDS}
                    raise kinds.get(each["kind"], RuntimeError)(each["ended"])
            missing = [host for host in range(self.count) if host not in met]
            if not missing:
                return met
            waited = time.monotonic() - began
            limit = self.timeout * patience * (_PATIENCE_WITH_THE_FIRST if missing == [0] else 1)
            if waited > limit:
                raise TimeoutError(
                    f"host {', '.join(map(str, missing))} did not come to {what!r} within {waited:.0f} s of "
                    f"host {self.index}. Raise host_timeout if more time is needed there."
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _key(number: int, host: int | str) -> str:
    return f"ti_flax/meeting/{number}/{host}"


_GROUP: ContextVar[Group | None] = ContextVar("group", default=None)


@contextlib.contextmanager
def joined(
    options: HostOptions, same: Mapping[str, str], interrupt: Interrupt | None = None
) -> Iterator[None]:
    """Joins the other processes of the run, if there are any, before anything asks for devices.

    What ends one of them inside ends all. With several hosts, an exception that is no TiFlaxError ends this
    process at once with exit code 1, because the others' devices may wait for it.

    Args:
      options: where the others are, and how long they are waited for.
      same: what has to be the same on all of them, by name.
      interrupt: listens for signals.

    Raises:
      ConfigError: the others cannot be found, or are started otherwise than this one.
    """
    if not options.multi_host or options.num_processes == 1:
        _warn_if_alone(options)
        yield
        return
    _start_jax(options)
    group = Group(*_jax_service(), timeout=options.host_timeout)
    with in_group(group), _ending_all(group, interrupt):
        check_same("multi_host", same)
        start_devices()
        yield
        group.meet("the end", patience=math.inf)


@contextlib.contextmanager
def in_group(group: Group) -> Iterator[Group]:
    """Lets what is inside meet the hosts of this group."""
    token = _GROUP.set(group)
    try:
        yield group
    finally:
        _GROUP.reset(token)


def _start_jax(options: HostOptions) -> None:
    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    if jax.distributed.is_initialized():
        return
    if options.process_id == 0:
        _require_free_port(options.coordinator_address or "")
    try:
        jax.distributed.initialize(
            options.coordinator_address,
            options.num_processes,
            options.process_id,
            initialization_timeout=options.host_timeout,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            # A host that has failed waits for the others, which hear of it when they have read and encoded.
            shutdown_timeout_seconds=PREPARING * options.host_timeout,
        )
    except Exception as error:  # of any of the services that JAX asks
        raise ConfigError(
            "multi_host",
            expected="a TPU slice, SLURM, Open MPI, Kubernetes, or a coordinator_address that can be used",
            found=in_short(error),
            remedy="Elsewhere give coordinator_address, num_processes and process_id.",
        ) from error


def _require_free_port(address: str) -> None:
    """Refuses a port that something listens at: JAX's service there ends the process with a signal."""
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise ConfigError(
            f"coordinator_address {address}",
            expected="a port of this machine, the first of the run, that is free",
            found=os.strerror(error.errno or 0),
            remedy="Give all processes another port.",
        ) from error


def _jax_service() -> tuple[Any, int, int]:
    """Returns JAX's client, the number of this process and how many there are, before devices are started.

    JAX has no public names for them then.
    """
    from jax._src.distributed import global_state

    return global_state.client, global_state.process_id, global_state.num_processes


@contextlib.contextmanager
def _ending_all(group: Group, interrupt: Interrupt | None) -> Iterator[None]:
    """Tells the other hosts what ends this one.

    After an error, JAX waits for them at the interpreter's end. A program that a signal has ended has no such
    end, so it waits here.
    """
    try:
        yield
    except TiFlaxError as error:
        group.tell(error)
        raise
    except KeyboardInterrupt as error:
        group.tell(error)
        with contextlib.nullcontext() if interrupt is None else interrupt.unbroken():
            jax.distributed.shutdown()
        raise
    except Exception as error:
        group.tell(error)
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _warn_if_alone(options: HostOptions) -> None:
    """Says that a process seems to be one of several which nobody has told so.

    Raises:
      ConfigError: its devices are those of several hosts.
      DeviceError: it has none.
    """
    who = seems_one_of_several(os.environ)
    if who is not None and not options.multi_host:
        warn(f"{who}, and this one runs alone; --multi_host makes them one run")
    start_devices()
    if jax.process_count() > 1:
        raise ConfigError(
            "multi_host", expected=f"to be given, as on {jax.process_count()} hosts", found="not"
        )


def seems_one_of_several(environment: Mapping[str, str]) -> str | None:
    """Whoever started several processes of which this one is one, in words; None if nobody did."""
    for name, who in _SIZES.items():
        size = environment.get(name, "")
        if size.isdigit() and int(size) > 1:
            return f"{who} has started {size} processes"
    workers = next((environment[name] for name in _TPU_WORKERS if name in environment), "").split(",")
    return f"this TPU slice has {len(workers)} hosts" if len(workers) > 1 else None


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return index() == 0


def index() -> int:
    """The number of this host among those of the run; 0 is the first."""
    group = _GROUP.get()
    return 0 if group is None else group.index


def count() -> int:
    """How many hosts the run has."""
    group = _GROUP.get()
    return 1 if group is None else group.count


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Lets each host do what is inside by itself, as if it were the only one; they meet again after it."""
    token = _GROUP.set(None)
    try:
        yield
    finally:
        _GROUP.reset(token)


def from_first(what: str, value: Any) -> Any:
    """The first host's value, of a kind that JSON has, on every one; `what` names it in words."""
    group = _GROUP.get()
    return value if group is None else group.meet(what, value)[0]


def gather(what: str, value: Any, *, patience: float = PREPARING) -> list[Any]:
    """What every host has, by host, of a kind that JSON has; a host may prepare it for long."""
    group = _GROUP.get()
    return [value] if group is None else group.meet(what, value, patience=patience)


def exchange(what: str, array: np.ndarray) -> np.ndarray:
    """The arrays of all hosts, `[hosts, ...]`; every host brings one of the same shape and dtype."""
    group = _GROUP.get()
    if group is None or group.count == 1:
        return array[None]
    from jax.experimental import multihost_utils

    group.meet(what, patience=PREPARING)  # devices would wait for ever for a host that has failed before
    return np.asarray(multihost_utils.process_allgather(array))


def agree(what: str, tree: Any) -> Any:
    """What the first host has, on every one: arrays of the same shapes and dtypes everywhere."""
    group = _GROUP.get()
    if group is None or group.count == 1:
        return tree
    from jax.experimental import multihost_utils

    group.meet(what)  # devices would wait for ever for a host that has failed before
    return multihost_utils.broadcast_one_to_all(tree)


def agree_on_steps(steps: int, asked: bool) -> int | None:
    """What all processes do next: the first one's number of updates, or None if any was asked to end."""
    group = _GROUP.get()
    everyone = [[steps, asked]] if group is None else group.meet("the next updates", [steps, asked])
    return None if any(each[1] for each in everyone) else everyone[0][0]


def check_same(what: str, here: Mapping[str, str], *, patience: int = 1) -> None:
    """Refuses to go on where hosts differ.

    Args:
      what: what is compared, in words.
      here: what this host has, by name.
      patience: how many times host_timeout the others wait for one that is late.

    Raises:
      ConfigError: says which host differs in what.
    """
    group = _GROUP.get()
    first, *others = [here] if group is None else group.meet(what, dict(here), patience=patience)
    found = [
        f"{name} {other.get(name, 'missing')} (host 0: {first.get(name, 'missing')}) on host {host}"
        for host, other in enumerate(others, 1)
        for name in dict.fromkeys([*first, *other])
        if first.get(name) != other.get(name)
    ]
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
