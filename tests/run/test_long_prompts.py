"""A run whose prompts have two chunks, and previews that have settings of their own."""

import numpy as np
from PIL import Image
from tiny_run import configure, learned

import ti_flax
from ti_flax.run import train as run
from ti_flax.run.inputs import read_inputs

PROMPT, NEGATIVE = "red " * 80 + "(<thing>:1.3)", "a [car]"


def test_a_word_beyond_the_first_chunk_learns_and_previews_are_what_generate_draws(place, tmp_path):
    config = configure(
        place,
        tmp_path / "run",
        max_train_steps=1,
        max_token_length=150,
        prompt_template="red " * 90 + "{}",
        validation_prompt=PROMPT,
        validation_negative_prompt=NEGATIVE,
        validation_size="16x16",
        validation_seed=7,
        validation_sampler="ddim",
        validation_num_inference_steps=2,
        validation_guidance_scale=3,
        num_validation_images=2,
        prompt_weights=True,
    )
    inputs = read_inputs(config)
    word = inputs.concept.words[0].token_ids
    assert inputs.examples.token_ids.shape == (1, 1, 154)
    assert np.flatnonzero(inputs.examples.token_ids == word[0]).tolist() == [77 + 16]
    folder = run.train(config)
    moved = np.abs(learned(folder) - inputs.added.start["text_encoder"]).max(axis=1)
    assert (moved > 1e-3).all()

    images = ti_flax.generate(
        config.model,
        PROMPT,
        learned_embeds=[folder / "learned_embeds.safetensors"],
        num_images=2,
        negative_prompt=NEGATIVE,
        num_inference_steps=2,
        guidance_scale=3,
        sampler="ddim",
        seed=7,
        resolution=16,
        max_token_length=None,
        prompt_weights=True,
    )
    with Image.open(folder / "validation" / "step-1.png") as grid:
        assert grid.size == (32, 16)
        found = np.asarray(grid).astype(int)
    expected = np.concatenate([np.asarray(image) for image in images], axis=1)
    assert np.ptp(found) > 20 and np.abs(found - expected).max() <= 1
    assert (found[:, :16] != found[:, 16:]).any()
    card = (folder / "README.md").read_text()
    for line in ("max_token_length: 150", "validation_size: 16x16", "validation_sampler: ddim"):
        assert f"\n{line}\n" in card
