"""The line between the hosts of a run: meeting points with a time limit, and one end for all of them.

The first host listens where `coordinator_address` says, every other one keeps a connection to it open for
the whole run. Messages are lines of JSON. The operating system closes the connections of a process that is
killed, so the others know of it at once, also where their devices would wait for it for ever; a host that is
frozen or cut off is known by its silence.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from ti_flax.errors import START_AGAIN

# The first host also draws, evaluates, writes and uploads while the others wait for it.
PATIENCE_WITH_THE_FIRST = 10
# Seconds that the first host lets the others have for ending, so that they do not see it end before them.
LAST_WORDS = 3.0
_LONGEST_LINE = 1 << 24
_NO_MESSAGE = "it sent something that is no message"


class Ending(Protocol):
    """How a process ends whose main thread may be stuck in a computation that others have left."""

    def say(self, text: str) -> None:
        """Tells the person why."""
        ...

    def end(self, code: int) -> None:
        """Ends the process at once."""
        ...


class LostError(Exception):
    """A connection that is no more; says why."""


def named(hosts: Sequence[int]) -> str:
    """Hosts by their numbers: host 2, hosts 1, 2 and 5."""
    *others, last = map(str, sorted(hosts))
    return f"hosts {', '.join(others)} and {last}" if others else f"host {last}"


class Wire:
    """One connection, in lines of JSON."""

    def __init__(self, connection: socket.socket, timeout: float):
        """Takes besides the connection how many seconds of silence mean that it is no more."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection, self._sending = connection, threading.Lock()
        self._rest, self._lines = b"", deque[bytes]()
        self.expect_within(timeout)

    def expect_within(self, timeout: float) -> None:
        """Sets the seconds of silence that mean that the connection is no more."""
        self._timeout = timeout
        self._connection.settimeout(timeout)

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message; that nobody takes it any more is seen where messages are received."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
          LostError: there will be none.
        """
        while not self._lines:
            *lines, self._rest = (self._rest + self._more()).split(b"\n")
            self._lines.extend(lines)
            if len(self._rest) > _LONGEST_LINE:
                raise LostError(_NO_MESSAGE)
        try:
            message = json.loads(self._lines.popleft())
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise LostError(_NO_MESSAGE)
        return message

    def _more(self) -> bytes:
        try:
            more = self._connection.recv(1 << 16)
        except TimeoutError:
            raise LostError(f"nothing was heard of it for {self._timeout:g} s") from None
        except OSError as error:
            raise LostError(f"its connection broke ({error.strerror})") from None
        if not more:
            raise LostError("its connection was closed")
        return more

    def alive(self) -> bool:
        """Whether the other side still holds the connection."""
        readable = select.select([self._connection], [], [], 0)[0]
        return not readable or bool(self._connection.recv(1, socket.MSG_PEEK))

    def wait_for_end(self, seconds: float) -> None:
        """Returns when the other side has closed the connection, or after so many seconds."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError, ValueError):
            while (left := deadline - time.monotonic()) > 0:
                if select.select([self._connection], [], [], left)[0] and not self._connection.recv(1 << 16):
                    return

    def close(self) -> None:
        """Closes it for both sides, and wakes whoever receives."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class Link:
    """This host's end of the line, whichever host it is.

    Attributes:
      index: number of this host; 0 is the first.
      count: how many hosts there are.
      timeout: seconds of silence after which a host counts as gone, and of waiting at a meeting point.
      asked_to_end: whether the hosts have agreed to end early.
    """

    asked_to_end = False

    def __init__(self, index: int, count: int, *, timeout: float, ending: Ending):
        self.index, self.count, self.timeout = index, count, timeout
        self._ending, self._over = ending, False
        self._changed = threading.Condition(threading.RLock())
        self._met: dict[int, list[Any]] = {}
        self._meetings_so_far = 0

    def meet(self, what: str, value: Any = None, *, limit: float | None = None) -> list[Any]:
        """Returns when every host has come to the same point, with the values that they brought, by host.

        Args:
          what: where they meet, in words; the same on every host.
          value: anything that JSON has words for.
          limit: seconds after which those that are missing end the run; None waits while they live.
        """
        number = self._meetings_so_far
        self._meetings_so_far += 1
        self._post({"meet": number, "what": what, "value": value, "limit": limit})
        with self._changed:
            self._changed.wait_for(lambda: number in self._met)
            return self._met.pop(number)

    def fail(self, text: str, code: int) -> NoReturn:
        """Ends every host with this one's message and exit code."""
        self._post({"fail": text, "code": code})
        time.sleep(LAST_WORDS)  # the first host's answer ends this process
        if not self._over:
            self._ending.say(text)
            self._ending.end(code)
        raise SystemExit(code)

    def leave(self) -> None:
        """Parts from the other hosts, after a last meeting, without ending them."""
        raise NotImplementedError

    def _post(self, message: dict[str, Any]) -> None:
        """Brings a message before the first host."""
        raise NotImplementedError

    def _arrived(self, number: int, values: list[Any]) -> None:
        with self._changed:
            self._met[number] = values
            self._changed.notify_all()

    def _beat(self, wires: Sequence[Wire]) -> None:
        """Tells the others now and then that this process lives."""
        while not self._over:
            for wire in wires:
                wire.send({})
            time.sleep(min(5.0, self.timeout / 5))


class Member(Link):
    """Every host but the first."""

    def __init__(self, wire: Wire, index: int, count: int, *, timeout: float, ending: Ending):
        super().__init__(index, count, timeout=timeout, ending=ending)
        self._wire = wire
        wire.expect_within(timeout)
        in_background(self._listen)
        in_background(self._beat, [wire])

    def leave(self) -> None:
        self._over = True
        self._wire.send({"leave": True})
        self._wire.wait_for_end(LAST_WORDS)
        self._wire.close()

    def _post(self, message: dict[str, Any]) -> None:
        self._wire.send(message)

    def _listen(self) -> None:
        text, code = None, START_AGAIN
        while text is None:
            try:
                message = self._wire.receive()
            except LostError as lost:
                text = gone(0, lost)
            else:
                if "met" in message:
                    self._arrived(message["met"], message["values"])
                if "end" in message:
                    text, code = message["end"], message["code"]
        if not self._over:
            self._over = True
            self._ending.say(text)
            self._ending.end(code)


@dataclass
class _Meeting:
    what: str
    limit: float | None
    began: float = field(default_factory=time.monotonic)
    values: dict[int, Any] = field(default_factory=dict)

    def missing(self, count: int) -> list[int]:
        return [host for host in range(count) if host not in self.values]

    @property
    def waited(self) -> float:
        return time.monotonic() - self.began

    def late(self, count: int) -> list[int]:
        """Hosts that have let the others wait for too long."""
        missing = self.missing(count)
        if self.limit is None or self.waited < self.limit:
            return []
        return missing if missing != [0] or self.waited >= self.limit * PATIENCE_WITH_THE_FIRST else []


class Hub(Link):
    """The first host: it brings the values together, and its word ends all."""

    def __init__(self, wires: Mapping[int, Wire], *, timeout: float, ending: Ending):
        super().__init__(0, len(wires) + 1, timeout=timeout, ending=ending)
        self._wires = dict(wires)
        self._left: set[int] = set()
        self._meetings: dict[int, _Meeting] = {}
        for host, wire in self._wires.items():
            wire.expect_within(timeout)
            in_background(self._listen, host, wire)
        in_background(self._beat, list(self._wires.values()))
        in_background(self._watch)

    def leave(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._left) == len(self._wires), self.timeout)
            self._over = True
        for wire in self._wires.values():
            wire.close()

    def _post(self, message: dict[str, Any]) -> None:
        self._take(0, message)

    def _listen(self, host: int, wire: Wire) -> None:
        try:
            while True:
                self._take(host, wire.receive())
        except LostError as lost:
            if host not in self._left:
                self._end_all(gone(host, lost), START_AGAIN)

    def _take(self, host: int, message: dict[str, Any]) -> None:
        if "fail" in message:
            self._end_all(f"{named([host])}: {message['fail']}", int(message["code"]))
        elif "meet" in message:
            self._come(host, message)
        elif "leave" in message:
            with self._changed:
                self._left.add(host)
                self._changed.notify_all()

    def _come(self, host: int, message: dict[str, Any]) -> None:
        number, what = message["meet"], message["what"]
        with self._changed:
            meeting = self._meetings.setdefault(number, _Meeting(what, message["limit"]))
            meeting.values[host] = message["value"]
            if complete := not meeting.missing(self.count):
                del self._meetings[number]
        if what != meeting.what:
            self._end_all(f"{named([host])} is at {what!r}, others are at {meeting.what!r}", 1)
        elif complete:
            values = [meeting.values[host] for host in range(self.count)]
            for wire in self._wires.values():
                wire.send({"met": number, "values": values})
            self._arrived(number, values)

    def _watch(self) -> None:
        """Ends the run where somebody is waited for in vain."""
        while not self._over:
            time.sleep(min(0.5, self.timeout / 10))
            with self._changed:
                meetings = list(self._meetings.values())
                late = [(each, each.late(self.count)) for each in meetings]
            for meeting, hosts in late:
                if hosts:
                    self._end_all(
                        f"{named(hosts)} did not come to {meeting.what!r} within {meeting.waited:.0f} s of "
                        "the others. Raise host_timeout if more time is needed there.",
                        START_AGAIN,
                    )

    def _end_all(self, text: str, code: int) -> None:
        with self._changed:
            if self._over:
                return
            self._over = True
        for wire in self._wires.values():
            wire.send({"end": text, "code": code})
        self._ending.say(text)
        deadline = time.monotonic() + LAST_WORDS
        for wire in self._wires.values():
            wire.wait_for_end(deadline - time.monotonic())
        self._ending.end(code)


def gone(host: int, lost: LostError) -> str:
    """What to say when a host is no more."""
    return f"{named([host])} is gone: {lost}. Start all hosts again with resume_from_checkpoint auto."


def in_background(work: Callable[..., None], *arguments: Any) -> None:
    """Works in a thread that ends with the process."""
    threading.Thread(target=work, args=arguments, daemon=True).start()
