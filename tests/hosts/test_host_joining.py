"""How hosts find one another: the place that flags or the environment name, and who is let in."""

import socket
import threading
import time

import pytest

from ti_flax.config.options import HostOptions
from ti_flax.errors import ConfigError, TiFlaxError
from ti_flax.hosts.joining import Place, find_place, join, seems_one_of_several

SAME = {"learning_rate": "0.01", "jax": "1.0"}
SLURM = {
    "SLURM_JOB_ID": "70000",
    "SLURM_STEP_NODELIST": "node[003-006],other1",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


@pytest.fixture
def nowhere(monkeypatch):
    for name in (*SLURM, *OPEN_MPI, "KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_flags_name_the_place(nowhere):
    options = HostOptions(multi_host=True, coordinator_address="[::1]:1234", num_processes=4, process_id=3)
    assert find_place(options) == Place("::1", 1234, 4, 3)


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        (SLURM, ("node003", 61440 + 70000 % 4096, 5, 4)),
        (OPEN_MPI, ("10.96.0.1", 61440 + 1531576320 // 4096 % 4096, 3, 2)),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "far.away:99"}, ("far.away", 99, 5, 4)),
    ],
)
def test_the_environment_names_the_place(nowhere, variables, place):
    for name, value in variables.items():
        nowhere.setenv(name, value)
    assert find_place(HostOptions(multi_host=True)) == Place(*place)


def test_an_environment_that_names_none_is_an_error(nowhere):
    with pytest.raises(ConfigError, match="multi_host: expected a TPU slice, SLURM.*found none of them"):
        find_place(HostOptions(multi_host=True))
    nowhere.setenv("OMPI_MCA_orte_hnp_uri", "nonsense")
    with pytest.raises(ConfigError, match="multi_host: .* coordinator_address, num_processes and process_id"):
        find_place(HostOptions(multi_host=True))


@pytest.mark.parametrize("address", ["host", "host:", ":12", "host:many", "host:70000"])
def test_an_address_has_a_host_and_a_port(nowhere, address):
    options = HostOptions(multi_host=True, coordinator_address=address, num_processes=2, process_id=0)
    with pytest.raises(ConfigError, match="coordinator_address: expected HOST:PORT"):
        find_place(options)


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
    assert seems_one_of_several(variables) == words


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def outcomes(*hosts, timeout=10):
    """What joining gives to each (number, count, what is to be the same): a line, or the error."""
    port, given = free_port(), [None] * len(hosts)

    def one(i, index, count, same):
        try:
            given[i] = join(Place("127.0.0.1", port, count, index), same, timeout=timeout, ending=None)
        except TiFlaxError as error:
            given[i] = str(error)

    threads = [threading.Thread(target=one, args=(i, *host), daemon=True) for i, host in enumerate(hosts)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(30)
    return given


def test_hosts_that_agree_get_a_line_and_one_port():
    (hub, port), *others = outcomes(*((index, 3, SAME) for index in (0, 2, 1)))
    assert [other_port for _, other_port in others] == [port, port]
    links = [hub, *(link for link, _ in others)]
    leaving = [threading.Thread(target=link.leave, daemon=True) for link in links]
    for thread in leaving:
        thread.start()
    for thread in leaving:
        thread.join(10)
    assert not any(thread.is_alive() for thread in leaving)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            (1, 2, SAME | {"jax": "1.1"}),
            "multi_host: expected the same on all hosts, found jax 1.1 (host 0: 1.0) on host 1",
        ),
        (
            (1, 2, {"learning_rate": "0.01"}),
            "multi_host: expected the same on all hosts, found jax missing (host 0: 1.0) on host 1",
        ),
        ((1, 3, SAME), "num_processes: 2 on host 0, 3 on host 1"),
        ((7, 2, SAME), "process_id: two processes say that they are host 7"),
    ],
)
def test_a_host_that_does_not_fit_is_refused_by_all(second, message):
    assert outcomes((0, 2, SAME), second) == [message, message]


def test_two_processes_with_one_number_are_refused():
    message = "process_id: two processes say that they are host 1"
    first, *others = outcomes((0, 3, SAME), (1, 3, SAME), (1, 3, SAME))
    assert first == message and message in others


def test_those_that_never_come_are_named_on_the_others():
    (first, second) = outcomes((0, 4, SAME), (2, 4, SAME), timeout=3)
    assert first == second
    assert "expected all 4 hosts within 3 s, found no sign of hosts 1 and 3." in first


def test_without_the_first_host_the_others_say_where_they_looked():
    (message,) = outcomes((1, 2, SAME), timeout=0.3)
    assert "multi_host: expected host 0 at 127.0.0.1:" in message and "found connection refused" in message


def test_strangers_are_left_alone():
    port, given = free_port(), []
    place = Place("127.0.0.1", port, 2, 0)
    waiting = threading.Thread(target=lambda: given.append(join(place, SAME, timeout=20, ending=None)))
    waiting.start()
    for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"host": 1}\n', b""):
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as stranger:
                    stranger.sendall(words)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
    member, _ = join(Place("127.0.0.1", port, 2, 1), SAME, timeout=20, ending=None)
    waiting.join(20)
    ((hub, _),) = given
    leaving = threading.Thread(target=hub.leave)
    leaving.start()
    member.leave()
    leaving.join(20)


def test_a_port_that_others_hold_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = Place("127.0.0.1", server.getsockname()[1], 2, 0)
        with pytest.raises(ConfigError, match="coordinator_address: .* found address already in use"):
            join(place, SAME, timeout=0.5, ending=None)
