"""The page of all options says what the code does."""

import re

import pytest
import write_options

from ti_flax.config.run_config import OPTIONS


def test_the_page_is_what_the_code_says():
    written = write_options.PAGE.read_text(encoding="utf-8")
    assert written == write_options.page(), "run `python scripts/write_options.py`"


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_explained_in_one_sentence(name):
    rule = OPTIONS[name].rule
    assert rule.help[0].isupper() and not re.search(r"[.!?] +[A-Z]", rule.help), rule.help
    assert f"| `{name}` |" in write_options.page()
