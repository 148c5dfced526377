"""Prompts of several chunks against PyTorch: what its encoders make of each chunk, joined, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_models import SMALL  # noqa: E402
from torch_models import channels_first, write_torch_models  # noqa: E402

from ti_flax.embedding.conditioning import encode_with_rows  # noqa: E402
from ti_flax.models.noise_schedule import NoiseSchedule  # noqa: E402
from ti_flax.models.prompt_encoding import SpecialTokens  # noqa: E402
from ti_flax.models.stable_diffusion import load_stable_diffusion  # noqa: E402
from ti_flax.models.weights.model_source import ModelSource  # noqa: E402

END, PAD, FIRST, LENGTH, CHUNKS = 117, 3, 120, 77, 3
SPECIAL = SpecialTokens(END, PAD)
# Ends of the chunks of two prompts, each of which names the word in another chunk.
ENDS = np.array([[76, 76, 20], [76, 9, 1]])
WORDS = [(0, 2, 4), (1, 1, 3)]


def token_ids():
    """`[prompts, chunks * length]` int32, with the two vectors of the word one after the other."""
    ids = np.random.default_rng(4).integers(4, 110, (*ENDS.shape, LENGTH)).astype(np.int32)
    ids[..., 0] = 1
    ids[np.arange(LENGTH) >= ENDS[..., None]] = END
    for prompt, chunk, place in WORDS:
        ids[prompt, chunk, place : place + 2] = FIRST, FIRST + 1
    return ids.reshape(len(ids), -1)


@pytest.fixture(scope="module")
def models(request, tmp_path_factory):
    """Our model, PyTorch's modules with the word's rows in their tables, and the rows by text encoder."""
    import json

    folder, configs = tmp_path_factory.mktemp("model"), dict(SMALL[request.param])
    if "text_encoder_2" in configs:
        configs["text_encoder_2"] = configs["text_encoder_2"] | {"eos_token_id": END}
    modules = write_torch_models(folder, configs)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs["scheduler"]))
    model = load_stable_diffusion(ModelSource(folder))
    rng, rows = np.random.default_rng(0), {}
    for name, width in model.widths.items():
        rows[name] = rng.normal(size=(2, width)).astype(np.float32)
        modules[name].requires_grad_(False)
        modules[name].resize_token_embeddings(FIRST + 2, mean_resizing=False)
        with torch.no_grad():
            modules[name].get_input_embeddings().weight[FIRST:] = torch.from_numpy(rows[name])
        modules[name].get_input_embeddings().weight.requires_grad_(True)
    return model, modules, rows


def encoded(model, rows, ids):
    return encode_with_rows(model, model.params, rows, ids, first_added_id=FIRST, special=SPECIAL)


def of_torch(modules, ids):
    """The hidden states of the chunks, encoded one by one and joined, and what the first is pooled to."""
    joined, pooled = [], None
    for name in [name for name in ("text_encoder", "text_encoder_2") if name in modules]:
        states = []
        for number in range(CHUNKS):
            chunk = ids.reshape(len(ids), CHUNKS, LENGTH)[:, number].copy()
            if name == "text_encoder_2":
                for row in chunk:
                    row[list(row).index(END) + 1 :] = PAD
            given = torch.from_numpy(chunk.astype(np.int64))
            output = modules[name](given, output_hidden_states=True)
            sdxl = "text_encoder_2" in modules
            states.append(output.hidden_states[-2] if sdxl else output.last_hidden_state)
            if name == "text_encoder_2" and number == 0:
                pooled = output.text_embeds
        joined.append(torch.cat(states, dim=1))
    return torch.cat(joined, dim=-1), pooled


def gradients(modules, rows):
    found = {name: modules[name].get_input_embeddings().weight.grad[FIRST:].numpy().copy() for name in rows}
    for name in rows:
        modules[name].get_input_embeddings().weight.grad = None
    return found


def check_gradient(found, wanted):
    for name, expected in wanted.items():
        assert np.linalg.norm(expected) > 1e-4
        assert np.linalg.norm(found[name] - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("models", ["sd1", "sdxl"], indirect=True)
def test_chunks_are_encoded_one_by_one_with_pytorchs_gradient(models):
    model, modules, rows = models
    ids = token_ids()
    hidden_states, pooled = of_torch(modules, ids)
    rng = np.random.default_rng(1)
    weights = [
        rng.normal(size=each.shape).astype(np.float32) for each in (hidden_states, pooled)[: len(rows)]
    ]

    def loss(rows):
        found = encoded(model, rows, jnp.asarray(ids))
        parts = [each for each in found if each is not None]
        return sum(jnp.sum(part * weight) for part, weight in zip(parts, weights, strict=True)), found

    (_, found), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(rows)
    assert found.hidden_states.shape == (2, CHUNKS * LENGTH, sum(model.widths.values()))
    np.testing.assert_allclose(found.hidden_states, hidden_states.detach(), atol=2e-5)
    total = torch.sum(hidden_states * torch.from_numpy(weights[0]))
    if model.is_sdxl:
        np.testing.assert_allclose(found.pooled, pooled.detach(), atol=2e-5)
        total = total + torch.sum(pooled * torch.from_numpy(weights[1]))
    total.backward()
    check_gradient(gradient, gradients(modules, rows))


@pytest.mark.parametrize("models", ["sd1"], indirect=True)
def test_the_unet_is_told_of_all_chunks(models):
    """The error of a sample, by the rows of a word that only a later chunk names."""
    model, modules, rows = models
    ids = token_ids()[1:]
    noisy, noise = np.random.default_rng(2).normal(size=(2, 1, 4, 4, 4)).astype(np.float32)
    schedule = NoiseSchedule.from_config(model.configs["scheduler"])
    assert schedule.prediction_type == "epsilon"

    @jax.jit
    @jax.grad
    def gradient(rows):
        told = encoded(model, rows, jnp.asarray(ids)).hidden_states
        predicted = model.unet.apply({"params": model.params["unet"]}, noisy, jnp.array([300]), told)
        return jnp.mean((predicted - noise) ** 2)

    modules["unet"].requires_grad_(False)
    hidden_states, _ = of_torch(modules, ids)
    predicted = modules["unet"](channels_first(noisy), torch.tensor([300]), hidden_states).sample
    torch.nn.functional.mse_loss(predicted, channels_first(noise)).backward()
    wanted = gradients(modules, rows)
    found = gradient(rows)["text_encoder"]
    assert np.linalg.norm(wanted["text_encoder"]) > 1e-7
    difference = np.linalg.norm(found - wanted["text_encoder"]) / np.linalg.norm(wanted["text_encoder"])
    assert difference < 1e-4
