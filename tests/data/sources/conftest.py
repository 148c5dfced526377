"""A web site on loopback."""

import http.server
import threading

import pytest
from link_site import Site


@pytest.fixture
def site(monkeypatch, tmp_path):
    monkeypatch.setenv("TI_FLAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.asked, server.stopped = [], threading.Event()
    server.handle_error = lambda *_: None  # connections that the client cuts short
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    thread.join()
    server.server_close()
