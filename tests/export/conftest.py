"""A Hub on loopback, for all that is uploaded."""

import fake_hub
import pytest
from hub_run import ROWS

from ti_flax.embedding.learned_embeds import save_learned_embeds
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


@pytest.fixture
def finished(tmp_path):
    """The folder of a finished run, with things in it that are nobody's business."""
    folder = tmp_path / "finished"
    for name in ("concept_images", "unet", "checkpoint-2", "logs"):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.jpeg").write_bytes(b"a picture")
    for name in ("metrics.csv", "notes.txt", "run.yaml", "contact_sheet.png", "model_index.json"):
        (folder / name).write_text(name)
    (folder / "README.md").write_text("---\nlibrary_name: diffusers\n---\n")
    save_learned_embeds(folder / "learned_embeds.safetensors", "<thing>", ROWS)
    return folder
