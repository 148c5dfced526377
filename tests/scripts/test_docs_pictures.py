"""The pictures of the documentation, and that every page, picture and heading that it links is there."""

import re
import stat
from pathlib import Path

import docs_pictures
import pytest
from PIL import Image

import ti_flax
from ti_flax.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
TROUBLES = ("too-slow", "out-of-memory", "over-trained", "word-ignored", "which-rate")


def links(page):
    """Where a page's links and pictures lead, within the repository."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in found if "://" not in link]


def anchors(page):
    """The names of a page's headings in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_names_every_page():
    named = {link.partition("#")[0] for link in links(DOCS / "README.md")}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= named


@pytest.mark.parametrize("name", TROUBLES)
def test_a_page_of_a_trouble_has_its_three_parts_in_order(name):
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    parts = ["Symptoms", "What to look at", "What to change, in this order"]
    assert re.findall(r"^## (.*)", text, flags=re.MULTILINE) == parts


def test_pictures_are_small_and_shown():
    pictures = list((DOCS / "images").iterdir())
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert pictures and {*pictures} <= shown
    assert sum(picture.stat().st_size for picture in pictures) < 1.5 * 2**20


@pytest.fixture
def finished(tmp_path):
    """What the program looks at in the folder of a run."""
    folder = tmp_path / "run"
    folder.mkdir()
    Image.new("RGB", (2000, 100), "red").save(folder / "contact_sheet.png")
    (folder / "report.html").write_text("<p>ruby", encoding="utf-8")
    return folder


def size_of(path):
    with Image.open(path) as image:
        return image.size


def browser(place, body):
    program = place / "browser"
    program.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_it_runs_the_demo_and_takes_its_pictures(finished, tmp_path, monkeypatch, capsys):
    ran = []

    def train(config):
        ran.append(config.output.dry_run)
        return finished / "contact_sheet.png" if config.output.dry_run else finished

    monkeypatch.setattr(ti_flax, "train", train)
    sheet = finished / "contact_sheet.png"
    taken = f'for word; do case $word in --screenshot=*) cp {sheet} "${{word#*=}}";; esac; done'
    flags = ["--output_dir", str(tmp_path / "images"), "--browser", browser(tmp_path, taken)]
    assert docs_pictures.main(flags) == 0
    assert ran == [True, False]
    sizes = {path.stem: size_of(path) for path in (tmp_path / "images").iterdir()}
    assert sizes == {
        "training-images": (5 * 128 + 4 * 8, 128),
        **dict.fromkeys(("dry-run", "previews", "report"), (1000, 50)),
    }
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert docs_pictures.main([*flags, "--run", str(finished)]) == 0
    assert ran == [True, False, True]


@pytest.mark.parametrize(
    ("body", "said"), [("exit 3", "CalledProcessError"), ("exit 0", "expected a picture of the page")]
)
def test_a_browser_that_shows_nothing_is_said(body, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        docs_pictures.photograph(browser(tmp_path, body), tmp_path / "page.html", tmp_path / "page.png")


def test_a_browser_that_is_not_there_is_said(tmp_path):
    with pytest.raises(
        ConfigError, match=r"--browser: expected a browser such as chromium, found /no: No such file"
    ):
        docs_pictures.photograph("/no", tmp_path / "page.html", tmp_path / "page.png")
