"""The server of a live page: who may ask, what is answered, and on which port."""

import http.client
import socket
import threading

import pytest

from ti_flax.errors import OutputError
from ti_flax.monitoring.watch import server as watch_server
from ti_flax.monitoring.watch.pages import Answer
from ti_flax.monitoring.watch.server import Server


def answer(target):
    if target == "/":
        return Answer(b"<p>page</p>")
    if target == "/a.png":
        return Answer(b"png", "image/png")
    if target == "/lasting.png":
        return Answer(b"png", "image/png", lasting=True)
    if target == "/known.png":
        return Answer(b"png", "image/png", lasting=True, digest="0123")
    if target == "/bad":
        raise ValueError("no address")
    return Answer(b"nothing", found=False)


@pytest.fixture
def server():
    with Server(answer, 0) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server, target="/", method="GET", host="127.0.0.1", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for value in host if isinstance(host, list) else [host]:
        if value is not None:
            connection.putheader("Host", value)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.server_address[1]}/"


def test_a_page_and_its_headers(server):
    response, content = ask(server)
    assert response.status == 200 and content == b"<p>page</p>"
    headers = {name.lower(): value for name, value in response.getheaders()}
    assert headers["content-type"] == "text/html; charset=utf-8" and headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer" and "python" not in headers["server"].lower()


def test_an_image_is_sent_again_only_if_it_has_changed(server):
    response, content = ask(server, "/a.png")
    assert response.status == 200 and content == b"png" and response.getheader("Content-Type") == "image/png"
    assert response.getheader("Cache-Control") == "no-cache"
    again, content = ask(server, "/a.png", If_None_Match=response.getheader("ETag"))
    assert again.status == 304 and content == b""
    lasting, _ = ask(server, "/lasting.png")
    assert "immutable" in lasting.getheader("Cache-Control")


def test_what_is_not_there(server):
    assert ask(server, "/other")[0].status == 404
    assert ask(server, "/bad")[0].status == 400


def test_head_has_no_content_and_nothing_can_be_sent(server):
    response, content = ask(server, method="HEAD")
    assert response.status == 200 and content == b"" and response.getheader("Content-Length") == "11"
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, method=method)[0].status == 501


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9", "localhost", "LOCALHOST:8765", "[::1]", "[::1]:80"]
)
def test_names_of_this_machine(server, host):
    assert ask(server, host=host)[0].status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8765", "evil.example:127.0.0.1"),
        *("", None, "127.0.0.1:", "127.0.0.1:x", "0.0.0.0", "[::]", "127.0.0.1@evil.example", "127.0.0.11"),
        ["127.0.0.1", "evil.example"],
    ],
)
@pytest.mark.parametrize("target", ["/", "/a.png", "/other"])
def test_other_names_are_refused(server, host, target):
    response, content = ask(server, target, host=host)
    assert response.status == 403 and b"page" in content and b"<p>" not in content and b"png" not in content


def test_many_ask_at_once_and_one_that_is_silent_holds_up_nobody(server):
    with socket.create_connection(server.server_address) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\n")
        assert [ask(server)[0].status for _ in range(5)] == [200] * 5


def test_a_browser_that_goes_away_is_not_told_of(server, capfd):
    for _ in range(5):
        with socket.create_connection(server.server_address) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            gone.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert ask(server)[0].status == 200
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken(server, monkeypatch):
    port = server.server_address[1]
    with pytest.raises(
        OutputError, match=f"--port {port}: expected a port that is free, found address already"
    ):
        Server(answer, port)
    monkeypatch.setattr(watch_server, "PORT", port)
    with Server(answer, None) as other:
        assert other.server_address[1] not in (0, port)


def test_the_digest_of_an_image_is_not_computed_again(server):
    response, _ = ask(server, "/known.png")
    assert response.getheader("ETag") == '"0123"'
    assert ask(server, "/known.png", If_None_Match='"0123"')[0].status == 304
