"""`ti-flax web`: who may come in, and what it says before it serves anything."""

import importlib.util
import socket

import pytest

from ti_flax.commands import web
from ti_flax.errors import OutputError
from ti_flax.web.server import Door, is_loopback


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the page would be served with, in place of serving it."""
    found = []

    def serve(options, password):
        found.append((options, password))
        raise KeyboardInterrupt

    monkeypatch.setattr(web, "_serve", serve)
    return found


def test_without_gradio_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert web.main([]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and 'Install it: pip install "ti_flax[web]".' in said


@pytest.mark.parametrize(
    "flags", [["--share"], ["--host", "0.0.0.0"], ["--host", "::"], ["--host", "192.168.0.7"]]
)
def test_whoever_comes_from_elsewhere_needs_a_password(asked, flags):
    assert web.main(flags) == web.main(flags) == 0
    passwords = [password for _, password in asked]
    assert all(len(each) >= 16 for each in passwords) and passwords[0] != passwords[1]
    assert web.main([*flags, "--password", "a longer one"]) == 0 and asked[-1][1] == "a longer one"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_needs_none(asked, host):
    assert web.main(["--host", host]) == 0 and asked[0][1] is None and is_loopback(host)
    assert web.main(["--password", "a longer one"]) == 0 and asked[1][1] == "a longer one"


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["--password", "short"], "--password: expected 8 signs or more, found 5"),
        (["--host", "192.0.2.1"], "expected an address of this machine"),
        (["--allow", "/none"], "--allow: expected a folder, found /none"),
        (["--work_dir", "/dev/null/x"], "expected a folder that can be written"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_line(flags, found, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    assert web.main(["--port", str(port), *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and found in said and said.count("\n") == 1


def test_a_port_that_is_taken_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert web.main(["--port", str(port)]) == 2
    assert "found address already in use. Choose another, such as --port 7861." in capsys.readouterr().err
    for wrong in ("0", "65536", "x"):
        assert web.main([f"--port={wrong}"]) == 2
        assert capsys.readouterr().err.startswith("error: --port: ")


def test_a_work_folder_has_one_page(tmp_path):
    refused = pytest.raises(OutputError, match="expected a folder without another page")
    with web._only_page(tmp_path), refused:
        web._only_page(tmp_path).__enter__()
    with web._only_page(tmp_path):
        pass


@pytest.mark.parametrize(
    ("host", "anywhere", "code"),
    [
        ("127.0.0.1:7860", False, None),
        ("[::1]:7860", False, None),
        ("LOCALHOST", False, None),
        ("evil.example", False, 403),
        ("evil.example", True, None),
        ("evil.example@127.0.0.1", True, 403),
        ("", True, 403),
    ],
)
def test_the_names_that_the_page_goes_by(host, anywhere, code):
    scope = {"headers": [(b"host", host.encode())], "path": "/", "method": "GET"}
    refusal = Door(any_host=anywhere).refusal(scope)
    assert (refusal and refusal[0]) == code
    twice = {**scope, "headers": scope["headers"] * 2}
    assert Door(any_host=anywhere).refusal(twice) is not None
