"""Who reaches the page: other machines with the password, and a public link that cannot be made."""

import re
import socket
import subprocess

import httpx
import pytest
from web_pages import work_in

from ti_flax.web import server
from ti_flax.web.runs.processes import command, environment

pytest.importorskip("gradio", reason="the page needs gradio")


class Sharing:
    """A page whose makers' servers give no link, as Gradio says it."""

    def __init__(self, printed):
        self.printed = printed

    def launch(self, **told):
        print(self.printed)
        return None, "http://127.0.0.1:1/", None if self.printed else "https://x.example"


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("\nCould not create share link. Missing file: /x/frpc. \n\n1. Download", "could not be downloaded"),
        ("\nCould not create share link. Please check", "the servers of Gradio's makers did not make one"),
    ],
)
def test_a_link_that_cannot_be_made_is_said_in_a_line(work, monkeypatch, capsys, printed, reason):
    from ti_flax.web import events

    monkeypatch.setattr(events, "blocks_of", lambda work: Sharing(printed))
    serving = server.Serving("127.0.0.1", 1, share=True, password="a long password")
    _, address, shared = server.launched(work, serving)
    out, said = capsys.readouterr()
    assert address == "http://127.0.0.1:1/" and shared is None and out == ""
    assert said.startswith("warning: --share: there is no public link") and reason in said
    assert said.count("\n") == 1


def other_address():
    """An address of this machine that is not the loopback's; none is asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
        try:
            tried.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return tried.getsockname()[0]


@pytest.mark.slow
def test_with_host_others_come_in_with_the_password_that_is_printed(tmp_path):
    work_in(tmp_path / "work")
    with socket.socket() as tried:
        tried.bind(("0.0.0.0", 0))
        port = tried.getsockname()[1]
    told = ["web", "--host=0.0.0.0", f"--port={port}", f"--work_dir={tmp_path / 'work'}"]
    with subprocess.Popen(command(told), stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            process.stdout.readline()
            password = re.fullmatch(r"password: (\S{16})\n", process.stdout.readline())[1]
            with httpx.Client(base_url=f"http://{other_address()}:{port}", timeout=60) as client:
                for given, code in (("wrong", 400), ("", 422), (password, 200)):
                    assert client.get("/config").status_code == 401
                    answer = client.post("/login", data={"username": "me", "password": given})
                    assert answer.status_code == code
                assert client.get("/config").status_code == 200
        finally:
            process.kill()
