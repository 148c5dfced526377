"""How far predictions lie apart for a plain prompt and for prompts that say more."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from row_trees import tree
from tiny_models import LEAST

from ti_flax.embedding.conditioning import encode_with_rows
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.stable_diffusion import random_stable_diffusion
from ti_flax.monitoring.prompt_sensitivity import (
    PROMPTS,
    PromptSensitivity,
    dealt_out,
)
from ti_flax.training.devices import replicate
from ti_flax.training.state import KEY_IMPLEMENTATION, StepConfig

VOCABULARY, SIDE = 120, 64
ENCODERS = {"sd1": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2")}


def step_config(family, batch_size=3):
    model = random_stable_diffusion(LEAST[family], seed=0)
    learns = np.asarray([True, True])
    return StepConfig(
        model=model,
        schedule=NoiseSchedule.from_config(model.configs["scheduler"]),
        optimizer=types.SimpleNamespace(),
        trainable=dict.fromkeys(ENCODERS[family], learns) if family == "sdxl" else tree(learns),
        first_added_id=VOCABULARY,
        batch_size=batch_size,
    )


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def config(request):
    return step_config(request.param)


def rows_of(config, seed=2):
    rng = np.random.default_rng(seed)
    return {
        name: (0.3 * rng.normal(size=(2, width))).astype(np.float32)
        for name, width in config.model.widths.items()
    }


def prompts(words=1, count=3, seed=1):
    """Prompts with the two added tokens in them, which differ behind them."""
    ids = np.random.default_rng(seed).integers(3, VOCABULARY, (words, count, 77)).astype(np.int32)
    ids[..., 0] = 0
    ids[..., 1:3] = [VOCABULARY, VOCABULARY + 1]
    ids[..., 8:] = 2
    return ids


def measuring(config, token_ids, *, devices=1, **given):
    places = jax.local_devices()[:devices]
    frozen = {name: each for name, each in config.model.params.items() if name != "vae"}
    return PromptSensitivity(config, replicate(frozen, places), token_ids, side=SIDE, devices=places, **given)


def written_out(config, rows, token_ids, noises):
    """The same, prompt by prompt and noise by noise."""
    model, params = config.model, config.model.params
    side = SIDE // model.vae.config.downsampling
    step = jnp.asarray([config.schedule.num_train_timesteps - 1])
    sizes = jnp.asarray([[SIDE, SIDE, 0, 0, SIDE, SIDE]], jnp.float32)

    @jax.jit
    def predicted(ids, noise):
        told = encode_with_rows(model, params, rows, ids[None], first_added_id=VOCABULARY)
        more = (*told, sizes) if model.is_sdxl else (told.hidden_states,)
        return model.unet.apply({"params": params["unet"]}, noise[None], step, *more)

    root, found = jax.random.key(0, impl=KEY_IMPLEMENTATION), []
    for number in range(noises):
        noise = jax.random.normal(jax.random.fold_in(root, number), (side, side, 4))
        plain, *others = (predicted(ids, noise) for ids in token_ids)
        found.append([float(jnp.mean((other - plain) ** 2)) for other in others])
    return np.mean(found, axis=0)


def test_it_is_the_mean_distance_of_each_prompt_over_noises(config):
    token_ids, rows = prompts(words=2), rows_of(config)
    expected = [written_out(config, rows, ids, 5) for ids in token_ids]
    for devices, batch_size, rounds in ((1, 3, 2), (2, 4, 1)):
        laid_out = dataclasses.replace(config, batch_size=batch_size)
        measure = measuring(laid_out, token_ids, devices=devices, noises=5)
        found = measure(rows)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        assert found.shape == (2, 2) and len({*found.ravel()}) == 4 and found.min() > 0
        assert measure.passes == 2 * 3 * rounds * 3


def test_prompts_that_say_nothing_more_are_not_apart(config):
    token_ids = prompts()
    token_ids[:, 1:] = token_ids[:, :1]
    assert not measuring(config, token_ids, noises=2)(rows_of(config)).any()


def test_another_concept_has_the_same_program_and_the_same_noises():
    config, programs = step_config("sd1"), {}
    one = measuring(config, prompts(), noises=2, programs=programs)
    other = measuring(config, prompts(seed=7), noises=2, programs=programs)
    assert len(programs) == 1
    rows = rows_of(config)
    assert (one(rows) != other(rows)).all()
    assert (one(rows) == measuring(config, prompts(), noises=2)(rows)).all()


@pytest.mark.parametrize(("noises", "batch", "devices"), [(16, 8, 1), (16, 3, 2), (5, 8, 4), (1, 1, 8)])
def test_every_noise_is_dealt_out_once(noises, batch, devices):
    numbers = dealt_out(noises, batch=batch, devices=devices)
    assert len(numbers) == devices and numbers.shape[2] <= batch
    assert sorted(numbers[numbers >= 0].tolist()) == list(range(noises))
    assert numbers.size < noises + devices * batch


def test_the_prompts_of_each_kind_name_the_word_and_all_but_the_first_say_more():
    for plain, *others in PROMPTS.values():
        assert plain.count("{}") == 1 and len(set(others)) == len(others)
        for prompt in others:
            assert prompt.count("{}") == 1 and len(prompt) > len(plain)
