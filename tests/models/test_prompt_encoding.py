"""Prompts of SDXL against PyTorch's encoders, and the special tokens that they depend on."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import SD1, SDXL

from ti_flax.models.prompt_encoding import (
    PromptEncoding,
    SpecialTokens,
    encode_prompt,
    token_ids_by_encoder,
    without_empty,
)
from ti_flax.models.stable_diffusion import load_stable_diffusion, random_stable_diffusion, token_table

END, PAD, ADDED = 117, 3, 118
SPECIAL = SpecialTokens(END, PAD)
# An added word's id is larger than that of the end of the text; the last prompt is empty.
IDS = np.array([[1, 5, ADDED, 7, END, END], [1, 9, 8, 7, 6, END], [1, END, END, END, END, END]], np.int32)


@pytest.fixture(scope="module")
def model():
    return random_stable_diffusion(SDXL, seed=0)


def encoded(model, ids):
    def encode(params):
        each = token_ids_by_encoder(model, jnp.asarray(ids), SPECIAL)
        embedded = {name: token_table(params, name)[its] for name, its in each.items()}
        return encode_prompt(model, params, embedded, jnp.asarray(ids), SPECIAL)

    return jax.jit(encode)(model.params)


def test_only_what_pads_the_second_encoders_prompts_differs(model):
    ids = token_ids_by_encoder(model, jnp.asarray(IDS), SPECIAL)
    np.testing.assert_array_equal(ids["text_encoder"], IDS)
    expected = [[1, 5, ADDED, 7, END, PAD], [1, 9, 8, 7, 6, END], [1, END, PAD, PAD, PAD, PAD]]
    np.testing.assert_array_equal(ids["text_encoder_2"], expected)
    first = random_stable_diffusion(SD1, seed=0, components=())
    assert list(token_ids_by_encoder(first, jnp.asarray(IDS), SPECIAL)) == ["text_encoder"]


@pytest.mark.parametrize("named", [2, END])
def test_prompts_are_encoded_as_by_pytorch(named, tmp_path):
    """Pooled at the first end of the text, also where the config names 2, as Hub copies of SDXL do."""
    torch = pytest.importorskip("torch")

    from torch_models import write_torch_models

    modules = write_torch_models(
        tmp_path, SDXL | {"text_encoder_2": SDXL["text_encoder_2"] | {"eos_token_id": END}}
    )
    config = tmp_path / "text_encoder_2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": named}))
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SDXL["scheduler"]))
    model = load_stable_diffusion(tmp_path, components=("text_encoder", "text_encoder_2"))
    ids = token_ids_by_encoder(model, jnp.asarray(IDS), SPECIAL)
    with torch.no_grad():
        outputs = [
            modules[name](torch.from_numpy(np.array(ids[name], np.int64)), output_hidden_states=True)
            for name in model.text_encoders
        ]
    expected = np.concatenate([output.hidden_states[-2].numpy() for output in outputs], axis=-1)
    found = encoded(model, IDS)
    assert found.hidden_states.shape == (3, 6, 64)
    np.testing.assert_allclose(found.hidden_states, expected, atol=1e-5)
    np.testing.assert_allclose(found.pooled, outputs[1].text_embeds.numpy(), atol=1e-5)
    assert np.abs(np.diff(found.pooled, axis=0)).max() > 1e-2


def test_stable_diffusion_1_is_encoded_as_by_its_one_encoder():
    model = random_stable_diffusion(SD1, seed=0)
    found = encoded(model, IDS)
    assert found.pooled is None
    encode = jax.jit(model.text_encoder.apply, static_argnames="method")
    expected = encode({"params": model.params["text_encoder"]}, IDS, method="encode_ids")
    np.testing.assert_array_equal(found.hidden_states, expected)


def test_gradients_reach_both_encoders_tokens(model):
    ids = jnp.asarray(IDS[:1])
    each = token_ids_by_encoder(model, ids, SPECIAL)
    embedded = {name: token_table(model.params, name)[its] for name, its in each.items()}

    def loss(embedded, part):
        encoding = encode_prompt(model, model.params, embedded, ids, SPECIAL)
        return jnp.sum(encoding[part] ** 2)

    by_hidden, by_pooled = (jax.jit(jax.grad(loss), static_argnums=1)(embedded, part) for part in (0, 1))
    assert all(np.abs(each).max() > 1e-4 for each in by_hidden.values())
    assert np.abs(by_pooled["text_encoder"]).max() == 0 and np.abs(by_pooled["text_encoder_2"]).max() > 1e-4
    # What stands behind the end of the text does not count for the pooled output.
    assert np.abs(by_pooled["text_encoder_2"][0, 5:]).max() == 0


def test_empty_prompts_are_zeros_if_the_model_wants_it(model):
    ids = jnp.asarray(IDS)
    given = PromptEncoding(jnp.ones((3, 6, 4)), jnp.ones((3, 2)))
    found = without_empty(model, given, ids, SPECIAL)
    np.testing.assert_array_equal(found.hidden_states[:, 0, 0], [1, 1, 0])
    np.testing.assert_array_equal(found.pooled[:, 0], [1, 1, 0])
    assert not found.hidden_states[2].any() and found.hidden_states[:2].all()

    kept = dataclasses.replace(model, zeros_for_empty_prompt=False)
    assert without_empty(kept, given, ids, SPECIAL) is given
    first = random_stable_diffusion(SD1, seed=0, components=())
    assert without_empty(first, given, ids, SPECIAL) is given


def test_a_prompt_of_several_chunks_is_empty_if_all_of_them_are(model):
    special = SpecialTokens(END, PAD, 3)
    ids = jnp.array(
        [[1, END, END, 1, END, END], [1, 7, END, 1, END, END], [1, END, END, 1, 7, END]], jnp.int32
    )
    given = PromptEncoding(jnp.ones((3, 6, 4)), jnp.ones((3, 2)))
    found = without_empty(model, given, ids, special)
    np.testing.assert_array_equal(found.hidden_states[:, 5, 0], [0, 1, 1])
    np.testing.assert_array_equal(found.pooled[:, 1], [0, 1, 1])
    second = token_ids_by_encoder(model, ids, special)["text_encoder_2"]
    np.testing.assert_array_equal(second[:2], [[1, END, PAD, 1, END, PAD], [1, 7, END, 1, END, PAD]])
