"""The folder of a stranger's run: what its files say becomes text in a page, or one line, and no more."""

import io
import json
import os
import re
import sys

import numpy as np
import pytest
from hostile_cases import Case, check, written
from PIL import Image
from report_pages import Balanced, evaluation, facts, previews

from ti_flax.commands import report as make_report
from ti_flax.console.messages import Display, Level, shown_on
from ti_flax.console.program import exit_code
from ti_flax.errors import DataError
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.report.page import PAGE, write_report
from ti_flax.monitoring.row_statistics import write_evaluations

REFRESH = '<meta http-equiv="refresh" content="0;url=http://evil.example"><form action=//evil><input>'
METRICS = "step,loss,learning_rate,grad_norm,samples_per_second\n"


def run_folder(folder):
    """A whole run's folder, inside of `output`, where pages may be written."""
    output = folder / "output"
    (output / "validation").mkdir(parents=True)
    facts().write(output)
    write_evaluations(output / "signals.csv", [evaluation(0, 0.2), evaluation(100, 0.1)])
    lines = "".join(f"{step},0.1,0.01,0.02,80\n" for step in range(1, 30))
    (output / "metrics.csv").write_text(METRICS + lines)
    previews(output, (0, 100))
    Image.new("RGB", (30, 30)).save(output / "contact_sheet.png")
    return output


def case(name, given, change, **more):
    """A case in which `change` is done to the folder of a run, of which then a page is made."""

    def make(folder):
        output = run_folder(folder)
        change(output)
        return lambda: _page_of(output)

    return Case(name, given, make, **more)


def _page_of(output, name=PAGE):
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", said)
        with shown_on(Display(Level.NORMAL)):
            code = exit_code(lambda: make_report.run(make_report.parse_arguments([str(output)])))
    if code:
        print(said.getvalue(), file=sys.stderr, end="")
        return code
    text = (output / name).read_text(encoding="utf-8")
    page = Balanced(text)
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert page.tags.count("meta") == 3 and not {"form", "iframe", "base"} & set(page.tags)
    if name != PAGE:
        assert page.tags.count("input") == page.tags.count("script") == 1
        return f"page: of {text.count('<li ')} concepts"
    assert "script" not in page.tags
    assert "secret" not in text and "c2VjcmV0" not in text
    titles = ", ".join(re.findall(r"<h2>(.*?)</h2>", text)[:-3])
    lines = [line.removeprefix("warning: ") for line in said.getvalue().splitlines()]
    return f"page: with {titles or 'no images and curves'}" + "".join(f"; {line}" for line in lines)


def of_many(name, given, entry, **more):
    """A case in which the folder is that of a run of many concepts, two of which a list names."""

    def make(folder):
        concept = {"name": "one", "token": "<one>", "state": "done", "step": 3, "steps": 3, "error": ""}
        output = folder / "output"
        output.mkdir()
        (output / "concepts.json").write_text(json.dumps({"concepts": [concept, concept | entry]}))
        return lambda: _page_of(output, "index.html")

    return Case(name, given, make, **more)


def fact(name, value):
    """A change of one value of run.json, which may be what no run writes."""

    def change(output):
        content = json.loads((output / "run.json").read_text())
        (output / "run.json").write_text(json.dumps(content | {name: value}))

    return change


def option(name, value):
    """A change of one of the options that run.json says."""

    def change(output):
        content = json.loads((output / "run.json").read_text())
        content["config"][name] = value
        (output / "run.json").write_text(json.dumps(content))

    return change


def raw(name, content):
    return lambda output: written(output / name, content)


def sparse(name, size):
    def change(output):
        with open(output / name, "wb") as file:
            file.truncate(size)

    return change


def replaced(name, make):
    def change(output):
        (output / name).unlink()
        make(output / name)

    return change


def outside(name):
    """A link to an image that lies beside the run's folder, and holds what nobody should see."""

    def change(output):
        secret = output.parent / "secret.png"
        Image.new("RGB", (8, 8), (1, 2, 3)).save(secret)
        (output / name).unlink()
        (output / name).symlink_to(secret)

    return change


def linked_folder(output):
    os.rename(output / "validation", output.parent / "elsewhere")
    (output / "validation").symlink_to(output.parent / "elsewhere")


def bomb(output):
    Image.new("1", (20000, 20000)).save(output / "contact_sheet.png")


def other_shape(output):
    previews(output, (0, 50, 100), prompts=3)


def preview_bomb(output):
    Image.new("1", (30000, 20000)).save(output / "validation" / "step-100.png")


def linked_page(output):
    (output.parent / "mine.txt").write_text("mine")
    (output / PAGE).symlink_to(output.parent / "mine.txt")


SIGNALS = "step,validation_loss,loss,grad_norm"
CASES = [
    case("html_number", "HTML in the place of a number", fact("width", REFRESH)),
    case("html_text", "HTML in the place of text", fact("start", REFRESH)),
    case(
        "html_config",
        "HTML as an option and its value",
        fact("config", {REFRESH: REFRESH, "clip_skip": REFRESH}),
    ),
    case("token_number", "a number in the place of text", fact("token", 7)),
    case("kind", "a kind that is none", fact("kind", REFRESH)),
    case("config_list", "a list in the place of the options", fact("config", [1])),
    case("config_deep", "an option of lists within lists", fact("config", {"seed": [[1]]})),
    case("times", "a time that is text", fact("times", {"compiling": "long"})),
    case("times_endless", "a time without an end", fact("times", {"compiling": float("inf")})),
    case("versions", "a version that is a number", fact("versions", {"jax": 1})),
    case("negative", "fewer than no steps", fact("steps", -1)),
    case("large", "a number of 400 digits", fact("steps", int("9" * 400))),
    case(
        "digits",
        "a number of 5,000 digits",
        raw("run.json", '{"steps": ' + "9" * 5000 + "}"),
        loose="Exceeds.*",
    ),
    case("unknown", "a key that no run writes", fact("<b>", 1), loose="RunFacts|and 'self'"),
    case("deep", "100,000 brackets within one another", raw("run.json", "[" * 100_000)),
    case("half", "half of a character", raw("run.json", '{"token": "\\ud83d"}')),
    case("latin1", "bytes that are no UTF-8", raw("run.json", b'{"token": "\xe9"}'), loose="'utf-8' codec.*"),
    case("giant", "1 TB of nothing", sparse("run.json", 2**40)),
    case("pipe", "a run.json that is a pipe", replaced("run.json", os.mkfifo)),
    case("device", "one that is a device", replaced("run.json", lambda path: path.symlink_to("/dev/zero"))),
    case(
        "loop", "one that is a link to itself", replaced("run.json", lambda path: path.symlink_to(path.name))
    ),
    case("signals_words", "a signals.csv with text for numbers", raw("signals.csv", f"{SIGNALS}\n1,x,,\n")),
    case(
        "signals_long", "a field of 200,000 letters", raw("signals.csv", f"{SIGNALS}\n1,{'9' * 200_000},,\n")
    ),
    case("signals_step", "a step of 4,000 digits", raw("signals.csv", f"{SIGNALS}\n{'9' * 4000},0.1,,\n")),
    case(
        "signals_columns", "50,000 columns", raw("signals.csv", ",".join(map(str, range(50_000))) + "\n1\n")
    ),
    case("signals_endless", "losses without an end", raw("signals.csv", f"{SIGNALS}\n0,inf,,\n9,nan,,\n")),
    case("signals_giant", "1 TB of nothing", sparse("signals.csv", 2**40)),
    case("signals_pipe", "a signals.csv that is a pipe", replaced("signals.csv", os.mkfifo)),
    case("metrics_columns", "a metrics.csv of other columns", raw("metrics.csv", "step,<b>\n1,2\n2,3\n")),
    case(
        "metrics_long",
        "a field of 200,000 letters",
        raw("metrics.csv", f"{METRICS}{'9' * 200_000},1,1,1,1\n"),
    ),
    case(
        "metrics_latin1",
        "bytes that are no UTF-8",
        raw("metrics.csv", b"step,\xe9\n1,2\n"),
        loose="'utf-8' codec.*",
    ),
    case(
        "metrics_same",
        "the same step again and again",
        raw("metrics.csv", METRICS + "7,0.1,0.1,0.1,9\n" * 30),
    ),
    case(
        "metrics_huge",
        "numbers at the ends of what there is",
        raw(
            "metrics.csv",
            METRICS
            + "".join(
                f"{step},{value},1e-320,-1e308,9\n"
                for step, value in enumerate(["1e308", "-1e308", "nan", "inf", "1e-320", "1e400"] * 9)
            ),
        ),
    ),
    case("metrics_giant", "1 TB of nothing", sparse("metrics.csv", 2**40)),
    case("sheet_link", "a contact sheet that is a link to an image of yours", outside("contact_sheet.png")),
    case("preview_link", "the same of a preview", outside("validation/step-0.png")),
    case("previews_link", "a folder of previews that is a link", linked_folder),
    case("sheet_text", "a text named contact_sheet.png", raw("contact_sheet.png", "secret")),
    case(
        "sheet_svg", "an SVG with a script", raw("contact_sheet.png", "<svg><script>alert(1)</script></svg>")
    ),
    case(
        "sheet_cut", "a PNG that is cut short", lambda output: os.truncate(output / "contact_sheet.png", 60)
    ),
    case("sheet_bomb", "a PNG that unfolds to 20,000 x 20,000", bomb),
    case("sheet_pipe", "a contact sheet that is a pipe", replaced("contact_sheet.png", os.mkfifo)),
    case("options_prompts", "options that say other prompts", option("validation_prompt", ["a"] * 1000)),
    case("options_hostile", "HTML as a prompt", option("validation_prompt", [REFRESH, REFRESH])),
    case("options_number", "a number as a prompt", option("validation_prompt", [1, "a"])),
    case("options_nested", "mappings in mappings", option("train_data_dir", [{"path": {"path": "a"}}])),
    case("options_images", "more images than there are", option("num_validation_images", 2**50)),
    case("previews_shape", "previews of another shape", other_shape),
    case("previews_bomb", "a preview that unfolds to 20,000 x 20,000", preview_bomb),
    case("page_folder", "a folder named report.html", lambda output: (output / PAGE).mkdir()),
    case("page_link", "a report.html that is a link to a text of yours", linked_page),
    of_many("concept_html", "HTML as the word of one of many concepts", {"token": REFRESH}),
    of_many("concept_error", "HTML as what went wrong with it", {"state": "failed", "error": REFRESH}),
    of_many("concept_above", "a name that leads out of the folder", {"name": "../../secret"}),
    of_many("concept_script", "a name that is a link with a script", {"name": "javascript:alert(1)"}),
    of_many("concept_state", "a state that is none", {"state": REFRESH}),
    of_many("concept_step", "a step that is text", {"step": REFRESH}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input(case, tmp_path):
    check(case, tmp_path, "test_hostile_report")
    mine = tmp_path / "mine.txt"
    assert not mine.exists() or mine.read_text() == "mine"


VALUES = [
    "<b>",
    1,
    1.5,
    -1,
    True,
    None,
    [],
    ["<b>"],
    {},
    {"<b>": "<b>"},
    {"a": [{}]},
    float("nan"),
    10**30,
    "a" * 70_000,
]


@pytest.mark.parametrize("name", list(RunFacts.__dataclass_fields__))
def test_every_value_is_right_or_refused(tmp_path, name):
    """Whatever stands in the place of a value: a page that is whole and safe, or a line that names it."""
    kept = json.loads(json.dumps(facts().__dict__))
    refused = 0
    for value in VALUES:
        (tmp_path / "run.json").write_text(json.dumps(kept | {name: value}))
        try:
            page = Balanced(write_report(tmp_path).read_text(encoding="utf-8"))
        except DataError as error:
            refused += 1
            assert f"found a value of {name} that " in str(error) and "<b>" not in str(error)
        else:
            assert page.tags.count("b") == 1  # around the base model
    assert refused >= 7


def test_the_page_forbids_what_it_does_not_need(tmp_path):
    facts().write(tmp_path)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert {"default-src 'none'", "form-action 'none'", "base-uri 'none'"} <= set(policy.split("; "))


def test_signs_that_cannot_be_seen_are_written_out(tmp_path):
    facts(token="<\u202egnp.exe>", base="a\x1b[2J\x00b").write(tmp_path)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "\u202e" not in text and "\x1b" not in text and "\x00" not in text
    assert "&lt;\\u202egnp.exe&gt;" in text and "a\\x1b[2J\\x00b" in text


def test_a_long_table_is_looked_through_in_seconds(tmp_path):
    facts().write(tmp_path)
    rng = np.random.default_rng(0)
    lines = "".join(f"{step},{loss:.4f},,\n" for step, loss in enumerate(-np.sort(rng.random(20_000))))
    (tmp_path / "signals.csv").write_text(f"{SIGNALS}\n{lines}")
    assert "Validation loss" in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_folder_that_is_reached_by_a_link_is_a_folder(tmp_path):
    output = run_folder(tmp_path)
    (tmp_path / "latest").symlink_to(output)
    assert len(Balanced(write_report(tmp_path / "latest").read_text(encoding="utf-8")).images) == 13
