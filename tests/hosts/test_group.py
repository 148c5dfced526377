"""What hosts tell one another, here threads with a store of their own, and the end that one brings to all."""

import re
import threading

import numpy as np
import pytest
from host_threads import group_of, together
from jax.errors import JaxRuntimeError

from ti_flax.config.options import HostOptions
from ti_flax.console.interrupt import Interrupt
from ti_flax.errors import ConfigError, OutputError, Stopped, TiFlaxError
from ti_flax.hosts import group as hosts
from ti_flax.hosts.group import Group
from ti_flax.monitoring.host_agreement import AgreeOnState, check_state
from ti_flax.training.state import TrainState


def test_all_know_what_all_brought_and_what_was_read_goes():
    group = group_of(3)
    for attempt in range(3):
        values = [[host, attempt] for host in range(3)]
        assert together(group, lambda host: host.meet("here", [host.index, attempt])) == [values] * 3  # noqa: B023
    written = [key for key in group[0].store if key.startswith("ti_flax/meeting/")]
    assert sorted(written) == [f"ti_flax/meeting/3/{host}" for host in range(3)]


def test_a_second_run_of_the_same_processes_goes_on_in_the_same_store():
    group = group_of(2)
    for run in range(2):
        again = [Group(group[0].store, host, 2, 20) for host in range(2)]
        assert together(again, lambda host: hosts.from_first("seed", (run, host.index))) == [[run, 0]] * 2  # noqa: B023


def test_those_that_never_come_are_named_and_the_first_may_be_late(monkeypatch):
    group = group_of(4, timeout=0.1)
    for error in together([group[0], group[2]], lambda host: host.meet("here")):
        assert isinstance(error, TimeoutError)
        assert str(error).startswith("host 1, 3 did not come to 'here' within 0 s of host ")

    first, second = group_of(2, timeout=0.1)
    later = threading.Timer(0.5, first.meet, ["here", "late"])
    later.start()
    assert second.meet("here") == ["late", None]
    later.join()


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (OutputError("disk", found="full"), TiFlaxError, "host 1: disk: found full"),
        (Stopped("SIGTERM: stopped"), Stopped, "host 1: SIGTERM: stopped"),
        (KeyboardInterrupt(), KeyboardInterrupt, "host 1: KeyboardInterrupt"),
        (ValueError("no memory\nand more"), RuntimeError, "host 1: ValueError: no memory"),
    ],
)
def test_what_ends_one_host_ends_the_others_before_those_that_are_late_have_come(error, kind, text):
    first, second, _ = group_of(3)
    second.tell(error)
    with pytest.raises(kind) as told:
        first.meet("here")
    assert (type(told.value), str(told.value)) == (kind, text)


def test_hosts_that_are_in_different_places_end():
    errors = together(group_of(2), lambda host: host.meet(f"place {host.index}"))
    assert [type(error) for error in errors] == [RuntimeError] * 2
    assert str(errors[0]) == "host 1 is at 'place 1', host 0 at 'place 0'"


def test_a_host_that_differs_is_named_on_all():
    here = [{"jax": "1.0", "rate": "0.1"}, {"jax": "1.1", "rate": "0.1"}, {"rate": "0.1", "seed": "3"}]
    errors = together(group_of(3), lambda host: hosts.check_same("multi_host", here[host.index]))
    assert [type(error) for error in errors] == [ConfigError] * 3
    assert {str(error) for error in errors} == {
        "multi_host: expected the same on all hosts, found jax 1.1 (host 0: 1.0) on host 1; "
        "jax missing (host 0: 1.0) on host 2; seed 3 (host 0: missing) on host 2"
    }
    assert together(group_of(3), lambda host: hosts.check_same("it", here[0])) == [None] * 3


def test_all_make_the_first_ones_updates_until_any_is_asked_to_end():
    group = group_of(3)
    assert together(group, lambda host: hosts.agree_on_steps(5 + host.index, False)) == [5] * 3
    assert together(group, lambda host: hosts.agree_on_steps(5, host.index == 2)) == [None] * 3
    assert (hosts.agree_on_steps(5, False), hosts.agree_on_steps(5, True)) == (5, None)  # alone


def state_of(value):
    return TrainState(np.full((1, 4), value, np.float32), (np.zeros(3, np.float32),), np.int32(4), None)


def test_no_checkpoint_is_made_of_a_state_that_differs_and_the_host_is_named():
    def reached(step, values):
        hook = AgreeOnState(every=2, last_step=9)
        return together(group_of(3), lambda host: hook.on_step(step, state_of(values[host.index])))

    assert reached(4, [1.0, 1.0, 1.0]) == [None] * 3
    for error in reached(4, [1.0, 1.0, 2.0]):
        assert isinstance(error, ConfigError)
        assert re.match(
            r"the state after step 4: .* found vectors \w+ \(host 0: \w+\) on host 2$", str(error)
        )
    assert reached(3, [1.0, 1.0, 2.0]) == [None] * 3  # where the first host's evaluation has ended the run
    states = [state_of(1.0), state_of(2.0)]
    errors = together(group_of(2), lambda host: check_state(5, states[host.index]))
    assert [type(error) for error in errors] == [ConfigError] * 2


@pytest.fixture
def ways_to_end(monkeypatch):
    """What this process was about to do, in order."""
    done = []
    monkeypatch.setattr(hosts.jax.distributed, "shutdown", lambda: done.append("wait for the others"))
    monkeypatch.setattr(hosts.os, "_exit", done.append)
    return done


@pytest.mark.parametrize(
    ("error", "done"),
    [
        (OutputError("disk", found="full"), []),
        (Stopped("SIGTERM: stopped"), ["wait for the others"]),
        (KeyboardInterrupt(), ["wait for the others"]),
    ],
)
def test_the_others_are_told_what_ends_a_host(ways_to_end, error, done):
    first, second = group_of(2)
    with pytest.raises(type(error)) as raised, hosts._ending_all(second, Interrupt()):
        raise error
    assert raised.value is error and ways_to_end == done
    with pytest.raises(BaseException, match="^host 1: "):
        first.meet("here")


def test_an_unforeseen_error_shows_its_traceback_and_waits_for_nobody(ways_to_end, capsys):
    first, second = group_of(2)
    with hosts._ending_all(second, None):
        raise RuntimeError("out of memory")
    assert ways_to_end == [1]
    assert capsys.readouterr().err.endswith("RuntimeError: out of memory\n")
    with pytest.raises(RuntimeError, match="^host 1: RuntimeError: out of memory"):
        first.meet("here")


def test_a_host_ends_by_its_own_error_where_the_store_is_gone(ways_to_end):
    (alone,) = group_of(1)

    def gone(*arguments):
        raise JaxRuntimeError("UNAVAILABLE: failed to connect")

    alone.store.key_value_increment = gone
    with pytest.raises(OutputError, match="full"), hosts._ending_all(alone, None):
        raise OutputError("disk", found="full")


def test_no_signal_cuts_short_the_wait_for_the_others(monkeypatch):
    phases = []
    with Interrupt() as interrupt:
        monkeypatch.setattr(hosts.jax.distributed, "shutdown", lambda: phases.append(interrupt._phase.name))
        with pytest.raises(Stopped), hosts._ending_all(group_of(2)[1], interrupt):
            raise Stopped("SIGTERM")
    assert phases == ["UNBROKEN"]


def test_jax_gets_the_place_and_the_time_limits(monkeypatch):
    given = []
    monkeypatch.setattr(
        hosts.jax.distributed, "initialize", lambda *place, **limits: given.append((place, limits))
    )
    monkeypatch.setattr(hosts.jax.config, "update", lambda name, value: given.append((name, value)))
    options = {"coordinator_address": "a:1", "num_processes": 4, "process_id": 3, "host_timeout": 7}
    hosts._start_jax(HostOptions(multi_host=True, **options))
    limits = {"initialization_timeout": 7, "heartbeat_timeout_seconds": 60, "shutdown_timeout_seconds": 70}
    assert given == [("jax_enable_preemption_service", False), (("a:1", 4, 3), limits)]


def test_hosts_that_cannot_be_found_are_an_error(monkeypatch):
    def initialize(*place, **limits):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(hosts.jax.config, "update", lambda *arguments: None)
    monkeypatch.setattr(hosts.jax.distributed, "initialize", initialize)
    message = (
        "multi_host: expected a TPU slice, SLURM.*found coordinator_address should be defined. Elsewhere"
    )
    with pytest.raises(ConfigError, match=message):
        hosts._start_jax(HostOptions(multi_host=True))


@pytest.mark.parametrize("options", [{}, {"multi_host": True, "num_processes": 1}])
def test_one_process_alone_starts_none_of_it(monkeypatch, options):
    monkeypatch.setattr(hosts.jax.distributed, "initialize", lambda *place, **limits: 1 / 0)
    with hosts.joined(HostOptions(**options), {"jax": "1.0"}):
        hosts.check_same("it", {"jax": "1.0"})
        assert hosts.from_first("it", 3) == 3
        assert hosts.agree("it", [3]) == [3]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_NTASKS": "4"}, None),  # of a batch script, which is one process
        ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM has started 4 processes"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI has started 2 processes"),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c"}, "this TPU slice has 3 hosts"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_a_process_among_others_is_known(variables, words):
    assert hosts.seems_one_of_several(variables) == words


def test_a_process_among_others_that_nobody_told_so_warns(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with hosts.joined(HostOptions(), {}):
        pass
    assert "warning: SLURM has started 4 processes, and this one runs alone" in capsys.readouterr().err
