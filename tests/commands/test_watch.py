"""`ti-flax watch` as people use it: its address in a line, a page, and an end by Ctrl-C."""

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from report_pages import run_folder

from ti_flax.commands import watch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C as it is where nothing ignores it, as it does in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def started(tmp_path):
    """The command in a process of its own, and the address that it says."""
    run_folder(tmp_path)
    code = "import sys; from ti_flax.commands.main import program; sys.argv[0] = 'ti-flax'; program()"
    command = [sys.executable, "-c", code, "watch", str(tmp_path), "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        yield process, line, tmp_path
        process.kill()


def test_a_page_until_ctrl_c(started):
    process, line, folder = started
    address = line.split()[1]
    assert line == f"{folder}: {address} (Ctrl-C ends it)\n" and address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address, timeout=30) as page:
        assert page.status == 200 and b"Step by step" in page.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("port", ["-1", "65536", "http", "1e3", ""])
def test_a_port_that_is_none_is_refused(tmp_path, capsys, port):
    assert watch.main([str(tmp_path), f"--port={port}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --port: expected a number from 0 to 65535, found")


def test_a_folder_that_is_no_runs_is_refused_in_a_line(tmp_path, capsys):
    assert watch.main([str(tmp_path / "none")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(
        f"error: {tmp_path}/none: expected the output folder of a run"
    )
    assert said.err.count("\n") == 1


def test_the_browser_is_opened_only_if_asked_for(tmp_path, capsys, monkeypatch):
    run_folder(tmp_path)
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    def end(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("ti_flax.monitoring.watch.server.Server.serve_forever", end)
    assert watch.main([str(tmp_path), "--port=0"]) == 0 and not opened
    assert watch.main([str(tmp_path), "--port=0", "--open"]) == 0
    addresses = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert opened == addresses[1:]
