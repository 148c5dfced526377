"""A work folder of the page, with the demo's images in it."""

import pytest
from web_pages import work_in


@pytest.fixture
def work(tmp_path):
    return work_in(tmp_path / "work")
