"""The page's server under attack by real requests: nothing outside is reached, and no other page acts on it.

One server for all of them, in a process of its own.
"""

import contextlib
import io
import json
import os
import urllib.parse
import uuid

import httpx
import pytest
from PIL import Image
from web_pages import served, work_in

pytest.importorskip("gradio", reason="the page needs gradio")

PASSWORD = "a long password"
OTHER_PAGE = "http://evil.example"
HTML = '<img src=x onerror="document.title=1">'
MOST = 4000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "secret.txt").write_text("nobody may read this")
    return folder


@pytest.fixture(scope="module")
def address(place):
    work_in(place / "work")
    limits = {"largest_file": MOST, "largest_upload": 3 * MOST, "pixels": 1000}
    with served(place / "work", password=PASSWORD, **limits) as (found, process):
        yield found
        process.kill()
        assert process.stdout.read() == ""  # it has called nobody


@pytest.fixture(scope="module")
def stranger(address):
    with httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def known(address):
    """A browser that has given the password."""
    with httpx.Client(base_url=address, timeout=30) as client:
        answer = client.post("/login", data={"username": "me", "password": PASSWORD})
        assert answer.status_code == 200
        yield client


def upload(client, *files, **headers):
    sent = [("files", (name, content)) for name, content in files]
    return client.post("/gradio_api/upload", files=sent, headers=headers)


def call(client, number, *data):
    """What an event of the page answers, by its number among the dependencies."""
    session = uuid.uuid4().hex
    given = {"data": data, "fn_index": number, "session_hash": session}
    assert client.post("/gradio_api/queue/join", json=given).status_code == 200
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
        for line in lines.iter_lines():
            if "process_completed" in line:
                return json.loads(line.removeprefix("data: "))["output"]
    raise AssertionError("no answer")


def event(client, name):
    """The number of the event that a method of `Events` answers."""
    found = client.get("/config").json()["dependencies"]
    return next(each["id"] for each in found if each["api_name"] == name)


def png(size=(20, 20)):
    content = io.BytesIO()
    Image.new("RGB", size, 90).save(content, "PNG")
    return content.getvalue()


def test_without_the_password_nothing_is_reached(stranger):
    for path in ("/config", "/gradio_api/file=/etc/passwd", "/gradio_api/queue/data?session_hash=x"):
        assert stranger.get(path).status_code == 401
    assert upload(stranger, ("a.png", png())).status_code == 401
    joined = stranger.post("/gradio_api/queue/join", json={"data": [], "fn_index": 0, "session_hash": "x"})
    assert joined.status_code == 401
    for password in ("", "wrong", PASSWORD.upper(), f"{PASSWORD} ", "\u00fc"):
        given = {"username": "me", "password": password}
        assert stranger.post("/login", data=given).status_code in (400, 422), password
    assert stranger.get("/config").status_code == 401


def test_only_this_machines_names_lead_to_the_page(known):
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:80@127.0.0.1",
        "",
        "localhost.",
        "x y",
    ):
        answer = known.get("/", headers={"Host": host})
        assert answer.status_code in (400, 403) and "<html" not in answer.text
    assert known.get("/", headers={"Host": "localhost:1"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": OTHER_PAGE},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://localhost"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_another_page_posts_nothing(known, place, headers):
    before = sorted((place / "work").rglob("*"))
    joined = {"data": [], "fn_index": 0, "session_hash": "x"}
    assert known.post("/gradio_api/queue/join", json=joined, headers=headers).status_code == 403
    assert upload(known, ("a.png", png()), **headers).status_code == 403
    assert (
        known.post("/login", data={"username": "x", "password": PASSWORD}, headers=headers).status_code == 403
    )
    assert sorted((place / "work").rglob("*")) == before


def test_another_page_may_lead_here_but_not_show_the_page_in_itself(known):
    answer = known.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert "access-control-allow-origin" not in answer.headers


def test_the_pages_own_requests_are_let_in(known, address):
    own = {"Origin": address, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert upload(known, ("a.png", png()), **own).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["docs", "redoc", "openapi.json", "monitoring", "gradio_api/info", "gradio_api/openapi.json"]
    + [
        "gradio_api/mcp/sse",
        "gradio_api/proxy=https://x.hf.space/",
        "gradio_api/run/predict",
        "gradio_api/vibe-code",
    ]
    + [
        "gradio_api/call/x",
        "gradio_api/component_server",
        "gradio_api/stream/x/1/2/playlist.m3u8",
        "../../etc/passwd",
    ],
)
def test_what_the_page_does_not_need_is_not_there(known, path):
    assert known.get(f"/{path}").status_code == 404
    assert known.post(f"/{path}", json={}).status_code == 404


@pytest.mark.parametrize(
    "name",
    [
        "{place}/secret.txt",
        "{place}/work/page.lock",
        "{place}/work/images/set/../../../secret.txt",
        "/etc/passwd",
    ]
    + [
        "{place}/work/temporary/../../secret.txt",
        "../secret.txt",
        "secret.txt",
        "{place}/work/temporary/link",
    ],
)
def test_no_file_is_given_that_the_page_has_not_made(known, place, name):
    link = place / "work" / "temporary" / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(place / "secret.txt")
    for quoted in (name.format(place=place), urllib.parse.quote(name.format(place=place), safe="")):
        answer = known.get(f"/gradio_api/file={quoted}")
        assert answer.status_code in (403, 404) and "nobody" not in answer.text


def test_names_of_uploads_lead_nowhere(known, place):
    names = [
        "../../../evil.png",
        "/tmp/evil.png",
        "..\\evil.png",
        "a/../../evil.png",
        ".evil",
        "%2e%2e%2fevil.png",
    ]
    for name in names:
        answer = upload(known, (name, png()))
        for kept in answer.json() if answer.status_code == 200 else ():
            assert os.path.realpath(kept).startswith(f"{place}/work/temporary/")
    assert not [path for path in place.rglob("*evil*") if not path.is_relative_to(place / "work/temporary")]


def test_uploads_have_a_limit_each_and_together(known, stranger):
    assert upload(known, ("large.png", bytes(MOST + 1))).status_code == 413
    several = [(f"{number}.png", bytes(MOST - 100)) for number in range(4)]
    assert upload(known, *several).status_code == 413

    def endless():  # begins as an upload does, so that nothing but its length can be refused
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(100):
            yield bytes(MOST)

    kind = {"Content-Type": "multipart/form-data; boundary=x"}  # and no length
    with contextlib.suppress(httpx.WriteError):  # the answer may come before all is sent
        assert known.post("/gradio_api/upload", content=endless(), headers=kind).status_code == 413


def test_images_are_decoded_before_they_are_kept_and_bombs_are_not(known, place):
    sent = upload(
        known, ("bomb.png", png((60, 60))), ("page<b>.png", HTML.encode()), ("ok.png", png())
    ).json()
    files = [{"path": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}} for path in sent]
    answer = json.dumps(call(known, event(known, "take"), files))
    assert "a larger image" in answer and "cannot be decoded" in answer and "<b>" not in answer
    kept = [path.name for path in (place / "work" / "images").glob("set-*/*")]
    assert kept == ["001.png"]


def test_an_upload_that_was_none_is_not_taken(known, place):
    files = [{"path": str(place / "secret.txt"), "meta": {"_type": "gradio.FileData"}}]
    answer = json.dumps(call(known, event(known, "take"), files))
    assert "nobody" not in answer


@pytest.mark.parametrize("text", ["../..", "/etc", "/etc/passwd", "work/../..", "owner/../../.."])
def test_neither_the_model_nor_the_images_reach_outside(known, text):
    for given in ((text, "images/set"), ("the demo's model", text)):
        answer = json.dumps(call(known, event(known, "start"), *filled(*given)))
        assert "expected a place in the work folder" in answer or "expected a folder of images" in answer
        assert "<img" not in answer and 'onerror=\\"' not in answer


def filled(model, images):
    """The values of the form's fields, in their order."""
    chosen = ["1", "object", "quick", *[""] * 8]
    return [model, images, HTML, HTML, *chosen, HTML, False, "squeezed", True, False, ""]


def test_html_in_words_and_captions_stays_text(known, place):
    answer = json.dumps(call(known, event(known, "look_at_word"), "the demo's model", HTML, HTML, "1"))
    assert "&lt;img" in answer and "<img" not in answer
    [image] = [path.name for path in (place / "work" / "images" / "set").glob("*.png")][:1]
    table = {"data": [[image, HTML]], "headers": ["image", "caption"], "metadata": None}
    call(known, event(known, "write_captions"), "images/set", table)
    assert (place / "work" / "images" / "set" / image).with_suffix(".txt").read_text() == f"{HTML}\n"
    config = known.get("/config").json()
    [captions] = [each for each in config["components"] if each["props"].get("elem_id") == "captions"]
    assert captions["props"]["datatype"] == "str"
