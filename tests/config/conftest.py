"""Files of settings for tests of the configuration."""

import pytest


@pytest.fixture
def write(tmp_path):
    def write_file(text: str, name: str = "x.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write_file
