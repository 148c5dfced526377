"""The page of many concepts: what it says of each, in which order, and that foreign text stays text."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess

import pytest
from PIL import Image
from report_pages import Balanced, evaluation, facts

from ti_flax.commands import report as make_report
from ti_flax.errors import DataError
from ti_flax.files.written_files import only_run, written
from ti_flax.monitoring.report.concepts import Entry, read_entries, write_entries
from ti_flax.monitoring.report.index_page import IndexPage, write_index
from ti_flax.monitoring.report.index_style import SCRIPT
from ti_flax.monitoring.row_statistics import write_evaluations

HOSTILE = '<img src=x onerror="alert(1)">'
ERROR = "step 12: expected finite numbers, found loss nan at learning rate 1e+30"
LEARNING = [evaluation(0, 0.2), evaluation(100, 0.15), evaluation(200, 0.1)]


def concept(folder, name, table=LEARNING, steps=(0, 100, 200), size=(16, 8)):
    """Fills the folder of a concept as a run does that is at its end."""
    (folder / name / "validation").mkdir(parents=True)
    if table:
        write_evaluations(folder / name / "signals.csv", table)
    for step in steps:
        Image.new("RGB", size).save(folder / name / "validation" / f"step-{step}.png")
    (folder / name / "report.html").write_text("a page")
    return Entry(name, f"<{name}>", "done", 200, 200)


def cards(text):
    """The text of each concept by its name, in the order of the page."""
    found = re.findall(r'<li class="concept"[^>]*><h2>(.*?)</h2>(.*?)</li>', text)
    return {re.sub(r"<[^>]+>", "", name): html.unescape(rest) for name, rest in found}


def attributes(text, name):
    return re.findall(rf'<li class="concept"[^>]* data-{name}="([^"]*)"', text)


def page_of(folder, *entries):
    text = write_index(folder, entries).read_text(encoding="utf-8")
    Balanced(text)
    return text


def test_what_went_wrong_comes_first(tmp_path):
    worse = [evaluation(0, 0.1), evaluation(200, 0.2)]
    entries = [
        concept(tmp_path, "good"),
        Entry("waits", "<waits>", steps=300),
        concept(tmp_path, "worse", worse),
        Entry("broken", "<broken>", "failed", 0, 300, ERROR),
        Entry("learns", "<learns>", "running", 4, 300),
    ]
    text = page_of(tmp_path, *entries)
    assert [*cards(text)] == ["broken", "worse", "good", "waits", "learns"]
    assert attributes(text, "state") == ["failed", "done", "done", "waiting", "running"]
    assert attributes(text, "look") == ["failed", "flagged", "", "", ""]
    assert attributes(text, "text")[0] == "broken &lt;broken&gt;"
    assert "5 concepts: 1 failed, 1 running, 2 done, 1 waiting; 1 flagged." in text
    assert ERROR in cards(text)["broken"] and "of 300" not in cards(text)["broken"]
    assert "step 4 of 300" in cards(text)["learns"] and "step 0 of 300" in cards(text)["waits"]
    assert "step 200 of 200, validation loss 0.1000" in cards(text)["good"]


@pytest.mark.parametrize(
    "table, step, said",
    [
        (LEARNING, 200, ""),
        (LEARNING, 100, ""),  # the best, which is the result
        (LEARNING[:2], 100, "It ended early, after 100 of 200 steps."),
        (LEARNING[:1], 0, "It ended early, after 0 of 200 steps."),
        (
            [evaluation(0, 0.2), evaluation(200, 0.1, 12.0, sensitivity=None)],
            200,
            "Step 200: the rows have left the range of",
        ),
        (
            [evaluation(0, 0.2), evaluation(100, 0.15), evaluation(200, 0.1, sensitivity=0.1)],
            200,
            "Step 200: the concept overpowers the rest of the prompt: use step 100.",
        ),
        ([evaluation(0, 0.1), evaluation(200, 0.2)], 200, "No evaluation was better than that of step 0"),
        ([evaluation(0, 0.1), evaluation(200, float("nan"))], 200, "loss of step 200 is not finite."),
        ([evaluation(step, 0.1 if step else 0.2) for step in range(0, 201, 40)], 200, "Step 160: no longer"),
        ((), 200, ""),
    ],
)
def test_a_verdict_is_that_of_the_evaluations(tmp_path, table, step, said):
    entry = concept(tmp_path, "one", table)
    entry.step = step
    text = page_of(tmp_path, entry)
    assert said in cards(text)["one"]
    assert attributes(text, "look") == ["flagged" if said else ""]
    assert ("validation loss" in cards(text)["one"]) == bool(table)


def test_the_first_and_the_last_preview_are_linked(tmp_path):
    entries = [concept(tmp_path, "wide", size=(400, 100)), concept(tmp_path, "one", steps=(0,), size=(8, 8))]
    text = page_of(tmp_path, *entries)
    images = re.findall(r'<img src="([^"]*)" alt="([^"]*)" width="(\d+)" height="(\d+)" loading="lazy"', text)
    assert images == [
        ("wide/validation/step-0.png", "wide before", "420", "105"),
        ("wide/validation/step-200.png", "wide after 200 steps", "420", "105"),
        ("one/validation/step-0.png", "one before", "200", "200"),
    ]
    links = Balanced(text).links
    assert "wide/report.html" in links and all((tmp_path / link).is_file() for link in links)


def test_a_page_of_many_is_small(tmp_path):
    first = concept(tmp_path, "concept-0")
    shown = [first]
    for number in range(1, 200):
        shutil.copytree(tmp_path / "concept-0", tmp_path / f"concept-{number}")
        shown.append(Entry(f"concept-{number}", f"<concept-{number}>", "done", 200, 200))
    assert len(page_of(tmp_path, *shown)) < 300_000


def test_nothing_that_users_name_can_become_markup(tmp_path):
    name = 'a"b <i> &amp; #1?x=%2e\u202e'
    entry = concept(tmp_path, name)
    failed = Entry("javascript:alert(1)", HOSTILE, "failed", 0, 5, f"{HOSTILE}\n{HOSTILE}\x1b[2J")
    concept(tmp_path, failed.name)
    text = page_of(tmp_path, entry, failed)
    page = Balanced(text)
    assert page.tags.count("img") == 4 and "<img src=x" not in text and not {"i", "iframe"} & set(page.tags)
    assert "\u202e" not in text and "\x1b" not in text
    assert all(re.fullmatch(r"[\w./%-]+", link) for link in page.links)
    assert f"{'a%22b%20%3Ci%3E%20%26amp%3B%20%231%3Fx%3D%252e%E2%80%AE'}/report.html" in page.links
    assert "javascript%3Aalert%281%29/report.html" in page.links


def test_only_its_own_script_may_run(tmp_path):
    text = page_of(tmp_path, concept(tmp_path, "one"))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src 'self' file:",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
        "form-action 'none'",
        "base-uri 'none'",
    ]


def test_without_a_script_it_is_a_plain_list(tmp_path):
    text = page_of(tmp_path, concept(tmp_path, "one"), Entry("two", "<two>"))
    assert '<div class="filters" hidden>' in text and '<p class="none" hidden>' in text
    assert not re.search(r"<li[^>]* hidden", text)
    assert re.findall(r'<button type="button" value="(\w+)" aria-pressed="false">', text) == [
        "done",
        "waiting",
    ]


DOM = """
const made = (data) => ({ hidden: false, heard: {}, dataset: data, value: "", pressed: "false",
  addEventListener(kind, listen) { this.heard[kind] = listen; },
  getAttribute() { return this.pressed; }, setAttribute(name, value) { this.pressed = value; } });
const field = made(), none = made(), bar = made();
const buttons = ["failed", "flagged", "done"].map((value) => Object.assign(made(), { value }));
const concepts = [["failed", "failed", "Cat <cat>"], ["done", "flagged", "Dog <dog>"],
  ["done", "", "Cow <cow>"]].map(([state, look, text]) => made({ state, look, text }));
bar.hidden = true; bar.querySelector = () => field; bar.querySelectorAll = () => buttons;
globalThis.document = { querySelector: (name) => name === ".none" ? none : bar,
  querySelectorAll: () => concepts };
const told = () => console.log(JSON.stringify([concepts.map((each) => !each.hidden), !none.hidden]));
const type = (text) => { field.value = text; field.heard.input(); told(); };
const press = (number) => { buttons[number].heard.click(); told(); };
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_filters_by_text_and_state():
    play = 'told(); type("c O"); type("cat cow"); type(""); press(0); press(1); press(0); press(1); press(2);'
    command = ["node", "-e", f"{DOM}{SCRIPT}{play} console.log(bar.hidden)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    *shown, hidden = map(json.loads, done.stdout.splitlines())
    assert shown == [
        [[True, True, True], False],
        [[False, False, True], False],
        [[False, False, False], True],
        [[True, True, True], False],
        [[True, False, False], False],
        [[True, True, False], False],
        [[False, True, False], False],
        [[True, True, True], False],
        [[False, True, True], False],
    ]
    assert hidden is False


def _file(folder):
    folder.write_text("no folder")


def _link(folder):
    concept(folder.parent, "elsewhere", ())
    folder.symlink_to(folder.parent / "elsewhere")


def _foreign_table(folder):
    concept(folder.parent, folder.name, ())
    (folder / "signals.csv").write_text("step,validation_loss,loss,grad_norm\n1,x,,\n")


def _linked_table(folder):
    concept(folder.parent, folder.name, ())
    (folder / "signals.csv").symlink_to("/dev/zero")


def _no_pictures(folder):
    concept(folder.parent, folder.name)
    (folder / "validation" / "step-0.png").write_text("no PNG")
    (folder / "validation" / "step-200.png").write_bytes(b"")


def _linked_pictures(folder):
    concept(folder.parent, "elsewhere")
    concept(folder.parent, folder.name, steps=())
    (folder / "validation").rmdir()
    (folder / "validation").symlink_to(folder.parent / "elsewhere" / "validation")


@pytest.mark.parametrize(
    "make, warnings",
    [
        (lambda folder: None, 0),
        (lambda folder: folder.mkdir(), 0),
        (_no_pictures, 0),
        (_linked_pictures, 0),
        (_file, 1),
        (_link, 1),
        (_foreign_table, 1),
        (_linked_table, 1),
    ],
)
@pytest.mark.parametrize("state", ["running", "done", "failed"])
def test_a_damaged_folder_costs_a_line_and_its_own_pictures(tmp_path, capsys, make, warnings, state):
    make(tmp_path / "damaged")
    page = IndexPage(tmp_path)
    good, damaged = concept(tmp_path, "good"), Entry("damaged", "<damaged>", state, 3, 3, "why")
    for _ in range(3):
        text = page.write([damaged, good]).read_text(encoding="utf-8")
    assert text.count("<img ") == (2 if make is not _foreign_table and make is not _linked_table else 4)
    assert {*cards(text)} == {"good", "damaged"}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == warnings and all("damaged" in line and "left out of" in line for line in said)


def test_what_has_changed_is_read_again(tmp_path):
    page = IndexPage(tmp_path)
    entry = concept(tmp_path, "one", LEARNING[:2])
    assert "validation loss 0.1500" in page.write([entry]).read_text()
    write_evaluations(tmp_path / "one" / "signals.csv", LEARNING)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "validation" / "step-300.png")
    text = page.write([entry]).read_text()
    assert "validation loss 0.1000" in text and "after 300 steps" in text


def test_what_an_earlier_run_left_is_not_shown_of_one_that_waits(tmp_path):
    entry = concept(tmp_path, "one")
    entry.state, entry.step = "waiting", 0
    assert "<img " not in page_of(tmp_path, entry)


def test_it_is_one_of_the_runs_files(tmp_path):
    with only_run(tmp_path):
        write_entries(tmp_path / "concepts.json", [concept(tmp_path, "one")])
        page_of(tmp_path, *read_entries(tmp_path))
        assert written(tmp_path) == {"index.html", "concepts.json"}
    assert not list(tmp_path.glob(".unfinished*"))


def test_the_command_writes_the_pages_of_all(tmp_path, capsys):
    entries = [concept(tmp_path, "one"), concept(tmp_path, "two"), Entry("three", "<three>")]
    write_entries(tmp_path / "concepts.json", entries)
    assert read_entries(tmp_path) == entries
    facts().write(tmp_path / "one")
    (tmp_path / "two" / "run.json").write_text("{")
    make_report.run(make_report.parse_arguments([str(tmp_path)]))
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}/index.html\n"
    assert len(said.err.splitlines()) == 1 and "two/report.html is not written" in said.err
    assert (tmp_path / "one" / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert [*cards((tmp_path / "index.html").read_text())] == ["one", "two", "three"]


GOOD = {"name": "one", "token": "<one>", "state": "done", "step": 3, "steps": 3, "error": ""}


@pytest.mark.parametrize(
    "change, found",
    [
        ({"name": ".."}, "a value of name of concept 2"),
        ({"name": "../one"}, "a value of name of concept 2"),
        ({"name": "/etc"}, "a value of name of concept 2"),
        ({"name": ""}, "a value of name of concept 2"),
        ({"name": 3}, "a value of name of concept 2"),
        ({"token": None}, "a value of token of concept 2"),
        ({"state": '"><b>'}, "a value of state of concept 2"),
        ({"state": []}, "a value of state of concept 2"),
        ({"step": -1}, "a value of step of concept 2"),
        ({"step": True}, "a value of step of concept 2"),
        ({"steps": 2**40}, "a value of steps of concept 2"),
        ({"error": ["no"]}, "a value of error of concept 2"),
        ({"more": 1}, "unexpected keyword argument 'more'"),
    ],
)
def test_a_list_that_no_run_wrote_is_refused(tmp_path, change, found):
    (tmp_path / "concepts.json").write_text(json.dumps({"concepts": [GOOD, GOOD | change]}))
    with pytest.raises(DataError, match=re.escape(found)):
        make_report.run(make_report.parse_arguments([str(tmp_path)]))
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    "content, found",
    [
        ("[]", "no list of concepts"),
        ("{}", "no list of concepts"),
        ('{"concepts": 3}', "no list of concepts"),
        ('{"concepts": {}}', "no list of concepts"),
        ('{"concepts": ["one"]}', "no mapping as concept 1"),
        ("[" * 100_000, "brackets within brackets"),
        ("\udcff", "'utf-8' codec"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, content, found):
    (tmp_path / "concepts.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=f"expected what a run of this version wrote, found {found}"):
        read_entries(tmp_path)
