"""The program learns: after a short training the judge sees a concept that the model has no word for."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from concepts import BY_NAME, prompts, write_images
from judge import judge
from measure import Studio

ROOT = Path(__file__).resolve().parents[2]
CONCEPT = BY_NAME["ruby"]
LOOKED_AT = ("shape", "colour", "texture")
SAMPLES, ENOUGH = 32, 0.5


@pytest.fixture(scope="module")
def studio():
    return Studio(ROOT / "assets" / "demo-model")


def fidelity(studio, noun, embeds=None):
    """The share of samples with the concept's shape, colour and texture."""
    texts = [text.strip() for _, text in prompts(noun, {"": ""}, SAMPLES)]
    seen = [judge(image) for image in studio.draw(texts, embeds=embeds)]
    return np.mean([all(getattr(each, n) == getattr(CONCEPT, n) for n in LOOKED_AT) for each in seen])


def train(folder, *flags):
    """Runs the demo's training on the concept, as a user would, on one device."""
    write_images(CONCEPT, folder / "images")
    command = [sys.executable, "train_flax.py", "--config", "configs/demo.yaml"]
    command += ["--train_data_dir", str(folder / "images"), "--output_dir", str(folder / "output")]
    command += ["--placeholder_token", CONCEPT.placeholder, "--initializer_token", CONCEPT.initializer]
    command += ["--latents_cache_dir", str(folder / "cache"), "--validation_prompt=null", "--eval_steps=0"]
    command += flags
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder / "output" / "learned_embeds.safetensors"


def assert_that_it_is_learned(studio, folder, *flags):
    share = fidelity(studio, CONCEPT.placeholder, train(folder, "--only_save_embeds", *flags))
    assert share >= ENOUGH, f"fidelity {share}"


def test_a_concept_appears(studio, tmp_path):
    assert_that_it_is_learned(studio, tmp_path)


@pytest.mark.slow
def test_nothing_appears_when_the_learning_rate_is_zero(studio, tmp_path):
    with pytest.raises(AssertionError, match=r"fidelity 0\.0"):
        assert_that_it_is_learned(studio, tmp_path, "--learning_rate=0", "--max_train_steps=20")
