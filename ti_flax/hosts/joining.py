"""How the hosts of a run find one another before JAX starts, and whether they were told the same."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from ti_flax.config.options import HostOptions
from ti_flax.errors import ConfigError, TiFlaxError, in_short
from ti_flax.hosts.link import LAST_WORDS, Ending, Hub, Link, LostError, Member, Wire, named

# Seconds that whoever connects has for its first message.
_GREETING = 5.0

# Sizes of one job by the variables of whoever started it, where each process has been told of them.
_SIZES = {"SLURM_STEP_NUM_TASKS": "SLURM", "OMPI_COMM_WORLD_SIZE": "Open MPI"}
_TPU_WORKERS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


@dataclass(frozen=True)
class Place:
    """What a process has to know to join the others.

    Attributes:
      host: name or address of the first host.
      port: where that one listens.
      count: how many hosts there are.
      index: which one this is, from 0.
    """

    host: str
    port: int
    count: int
    index: int


def find_place(options: HostOptions) -> Place:
    """The place that the options name, else the one that the environment does.

    Raises:
      ConfigError: neither says it all.
    """
    address = options.coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count, index = options.num_processes, options.process_id
    if address is None or count is None or index is None:
        address, count, index = _from_environment(address, options.host_timeout)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ConfigError("coordinator_address", expected="HOST:PORT", found=address)
    return Place(host.strip("[]"), int(port), count, index)


def _from_environment(address: str | None, timeout: int) -> tuple[str, int, int]:
    try:
        from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize asks

        address, count, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
            address, None, None, None, None, timeout
        )
    except Exception as error:  # of any of the services that are asked
        raise _unknown_place(in_short(error)) from error
    if address is None or count is None or index is None:
        raise _unknown_place("none of them")
    return address, count, index


def _unknown_place(found: str) -> ConfigError:
    return ConfigError(
        "multi_host",
        expected="a TPU slice, SLURM, Open MPI or Kubernetes",
        found=found,
        remedy="Elsewhere give coordinator_address, num_processes and process_id.",
    )


def seems_one_of_several(environment: Mapping[str, str]) -> str | None:
    """Whoever started several processes of which this one is one, in words; None if nobody did."""
    for name, who in _SIZES.items():
        size = environment.get(name, "")
        if size.isdigit() and int(size) > 1:
            return f"{who} has started {size} processes"
    workers = next((environment[name] for name in _TPU_WORKERS if name in environment), "").split(",")
    return f"this TPU slice has {len(workers)} hosts" if len(workers) > 1 else None


def join(place: Place, same: Mapping[str, str], *, timeout: float, ending: Ending) -> tuple[Link, int]:
    """Waits for all hosts.

    Args:
      place: where they are.
      same: what has to be the same on all of them, by name.
      timeout: seconds to wait.
      ending: ends this process later on, for another host's sake.

    Returns:
      The line to the others, and a port of the first host that is free for JAX.

    Raises:
      ConfigError: a host is missing or does not fit.
    """
    if place.index == 0:
        wires, port = _welcome_all(place, same, timeout)
        return Hub(wires, timeout=timeout, ending=ending), port
    wire = _connect(place, timeout)
    wire.send({"host": place.index, "of": place.count, "same": dict(same)})
    wire.expect_within(timeout + LAST_WORDS)
    try:
        answer = wire.receive()
    except LostError as lost:
        wire.close()
        raise ConfigError(
            "multi_host", expected=f"an answer of host 0 at {place.host}:{place.port}", found=str(lost)
        ) from lost
    if "port" not in answer:
        wire.close()
        raise TiFlaxError(answer.get("end"))
    return Member(wire, place.index, place.count, timeout=timeout, ending=ending), int(answer["port"])


def _connect(place: Place, timeout: float) -> Wire:
    deadline, pause = time.monotonic() + timeout, 0.1
    while True:
        try:
            return Wire(socket.create_connection((place.host, place.port), timeout=_GREETING), timeout)
        except OSError as error:
            if time.monotonic() + pause > deadline:
                raise ConfigError(
                    "multi_host",
                    expected=f"host 0 at {place.host}:{place.port} within {timeout:g} s",
                    found=(error.strerror or str(error)).lower(),
                    remedy="Start all hosts, or raise host_timeout; it ends the search for the first one.",
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


def _welcome_all(place: Place, same: Mapping[str, str], timeout: float) -> tuple[dict[int, Wire], int]:
    """Connections to all other hosts, by number, and the port that they were told."""
    deadline = time.monotonic() + timeout
    wires: dict[int, Wire] = {}
    with _listening(place, deadline) as server:
        while len(wires) < place.count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                missing = [host for host in range(1, place.count) if host not in wires]
                _refuse(
                    wires.values(),
                    f"multi_host: expected all {place.count} hosts within {timeout:g} s, "
                    f"found no sign of {named(missing)}. Start all of them, or raise host_timeout.",
                )
            _greet(connection, place, same, wires)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    for wire in wires.values():
        wire.send({"port": port})
    return wires, port


def _greet(connection: socket.socket, place: Place, same: Mapping[str, str], wires: dict[int, Wire]) -> None:
    """Adds whoever has connected to the hosts that are there, if it is one of them."""
    wire = Wire(connection, _GREETING)
    try:
        hello = wire.receive()
        host, count, theirs = int(hello["host"]), int(hello["of"]), dict(hello["same"])
    except (LostError, KeyError, TypeError, ValueError):  # a stranger, such as a scan of ports
        wire.close()
        return
    before = wires.get(host)
    everyone = [*wires.values(), wire]
    if count != place.count:
        _refuse(everyone, f"num_processes: {place.count} on host 0, {count} on host {host}")
    if not 0 < host < count or (before is not None and before.alive()):
        _refuse(everyone, f"process_id: two processes say that they are host {host}")
    if found := differences(same, theirs):
        found_there = f"{', '.join(found)} on host {host}"
        _refuse(everyone, f"multi_host: expected the same on all hosts, found {found_there}")
    if before is not None:
        before.close()
    wires[host] = wire


def differences(first: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """What another host has that the first has not, in words."""
    names = [*first, *(name for name in other if name not in first)]
    return [
        f"{name} {other.get(name, 'missing')} (host 0: {first.get(name, 'missing')})"
        for name in names
        if first.get(name) != other.get(name)
    ]


def _refuse(wires: Iterable[Wire], text: str) -> NoReturn:
    for wire in wires:
        wire.send({"end": text})
        wire.close()
    raise TiFlaxError(text)


@contextlib.contextmanager
def _listening(place: Place, deadline: float) -> Iterator[socket.socket]:
    """The first host's server; a port that an earlier run still holds is waited for."""
    local = place.host in ("localhost", "127.0.0.1", "::1")
    while True:
        try:
            server = _server(place, local)
            break
        except OSError as error:
            if time.monotonic() + 1 > deadline:
                raise ConfigError(
                    "coordinator_address",
                    expected=f"a port of this host that is free, as host 0 (found {place.host}:{place.port})",
                    found=(error.strerror or str(error)).lower(),
                    remedy="Name another one on all hosts.",
                ) from error
        time.sleep(1)
    with server:
        yield server


def _server(place: Place, local: bool) -> socket.socket:
    if local or not socket.has_dualstack_ipv6():
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        return socket.create_server((place.host if local else "", place.port), family=family)
    return socket.create_server(("", place.port), family=socket.AF_INET6, dualstack_ipv6=True)
