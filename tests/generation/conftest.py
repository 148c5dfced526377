"""A tiny model with embeddings, for the tests of the program that makes images."""

import jax
import numpy as np
import pytest
from generated import ROWS
from tiny_folder import write_folder

from ti_flax.embedding.formats import Embedding, embedding_bytes
from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.export.embedding_card import plain_card
from ti_flax.generation import generate as generation
from ti_flax.generation.generator import ImageGenerator
from ti_flax.models.stable_diffusion import load_stable_diffusion
from ti_flax.models.weights.model_source import COMPONENTS


@pytest.fixture(scope="package")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("generate")
    write_folder(place / "model")
    save_learned_embeds(place / "thing.safetensors", "<thing>", ROWS)
    save_learned_embeds(place / "other.bin", "<other>", ROWS[:1] * 2)
    save_learned_embeds(place / "part.bin", "<thing>-2", ROWS)
    save_learned_embeds(place / "wide.safetensors", "<wide>", np.zeros((1, 768)))
    save_learned_embeds(place / "known.safetensors", "cat</w>", ROWS)
    thing = Embedding("<thing>", "<thing>", {"text_encoder": ROWS})
    for form, name in [
        ("automatic1111", "webui.pt"),
        ("automatic1111", "webui.png"),
        ("kohya", "kohya.pt"),
        ("onetrainer", "onetrainer.safetensors"),
        ("rinongal", "gs.pt"),
    ]:
        content = embedding_bytes(thing, form, f".{name.split('.')[1]}", image=plain_card("", ""))
        (place / name).write_bytes(content)
    two = Embedding("x", "x", {"text_encoder": ROWS, "text_encoder_2": ROWS}, sdxl=True)
    (place / "xl.safetensors").write_bytes(embedding_bytes(two, "kohya", ".safetensors"))
    return place


@pytest.fixture(scope="package")
def kept():
    """Image generators and the model of the tests of `generate`, which all draw with the same model."""
    return {}


@pytest.fixture
def no_compilation_twice(monkeypatch, kept):
    def generator(model, **settings):
        settings["devices"] = tuple(settings["devices"])
        key = tuple(settings.items())
        return kept[key] if key in kept else kept.setdefault(key, ImageGenerator(model, **settings))

    def load(base, *, dtype, components=COMPONENTS):
        key = str(base.place), components
        if key not in kept:
            kept[key] = load_stable_diffusion(base, dtype=dtype, components=components)
        return kept[key]

    monkeypatch.setattr(generation, "ImageGenerator", generator)
    monkeypatch.setattr(generation, "load_stable_diffusion", load)


@pytest.fixture
def one_device(monkeypatch):
    """Most tests need no second device, and programs for one compile fastest."""
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
