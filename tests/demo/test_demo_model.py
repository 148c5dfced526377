"""The model that comes with the repository draws what is asked for, here and in PyTorch."""

from pathlib import Path

import numpy as np
import pytest
from concepts import BY_NAME, CONCEPTS, concept_scenes, prompts
from judge import judge
from measure import ATTRIBUTES, GUIDANCE_SCALE, Studio, caption_accuracy, round_trip_accuracy
from PIL import Image
from world import HELD_OUT_COLOURS, HELD_OUT_COMBINATIONS, HELD_OUT_SHAPES, render_batch

from ti_flax.generation.generator import starting_noise

ASSETS = Path(__file__).resolve().parents[2] / "assets"
MODEL = ASSETS / "demo-model"


@pytest.fixture(scope="module")
def studio():
    return Studio(MODEL)


def test_it_is_small():
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 16e6


def test_it_draws_captions_that_it_never_saw(studio):
    shares = caption_accuracy(studio, 32)
    assert all(shares[name] >= 0.85 for name in ATTRIBUTES), shares


def test_the_judge_reads_images_that_went_through_the_autoencoder(studio):
    shares = round_trip_accuracy(studio, 64)
    assert all(shares[name] >= 0.88 for name in ATTRIBUTES), shares


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' scheduler
def test_pytorch_draws_the_same_images(studio):
    torch = pytest.importorskip("torch")
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    concept = BY_NAME["glowheart"]
    asked = prompts(concept.literal, concept.settings, 8)
    texts = [text for _, text in asked]
    ours = studio.draw(texts, seed=5)
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    noise = np.asarray(starting_noise(studio.model, range(5, 13), (64, 64))).transpose(0, 3, 1, 2)
    theirs = pipeline(
        texts,
        latents=torch.tensor(noise.copy()),
        num_inference_steps=25,
        guidance_scale=GUIDANCE_SCALE,
        output_type="np",
    ).images
    theirs = np.round(theirs * 255).astype(np.uint8)
    assert np.abs(ours.astype(int) - theirs).mean() < 1.0
    same = [judge(a).shape == judge(b).shape for a, b in zip(ours, theirs, strict=True)]
    assert np.mean(same) >= 0.9


def test_concepts_are_what_the_model_has_no_words_for():
    assert len(CONCEPTS) >= 8 and len({concept.name for concept in CONCEPTS}) == len(CONCEPTS)
    for concept in CONCEPTS:
        combined = (concept.colour, concept.texture, concept.shape) in HELD_OUT_COMBINATIONS
        unnamed = concept.shape in HELD_OUT_SHAPES or concept.colour in HELD_OUT_COLOURS
        assert concept.has_words == combined and combined != unnamed
        assert len(concept.settings) >= 4
        scenes = concept_scenes(concept, 5, seed=0)
        assert len({scene.background for scene in scenes}) == min(5, len(concept.settings))
        seen = [judge(image) for image in render_batch(scenes)]
        wanted = (concept.shape, concept.colour, concept.texture)
        assert all((each.shape, each.colour, each.texture) == wanted for each in seen)


def test_the_demo_images_are_those_that_the_script_makes(tmp_path):
    from concepts import main

    main(["ruby", str(tmp_path)])
    kept = sorted((ASSETS / "demo-images").iterdir())
    assert [path.name for path in kept] == [f"ruby-{number}.png" for number in range(1, 6)]
    for path in kept:
        np.testing.assert_array_equal(
            np.asarray(Image.open(path)), np.asarray(Image.open(tmp_path / path.name))
        )
