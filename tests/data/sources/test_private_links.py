"""Links to this machine and its network are refused, and no message repeats what a server says."""

import gzip
import itertools
import json
import socket
import threading
import time

import pytest
from link_site import Site, fetch, png
from PIL import Image
from tiny_run import configure

from ti_flax.commands import prepare as prepare_images
from ti_flax.data.images.load import load_images
from ti_flax.data.sources import addresses
from ti_flax.data.sources.addresses import is_public
from ti_flax.data.sources.links import Limits, Spent, fetch_image, kept_file
from ti_flax.data.training_images import read_class_images, read_images
from ti_flax.errors import DataError

WRONG = "expected a link, found one, or a redirect, that is written wrongly. Check the link."
REFUSED = (
    "which belongs to this machine, its network or a special use. Download it by hand, or take the link out."
)


def refused(call, *arguments, **options):
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value) and "sesame" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def talking():
    """A server that answers the next connection with the bytes that a test puts into its list."""
    listening = socket.create_server(("127.0.0.1", 0))
    answers, stopped = [], threading.Event()

    def serve():
        with listening.accept()[0] as connection:
            connection.recv(2**16)
            for part in answers[0] if isinstance(answers[0], list) else [answers[0]]:
                connection.sendall(part)
                if stopped.wait(0.02):
                    return

    thread = threading.Thread(target=lambda: _quietly(serve))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/a.png", answers
    stopped.set()
    listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    listening.close()


def _quietly(serve):
    try:
        serve()
    except OSError:  # the client is gone, or never came
        return


PUBLIC = (
    "8.8.8.8",
    "1.1.1.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
)
OTHERS = """
    127.0.0.1 127.9.9.9 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1
    239.255.255.255 240.0.0.1 255.255.255.255 192.0.0.8 198.18.0.1 ::1 :: ::7f00:1 ::ffff:127.0.0.1
    ::ffff:a9fe:a9fe fe80::1 fe80::1%eth0 fc00::1 fd12::1 fec0::1 ff02::1 64:ff9b::7f00:1 64:ff9b:1::1
    2002:7f00:1:: 2002:a00:1::1 2001:0:7f00:1:: 2001:db8::1
"""


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize("address", OTHERS.split())
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]"]
    + ["\u2460\u2461\u2466.\u24ea.\u24ea.\u2460"],
)
def test_this_machine_is_not_asked_however_it_is_written(site, host):
    link = f"http://{host}:{site.server_port}/ok.png"
    said = refused(fetch_image, link, where=link)
    # Some are no link to the library, and then nothing is looked up.
    assert f"{REFUSED} If you trust it, set allow_private_links." in said or WRONG in said
    assert site.asked == [] and not kept_file(link).exists()


def test_the_line_of_a_refusal(site):
    link = f"{site.url}/ok.png"
    assert refused(fetch_image, link, where=link) == (
        f"{link}: expected a link to a public address, found 127.0.0.1, which belongs to this machine, its "
        "network or a special use. Download it by hand, or take the link out. If you trust it, set "
        "allow_private_links."
    )


def test_a_redirect_is_checked_as_a_link_is(site, monkeypatch):
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(
        Site, "answer_inside", lambda self, _: self.redirect("http://127.0.0.2/?open=sesame"), raising=False
    )
    link = f"{site.url}/inside"
    assert "found 127.0.0.2, which belongs" in refused(fetch_image, link, where=link)
    link = f"{site.url}/ok.png"
    assert fetch_image(link, where=link) == str(kept_file(link))


def test_a_name_is_looked_up_once_and_the_address_that_was_checked_is_connected_to(site, monkeypatch):
    looked_up, connected = [], []
    answers = itertools.chain(["8.8.8.8"], itertools.repeat("127.0.0.1"))

    def look_up(host, port, *_, **__):
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(address, *_, **__):
        connected.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", connect)
    link = "http://rebound.example/ok.png"
    assert "found no connection (Connection refused)" in refused(fetch_image, link, where=link)
    assert (looked_up, connected) == (["rebound.example"], [("8.8.8.8", 80)])


def test_one_private_address_among_others_is_enough(monkeypatch):
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 80)) for each in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert "found 10.0.0.1, which" in refused(fetch_image, "http://x.example/a", where="here")


@pytest.mark.parametrize("proxied", ["http_proxy", "https_proxy"])
def test_a_proxy_of_the_network_is_used_but_not_for_the_network(site, monkeypatch, proxied):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv(proxied, site.url.removeprefix("http://"))
    scheme = proxied.partition("_")[0]
    assert "found 10.0.0.1, which" in refused(fetch_image, f"{scheme}://10.0.0.1/ok.png", where="here")
    assert site.asked == []
    link = f"{scheme}://8.8.8.8/ok.png"
    if scheme == "http":
        monkeypatch.setattr(Site, "answer_http:", Site.answer_ok, raising=False)
        assert fetch_image(link, where=link) == str(kept_file(link))
        assert site.asked == [link]
    else:  # the server refuses to make a tunnel, with a reason of its own
        said = refused(fetch_image, link, where=link)
        assert said.startswith(f"{link}: expected an image, found no proper answer (ProxyError).")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-open sesame\r\n", "found no proper answer (RemoteProtocolError)"),
        (b"-ERR open sesame\r\n", "found no proper answer (RemoteProtocolError)"),
        (b"HTTP/1.1 200 OK\r\nopen sesame\r\n\r\n", "found no proper answer (RemoteProtocolError)"),
        (b"HTTP/1.1 503 open sesame\r\nContent-Length: 0\r\n\r\n", "found HTTP status 503. Download"),
        (b"HTTP/1.1 302 A\r\nLocation: sesame://x/\r\n\r\n", "found a redirect to another kind of link"),
        (b"HTTP/1.1 302 A\r\nLocation: http://me:sesame@x/\r\n\r\n", "found a redirect to one with them"),
        (b"HTTP/1.1 302 A\r\nLocation: http://[sesame/\r\n\r\n", "found"),
        (
            b"HTTP/1.1 200 A\r\nContent-Type: open sesame/x\r\nContent-Length: 1\r\n\r\nx",
            "(no media type, 1 by",
        ),
        (
            b"HTTP/1.1 200 A\r\nContent-Type: text/html\r\nContent-Length: 32\r\n\r\n"
            b"<title>open sesame</title>      ",
            "found an HTML page (text/html, 32 bytes)",
        ),
        (b"HTTP/1.1 200 A\r\nContent-Length: open sesame\r\n\r\nx", "found no proper answer"),
    ],
)
def test_nothing_that_a_server_says_is_repeated(talking, site, answer, words):
    link, answers = talking
    answers.append(answer)
    assert words in refused(fetch, link)


def test_a_header_that_never_ends_and_comes_slowly(talking, site):
    link, answers = talking
    answers.append([b"HTTP/1.1 200 A\r\n", *(b"X-%d: sesame\r\n" % number for number in range(1000))])
    began = time.monotonic()
    said = refused(fetch, link, limits=Limits(silence=5, whole=0.4))
    assert said.startswith(f"{link}: expected an image within 0.4 s, found 0 bytes by then.")
    assert time.monotonic() - began < 2


def test_what_the_server_has_packed_is_not_unpacked(talking, site):
    link, answers = talking
    packed = gzip.compress(bytes(10**6))
    head = b"HTTP/1.1 200 A\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    answers.append(head + packed)
    assert "expected an image as it is, found one that the server has packed" in refused(fetch, link)


def test_no_password_of_the_user_goes_along(site, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password sesame\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    headers = []
    monkeypatch.setattr(
        Site,
        "answer_heard",
        lambda self, _: (headers.append(dict(self.headers)), self.answer_ok(_)),
        raising=False,
    )
    fetch(f"{site.url}/heard")
    assert {name.lower() for name in headers[0]} <= {
        "host",
        "accept",
        "accept-encoding",
        "connection",
        "user-agent",
    }
    assert headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (Limits(all_links=2), "2 links"),
        (Limits(all_bytes=len(png(7)) + 1), f"{len(png(7)) + 1} bytes"),
        (Limits(all_seconds=1e-9), "1e-09 s"),
    ],
)
def test_all_links_together_have_limits(site, limits, most):
    spent = Spent()
    links = [f"{site.url}/ok/{number}.png" for number in range(9)]
    fetch(links[0], limits=limits, spent=spent)
    if limits.all_seconds > 1:
        fetch(links[1], limits=limits, spent=spent)
    said = refused(fetch, links[2], limits=limits, spent=spent)
    assert said == (
        f"{links[2]}: expected at most {most} for all links together, found more. "
        "Start again, as downloaded ones are kept, or download the rest by hand."
    )
    assert fetch(links[0], limits=limits, spent=spent) == str(kept_file(links[0]))  # kept ones cost nothing


# Every place where a link is followed asks for the option.


@pytest.fixture
def sources(site, tmp_path):
    """A link in every place that can hold one."""
    datasets = pytest.importorskip("datasets")
    links = [f"{site.url}/ok/{number}.png" for number in range(9)]
    (tmp_path / "list.txt").write_text(links[1])
    (tmp_path / "table.jsonl").write_text(json.dumps({"file_name": links[2]}))
    datasets.Dataset.from_dict({"image": [links[3]]}).to_parquet(tmp_path / "rows.parquet")
    return [links[0], *(str(tmp_path / name) for name in ("list.txt", "table.jsonl", "rows.parquet"))]


def test_every_source_refuses_and_allows(site, sources):
    for source in sources:
        assert REFUSED in refused(load_images, source, resolution=8)
    assert site.asked == []
    loaded = load_images(sources, resolution=8, allow_private_links=True)
    assert loaded.names == ("ok/0.png".partition("/")[2], "1.png", "2.png", "3.png")
    assert len(site.asked) == 4


def test_the_option_of_a_run(site, sources, tmp_path):
    changes = {"train_data_dir": sources, "class_data_dir": sources[1], "class_prompt": "a <thing>"}
    config = configure(tmp_path, tmp_path / "out", **changes)
    assert REFUSED in refused(read_images, config.images, "none")
    allowed = config.replace(allow_private_links=True)
    images = read_images(allowed.images, "none")
    kept_file(f"{site.url}/ok/1.png").unlink()
    said = refused(read_class_images, sources[1], config.images, images)
    assert REFUSED in said
    found = read_class_images(sources[1], allowed.images, images)
    assert found is not None and found.names == ("1.png",)


def test_the_flag_of_prepare_images(site, tmp_path):
    given = ["--train_data_dir", f"{site.url}/ok.png", "--output_dir", str(tmp_path / "out"), "--size", "8"]
    assert REFUSED in refused(prepare_images.run, prepare_images.parse_arguments(given))
    prepare_images.run(prepare_images.parse_arguments([*given, "--allow_private_links"]))
    with Image.open(tmp_path / "out" / "ok.png") as written:
        assert written.size == (8, 8)
