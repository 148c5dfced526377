"""Images of an SDXL model against those of PyTorch's StableDiffusionXLPipeline, from the same latents."""

import functools

import jax
import numpy as np
import pytest
from tiny_folder import write_folder

from ti_flax.generation.drawing import Drawing, DrawnPrompts
from ti_flax.generation.generator import ImageGenerator, PromptTokens, starting_noise
from ti_flax.models.base_model import base_tokenizers
from ti_flax.models.stable_diffusion import load_stable_diffusion
from ti_flax.models.tokenizer import encode_prompts, load_tokenizer
from ti_flax.models.weights.model_source import ModelSource

PROMPTS = ["a photo of a cat", "a red house"]
SIZE = (32, 40)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny SDXL model, and its special tokens."""
    folder = write_folder(tmp_path_factory.mktemp("sdxl") / "model", "sdxl", least=False)
    return folder, base_tokenizers(ModelSource(folder)).special


@pytest.fixture(scope="module")
def drawn(place):
    """Draws with our samplers: `[prompts, height, width, 3]` uint8."""
    folder, special = place
    model, tokenizer = load_stable_diffusion(folder), load_tokenizer(folder)
    added = {"first_added_id": len(tokenizer), "special": special}
    made = functools.cache(lambda sampler: ImageGenerator(model, sampler=sampler, steps=3, **added))

    def draw(sampler, negative):
        return made(sampler).generate(
            model.params,
            {name: np.ones((1, width), np.float32) for name, width in model.widths.items()},
            prompt_ids=encode_prompts(tokenizer, PROMPTS),
            negative_ids=encode_prompts(tokenizer, [negative] * len(PROMPTS)),
            seeds=[3, 4],
            size=SIZE,
        )

    draw.model = model
    return draw


@pytest.fixture(scope="module")
def pipeline(place):
    pytest.importorskip("torch")
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(place[0], add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    assert (
        pipeline.vae.config.force_upcast
        and pipeline.text_encoder_2.config.eos_token_id == place[1].end_of_text
    )
    return pipeline


# Of diffusers' schedulers and of its pipeline.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("negative", ["", "a blue table"])
@pytest.mark.parametrize("sampler", ["euler", "dpmsolver++"])
def test_pytorchs_pipeline_draws_the_same_images(sampler, negative, drawn, pipeline):
    import torch
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler

    kinds = {"euler": EulerDiscreteScheduler, "dpmsolver++": DPMSolverMultistepScheduler}
    pipeline.scheduler = kinds[sampler].from_config(pipeline.scheduler.config)
    noise = np.asarray(starting_noise(drawn.model, [3, 4], SIZE)).transpose(0, 3, 1, 2)
    theirs = pipeline(
        PROMPTS,
        negative_prompt=[negative] * 2 if negative else None,
        height=SIZE[0],
        width=SIZE[1],
        num_inference_steps=3,
        guidance_scale=7.5,
        latents=torch.tensor(noise.copy()),
        output_type="np",
    ).images
    ours = drawn(sampler, negative)
    assert ours.shape == (2, *SIZE, 3) and np.ptp(ours) > 50
    assert np.abs(theirs * 255 - ours).max() <= 1


def test_what_an_empty_prompt_means_shows(drawn, place):
    """Zeros, unless the model says otherwise."""
    zeros = drawn("euler", "")
    assert (zeros != drawn("euler", "a blue table")).any()
    assert (zeros == drawn("euler", "")).all()


def test_previews_of_sdxl(drawn, place):
    folder, special = place
    tokenizer = load_tokenizer(folder)
    ids = encode_prompts(tokenizer, [*PROMPTS, ""])
    devices = jax.devices()[:1]
    rows = {name: np.zeros((1, width), np.float32) for name, width in drawn.model.widths.items()}
    generator = ImageGenerator(
        drawn.model, first_added_id=len(tokenizer), steps=1, sampler="euler", special=special
    )
    drawing = Drawing(
        generator,
        drawn.model.params,
        prompts=DrawnPrompts(
            PromptTokens(ids[:-1]), PromptTokens(ids[[-1] * len(PROMPTS)]), [3] * len(PROMPTS)
        ),
        images=1,
        size=(16, 24),
        devices=devices,
        added=rows,
    )

    class Counted:
        done = 0

        def advance(self, count):
            self.done += count

    assert drawing(rows, Counted()).shape == (2, 1, 16, 24, 3)
