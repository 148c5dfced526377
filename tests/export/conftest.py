"""A Hub on loopback, for all that is uploaded."""

import fake_hub
import pytest

from ti_flax.export import upload


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """A network, no login, and no pause between attempts."""
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(upload, "PAUSES", ())


@pytest.fixture
def hub(monkeypatch):
    hub = fake_hub.FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    yield hub
    hub.close()
