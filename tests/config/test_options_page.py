"""The page of all options says what the code does."""

import re

import pytest
import write_options

from ti_flax.config.run_config import OPTIONS
from ti_flax.errors import OutputError


def test_the_page_is_what_the_code_says():
    written = write_options.PAGE.read_text(encoding="utf-8")
    assert written == write_options.page(), "run `python scripts/write_options.py`"


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_explained_in_one_sentence(name):
    rule = OPTIONS[name].rule
    assert rule.help[0].isupper() and not re.search(r"[.!?] +[A-Z]", rule.help), rule.help
    mark = " †" if rule.per_concept else ""
    assert f"| `{name}`{mark} |" in write_options.page()


def test_help_writes_nothing_and_a_check_says_what_is_out_of_date(tmp_path, monkeypatch, capsys):
    page = tmp_path / "options.md"
    page.write_text("old")
    schema = tmp_path / "schema.json"
    schema.write_text(write_options.schema(), encoding="utf-8")
    monkeypatch.setattr(write_options, "PAGE", page)
    monkeypatch.setattr(write_options, "SCHEMA", schema)
    monkeypatch.setattr(write_options, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as ended:
        write_options.parse_arguments(["--help"])
    assert ended.value.code == 0 and page.read_text() == "old"
    with pytest.raises(OutputError, match="options.md: expected the options of the code, found others. Run"):
        write_options.write(write_options.parse_arguments(["--check"]))
    assert page.read_text() == "old"
    for flags in ([], ["--check"]):
        write_options.write(write_options.parse_arguments(flags))
    assert page.read_text(encoding="utf-8") == write_options.page()
    schema.write_text("{}")
    with pytest.raises(OutputError, match="schema.json: expected the options of the code, found others"):
        write_options.write(write_options.parse_arguments(["--check"]))
    assert schema.read_text() == "{}"
