"""The line between hosts, here between threads: meetings, their limits, and one end for all."""

import contextlib
import socket
import threading
import time

import pytest

from ti_flax.errors import START_AGAIN
from ti_flax.hosts.link import Hub, LostError, Member, Wire, named


class Ended:
    """What became of a host, in place of the end of a process."""

    def __init__(self):
        self.said, self.code, self.over = "", None, threading.Event()

    def say(self, text):
        self.said = text

    def end(self, code):
        self.code = code
        self.over.set()

    def outcome(self):
        assert self.over.wait(20)
        return self.said, self.code


class Hosts:
    """Hosts that are connected; those in `silent` never send anything."""

    def __init__(self, count, timeout=20.0, silent=()):
        pairs = {host: connection() for host in range(1, count)}
        self.ends = [Ended() for _ in range(count)]
        self.wires = {host: Wire(mine, timeout) for host, (_, mine) in pairs.items()}
        self.hub_wires = {host: Wire(its, timeout) for host, (its, _) in pairs.items()}
        self.links = [Hub(self.hub_wires, timeout=timeout, ending=self.ends[0])]
        self.links += [
            Member(wire, host, count, timeout=timeout, ending=self.ends[host])
            for host, wire in self.wires.items()
            if host not in silent
        ]

    def meet(self, values, what="here", limit=5.0):
        """Lets the hosts meet that have values, by host; returns what each one then knows."""
        known = {}

        def come(host, value):
            known[host] = self.links[host].meet(what, value, limit=limit)

        threads = [threading.Thread(target=come, args=each, daemon=True) for each in values.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return known

    def in_background(self, work, *arguments, **named):
        def run():
            with contextlib.suppress(SystemExit):
                work(*arguments, **named)

        threading.Thread(target=run, daemon=True).start()

    def close(self):
        for wire in (*self.wires.values(), *self.hub_wires.values()):
            wire.close()


@pytest.fixture
def connect(monkeypatch):
    monkeypatch.setattr("ti_flax.hosts.link.LAST_WORDS", 0.3)
    made = []

    def connected(*arguments, **named):
        made.append(Hosts(*arguments, **named))
        return made[-1]

    yield connected
    for hosts in made:
        hosts.close()


def connection():
    """Both ends of one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return socket.create_connection(server.getsockname()), server.accept()[0]


def test_all_know_what_all_brought_and_part_without_an_end(connect):
    hosts = connect(3)
    for attempt in range(3):
        values = {host: [host, attempt] for host in range(3)}
        assert hosts.meet(values) == {host: list(values.values()) for host in range(3)}
    leaving = [threading.Thread(target=link.leave) for link in hosts.links]
    for thread in leaving:
        thread.start()
    for thread in leaving:
        thread.join(20)
    assert not any(thread.is_alive() for thread in leaving)
    assert all(end.code is None for end in hosts.ends)


def test_who_has_parted_is_not_gone(connect):
    hosts = connect(2)
    hosts.links[1].leave()  # and closes the connection, while the first host is busy
    assert not hosts.ends[0].over.wait(0.5)
    hosts.links[0].leave()
    assert hosts.ends[0].code is None


@pytest.mark.parametrize("at_fault", [0, 2])
def test_an_error_on_one_host_is_the_end_of_all(connect, at_fault):
    hosts = connect(3)
    hosts.in_background(hosts.links[at_fault].fail, "disk full", 2)
    assert all(end.outcome() == (f"host {at_fault}: disk full", 2) for end in hosts.ends)


def test_of_two_errors_the_first_one_counts(connect):
    hosts = connect(3)
    hosts.in_background(hosts.links[1].fail, "the first", 2)
    assert hosts.ends[2].outcome() == ("host 1: the first", 2)
    hosts.in_background(hosts.links[2].fail, "the second", 1)
    assert hosts.ends[0].outcome() == ("host 1: the first", 2)


@pytest.mark.parametrize("gone", [0, 1])
def test_a_closed_connection_is_the_end_of_all(connect, gone):
    hosts = connect(3)
    hosts.links[gone]._over = True  # a process that is killed says nothing any more
    for wire in [hosts.wires[1]] if gone else hosts.hub_wires.values():
        wire.close()
    for host in {0, 1, 2} - {gone}:
        said, code = hosts.ends[host].outcome()
        assert code == START_AGAIN
        assert said.startswith(f"host {gone} is gone: its connection was closed. Start all hosts again")


def test_silence_is_the_end_of_all_though_the_connection_stays(connect):
    began = time.monotonic()
    hosts = connect(3, timeout=3, silent=[2])
    said, code = hosts.ends[0].outcome()
    assert said.startswith("host 2 is gone: nothing was heard of it for 3 s") and code == START_AGAIN
    assert hosts.ends[1].outcome() == (said, code)
    assert time.monotonic() - began >= 3


def test_who_lives_but_does_not_come_is_named_after_the_limit(connect):
    hosts = connect(4)
    for host in (0, 1):
        hosts.in_background(hosts.links[host].meet, "the next updates", limit=0.3)
    for end in hosts.ends:
        said, code = end.outcome()
        assert (
            said.startswith("hosts 2 and 3 did not come to 'the next updates' within") and code == START_AGAIN
        )


def test_the_first_host_may_take_ten_times_as_long(connect):
    hosts = connect(2)
    hosts.in_background(hosts.links[1].meet, "the next updates", limit=0.3)
    assert not hosts.ends[1].over.wait(1.5)
    said, _ = hosts.ends[1].outcome()
    assert said.startswith("host 0 did not come to 'the next updates' within")


def test_a_meeting_without_a_limit_waits(connect):
    hosts = connect(2)
    hosts.in_background(hosts.links[1].meet, "the end")
    assert not hosts.ends[1].over.wait(1.5)
    assert hosts.links[0].meet("the end", "late") == ["late", None]


def test_hosts_that_are_at_different_points_end(connect):
    hosts = connect(2)
    hosts.in_background(hosts.links[0].meet, "one point", limit=9)
    time.sleep(0.1)
    hosts.in_background(hosts.links[1].meet, "another", limit=9)
    assert hosts.ends[1].outcome() == ("host 1 is at 'another', others are at 'one point'", 1)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"\xff\xfe\n"])
def test_what_is_no_message_is_refused(sent):
    here, there = connection()
    with here, there, pytest.raises(LostError, match="no message"):
        there.sendall(sent + b"\n")
        Wire(here, 5).receive()


def test_names():
    assert [named([3]), named([2, 1]), named([5, 1, 2])] == ["host 3", "hosts 1 and 2", "hosts 1, 2 and 5"]
