"""What a live page answers: the page as the run goes on, its images, and nothing else of the folder."""

import json
import os
import re

import pytest
from PIL import Image
from report_pages import Balanced, evaluation, facts, previews, refresh, run_folder

from ti_flax.errors import DataError
from ti_flax.files.written_files import only_run
from ti_flax.monitoring.report.concepts import Entry, write_entries
from ti_flax.monitoring.row_statistics import write_evaluations
from ti_flax.monitoring.watch.pages import RunPages, require_run

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
def folder(tmp_path):
    """A folder that a run is at work in."""
    (tmp_path / "run").mkdir()
    with only_run(tmp_path / "run"):
        yield tmp_path / "run"


def text_of(pages, target="/"):
    answer = pages.answer(target)
    assert answer.found and answer.kind == "text/html; charset=utf-8" and not answer.lasting
    text = answer.content.decode()
    Balanced(text)
    return text


def policy(text):
    (found,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    return found


def images_of(text):
    return list(dict.fromkeys(re.findall(r'<img src="([^"]*)"', text)))


def test_a_run_from_its_beginning_to_its_end(folder):
    pages = RunPages(folder)
    text = text_of(pages)
    assert "The run has begun: it reads the model" in text and refresh(text) == 5
    facts().write(folder)
    text = text_of(pages)
    assert "the update is being compiled" in text and "&lt;toy&gt;" in text and not images_of(text)
    previews(folder, (0,))
    assert len(images_of(text_of(pages))) == 6
    (folder / "metrics.csv").write_text(
        "step,loss,learning_rate,grad_norm,samples_per_second\n50,0.1,0.1,1,80\n"
    )
    write_evaluations(folder / "signals.csv", [evaluation(0, 0.2), evaluation(50, 0.1)])
    previews(folder, (0, 50))
    text = text_of(pages)
    assert "Step 50 of 200, 0:15 left." in text and refresh(text) == 5 and "stop</a>" in text
    assert "So far step 50, the last evaluation, is the best." in text
    assert len(images_of(text)) == 12
    run_folder(folder, finished=True)
    text = text_of(pages)
    assert refresh(text) is None and "The run is finished." in text and "stop</a>" not in text
    assert "Use step 100: it is the best of 2 evaluations." in text


def test_only_what_the_page_shows_is_there(folder):
    run_folder(folder)
    pages = RunPages(folder)
    text = text_of(pages)
    allowed = policy(text).split("; ")
    assert allowed[:3] == ["default-src 'none'", "img-src 'self'", "style-src 'unsafe-inline'"]
    assert allowed[3:] == ["form-action 'none'", "base-uri 'none'"]
    shown = images_of(text)
    assert len(shown) == 8 * 6 + 1  # five training images are alike
    for address in shown:
        assert re.fullmatch(r"/images/[0-9a-f]{32}\.(png|jpeg)", address)
        answer = pages.answer(address)
        assert answer.found and answer.lasting and answer.kind == f"image/{address.rpartition('.')[2]}"
        assert answer.content.startswith(b"\x89PNG" if address.endswith("png") else b"\xff\xd8")


@pytest.mark.parametrize(
    "target",
    [
        *("/run.json", "/metrics.csv", "/report.html", "/validation/step-0.png", "/contact_sheet.png"),
        *("/../run/run.json", "/..%2frun.json", "/%2e%2e/%2e%2e/etc/passwd", "/images/../run.json"),
        *("//etc/passwd", "/etc/passwd", "etc/passwd", "", "*", "/.", "/images/", "/%00", "/\x00", "/%ff%fe"),
        *("/images/00000000000000000000000000000000.png", "http://evil.example/run.json"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_nothing_else_is_there(folder, target, many):
    run_folder(folder)
    if many:
        (folder / "one").mkdir()
        write_entries(folder / "concepts.json", [Entry("one", "<one>", "running", 1, 9)])
    pages = RunPages(folder)
    text_of(pages)
    answer = pages.answer(target)
    assert not answer.found and b"Not found" in answer.content and refresh(answer.content.decode()) is None


def test_an_image_can_be_asked_for_until_the_page_has_been_made_twice_without_it(folder):
    run_folder(folder, steps=(0, 100))
    pages = RunPages(folder)
    first = images_of(text_of(pages))
    previews(folder, (0, 100, 200))
    assert set(images_of(text_of(pages))) > set(first)
    for path in (folder / "validation").iterdir():
        path.unlink()
    assert not images_of(text_of(pages))[1:]
    assert pages.answer(first[0]).found
    text_of(pages)
    assert not pages.answer(first[0]).found


def test_what_is_chosen_stays_chosen(folder):
    run_folder(folder)
    text = text_of(RunPages(folder), "/?step=100&image=2&large=0-1-100")
    assert refresh(text) == 5 and len(re.findall(r'class="shot s\d k1 large"', text)) == 1
    assert text.index("Step by step") < text.index("How it went")
    assert not re.search(r'href="[^"]*#', text)
    text = text_of(RunPages(folder), "/")
    assert text.index("How it went") < text.index("Step by step")


def test_refreshing_can_be_stopped_and_goes_on(folder):
    run_folder(folder)
    pages = RunPages(folder)
    (stop,) = re.findall(r'<a href="([^"]*)">stop</a>', text_of(pages, "/?step=20"))
    assert stop == "?step=20&amp;paused="
    text = text_of(pages, "/" + stop.replace("&amp;", "&"))
    assert refresh(text) is None
    (on,) = re.findall(r'<a href="([^"]*)">go on</a>', text)
    assert refresh(text_of(pages, f"/{on}")) == 5


def test_what_cannot_be_read_is_said_on_the_page_and_once_on_the_terminal(folder, capsys):
    run_folder(folder)
    (folder / "metrics.csv").write_text("step\n1\n")
    pages = RunPages(folder)
    for _ in range(3):
        text_of(pages)
    assert capsys.readouterr().err.count("metrics.csv is left out of the page") == 1
    (folder / "run.json").write_text("{")
    text = text_of(pages)
    assert "run.json: expected what a run of this version wrote" in text and refresh(text) == 5
    facts(token=HOSTILE).write(folder)
    assert "<img src=x" not in text_of(pages)


def test_a_folder_that_goes_away_is_said_on_the_page(folder):
    pages = RunPages(folder / "later")
    text = text_of(pages)
    assert "expected the output folder of a run, found no such folder" in text and refresh(text) == 5


def test_a_run_that_is_silent_says_for_how_long(folder):
    run_folder(folder)
    for path in (*folder.iterdir(), folder / "validation"):
        os.utime(path, (0, os.stat(path).st_mtime - 100))
    text = text_of(RunPages(folder))
    assert re.search(r"Nothing was written for 1:4\d\.", text)


@pytest.fixture
def many(folder):
    """A run of four concepts, one in each state."""
    for name in ("done", "learns", "broken"):
        (folder / name).mkdir()
        run_folder(folder / name, token=f"<{name}>", finished=name == "done")
    entries = [
        Entry("done", "<done>", "done", 200, 200),
        Entry("learns", "<learns>", "running", 100, 400),
        Entry("broken", "<broken>", "failed", 0, 400, f"step 12: found nan {HOSTILE}"),
        Entry("waits", "<waits>", steps=400),
    ]
    write_entries(folder / "concepts.json", entries)
    return folder


def test_the_index_and_a_page_for_each_concept(many):
    pages = RunPages(many)
    text = text_of(pages)
    assert refresh(text) == 5 and "The run goes on." in text and '<progress value="2" max="4"' in text
    links = [link for link in re.findall(r'<a href="([^"]*)"', text) if link.endswith("report.html")]
    assert links == ["broken/report.html", "done/report.html", "learns/report.html"]
    for address in images_of(text):
        answer = pages.answer(f"/{address}")
        assert answer.found and answer.kind == "image/png" and not answer.lasting
        assert answer.content == (many / address).read_bytes()
    said = {link: text_of(pages, f"/{link}") for link in links}
    assert all('<a href="/">all concepts</a>' in each for each in said.values())
    assert [refresh(said[link]) for link in links] == [None, None, 5]
    assert "Failed: step 12: found nan &lt;img" in said["broken/report.html"]
    assert "Step 200 of 200" not in said["done/report.html"]
    for each in said.values():
        assert all(pages.answer(address).found for address in images_of(each))
    for name in (
        "waits/report.html",
        "done/validation/step-20.png",
        "done/run.json",
        "../run/done/report.html",
    ):
        assert not pages.answer(f"/{name}").found, name


def test_the_index_stops_refreshing_when_no_concept_is_left(many):
    content = json.loads((many / "concepts.json").read_text())
    for entry in content["concepts"]:
        entry["state"] = "done"
    (many / "concepts.json").write_text(json.dumps(content))
    text = text_of(RunPages(many))
    assert refresh(text) is None and "The run is finished." in text


def test_an_index_of_a_run_that_has_gone_says_how_it_goes_on(many, monkeypatch):
    monkeypatch.setattr("ti_flax.files.written_files.LastRun.is_at_work", False)
    text = text_of(RunPages(many))
    assert "No run is at work in this folder now. The same command with" in text and refresh(text) == 5


def test_no_link_leads_out_of_the_folder(many, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    run_folder(secret, token="<secret>")
    pages = RunPages(many)
    shown = images_of(text_of(pages))
    (many / "waits").symlink_to(secret)
    (many / shown[0]).unlink()
    (many / shown[0]).symlink_to(secret / "validation" / "step-0.png")
    assert not pages.answer("/waits/report.html").found and not pages.answer(f"/{shown[0]}").found


def test_names_of_any_signs_are_found(many):
    name = 'a"b <i> &amp; #1?x=%2e'
    (many / name).mkdir()
    run_folder(many / name)
    write_entries(many / "concepts.json", [Entry(name, "<a>", "running", 1, 9)])
    pages = RunPages(many)
    text = text_of(pages)
    (link,) = [link for link in re.findall(r'<a href="([^"]*)"', text) if link.endswith("report.html")]
    assert "Step 200" in text_of(pages, f"/{link}") or "All 200" in text_of(pages, f"/{link}")
    assert all(pages.answer(f"/{address}").found for address in images_of(text))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: None, "no such folder. Start the run first"),
        (lambda path: path.write_text("mine"), "no such folder"),
        (lambda path: path.mkdir(), "none of the files that one begins with. Start the run first"),
        (lambda path: run_folder(_made(path / "inside")), "Name one of the runs in it, such as .*/it/inside"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, make, found):
    make(tmp_path / "it")
    with pytest.raises(DataError, match=found):
        require_run(tmp_path / "it")


def _made(path):
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize("name", ["run.json", "concepts.json"])
def test_a_copy_of_a_folder_without_its_list_is_a_run(tmp_path, name):
    (tmp_path / name).write_text("{}")
    require_run(tmp_path)


def test_a_preview_is_a_png_as_it_is(many):
    pages = RunPages(many)
    shown = images_of(text_of(pages))
    Image.new("RGB", (9, 9), (1, 2, 3)).save(many / shown[0])
    assert pages.answer(f"/{shown[0]}").content == (many / shown[0]).read_bytes()


def test_the_address_of_an_image_holds_its_digest(folder):
    run_folder(folder)
    pages = RunPages(folder)
    for address in images_of(text_of(pages)):
        digest = pages.answer(address).digest
        assert len(digest) == 32 and f"/images/{digest}." in address
