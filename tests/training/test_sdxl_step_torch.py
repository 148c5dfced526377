"""SDXL's step against PyTorch: the rows of both text encoders, by diffusers' models and training recipe."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from chunks import draw_sample  # noqa: E402
from tiny_models import SMALL  # noqa: E402
from torch_models import channels_first, write_torch_models  # noqa: E402

from ti_flax.config.options import LossOptions  # noqa: E402
from ti_flax.data.dataset import Bucket, Dataset, padded  # noqa: E402
from ti_flax.models.noise_schedule import NoiseSchedule  # noqa: E402
from ti_flax.models.prompt_encoding import SpecialTokens  # noqa: E402
from ti_flax.models.stable_diffusion import load_stable_diffusion  # noqa: E402
from ti_flax.training import optimizer as optim  # noqa: E402
from ti_flax.training.batches import Batch  # noqa: E402
from ti_flax.training.objective import Objective  # noqa: E402
from ti_flax.training.state import StepConfig, init_state  # noqa: E402
from ti_flax.training.step import apply_update, denoising_loss  # noqa: E402

ENCODERS = ("text_encoder", "text_encoder_2")
RATE, STEPS, BATCH = 5e-3, 20, 3
# The last ids of the vocabulary; the added ones are larger, which is where PyTorch pools by default.
VOCABULARY, END, PAD = 120, 117, 3
CONFIGS = SMALL["sdxl"]
PARTS = ("text_encoder", "text_encoder_2", "unet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with PyTorch's modules, whose second encoder pools at the true end of the text."""
    folder = tmp_path_factory.mktemp("sdxl")
    write_torch_models(
        folder, CONFIGS | {"text_encoder_2": CONFIGS["text_encoder_2"] | {"eos_token_id": END}}
    )
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(CONFIGS["scheduler"]))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_stable_diffusion(folder)


@pytest.fixture(scope="module")
def frozen(model):
    return {part: jax.tree.map(jnp.asarray, model.params[part]) for part in PARTS}


@pytest.fixture(scope="module")
def config(model):
    trainable = {encoder: np.array([True, True]) for encoder in ENCODERS}

    def optimizer(rate, clip):
        adamw = optim.make_optimizer("adamw", rate, arguments={"weight_decay": 1e-2}, max_grad_norm=clip)
        return optim.mask_rows(adamw, trainable)

    return StepConfig(
        model=model,
        schedule=NoiseSchedule.from_config(model.configs["scheduler"]),
        optimizer=optimizer,
        trainable=trainable,
        first_added_id=VOCABULARY,
        batch_size=BATCH,
        special=SpecialTokens(END, PAD),
    )


@pytest.fixture(scope="module")
def differentiate(frozen):
    compiled = {}

    def gradient(rows, batch, config):
        # The configuration decides the program; others of this file may share it.
        if config not in compiled:
            compiled[config] = jax.jit(
                lambda rows, batch: jax.value_and_grad(denoising_loss)(rows, frozen, batch, config)
            )
        return compiled[config](rows, batch)

    return gradient


@pytest.fixture
def modules(folder):
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kinds = dict(zip(PARTS, (CLIPTextModel, CLIPTextModelWithProjection, UNet2DConditionModel)))
    return {part: kind.from_pretrained(folder / part).eval() for part, kind in kinds.items()}


def start_rows():
    rng = np.random.default_rng(2)
    return {
        encoder: (rng.normal(size=(2, CONFIGS[encoder]["hidden_size"])) * 0.02).astype(np.float32)
        for encoder in ENCODERS
    }


def token_ids(rng, count):
    """Prompts of several lengths with both added tokens, the end of the text, and the first padding."""
    ids = rng.integers(4, 110, (count, 77)).astype(np.int32)
    for row, end in zip(ids, rng.integers(6, 30, count)):
        row[[1, 3]] = VOCABULARY, VOCABULARY + 1
        row[end:] = END
    return ids


def learn_rows(modules, rows):
    """Appends rows to both token tables, which are the only things that are differentiated."""
    weights = {}
    for module in modules.values():
        module.requires_grad_(False)
    for encoder in ENCODERS:
        modules[encoder].resize_token_embeddings(VOCABULARY + 2, mean_resizing=False)
        weights[encoder] = modules[encoder].get_input_embeddings().weight
        with torch.no_grad():
            weights[encoder][VOCABULARY:] = torch.from_numpy(rows[encoder])
        weights[encoder].requires_grad_(True)
    return weights


def second_ids(ids):
    """What the second tokenizer makes of the same prompts: everything after the first end is its padding."""
    ids = ids.copy()
    for row in ids:
        row[list(row).index(END) + 1 :] = PAD
    return ids


def reference_step(modules, scheduler, batch, snr_gamma=None):
    """The loss of diffusers' textual_inversion_sdxl.py, backpropagated into both token tables."""
    from diffusers.training_utils import compute_snr

    latents, noise = (channels_first(np.asarray(x)) for x in (batch.latents, batch.noise))
    timesteps = torch.tensor(np.asarray(batch.timesteps)).long()
    noisy = scheduler.add_noise(latents, noise, timesteps)
    ids = np.asarray(batch.token_ids)
    outputs = [
        modules[encoder](torch.from_numpy(each.astype(np.int64)), output_hidden_states=True)
        for encoder, each in zip(ENCODERS, (ids, second_ids(ids)))
    ]
    told = {"text_embeds": outputs[1].text_embeds, "time_ids": torch.tensor(np.asarray(batch.time_ids))}
    hidden_states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    predicted = modules["unet"](noisy, timesteps, hidden_states, added_cond_kwargs=told).sample
    loss = torch.nn.functional.mse_loss(predicted, noise, reduction="none")
    if batch.loss_weights is not None:
        loss = loss * torch.tensor(np.asarray(batch.loss_weights))[:, None]
    loss = loss.mean(dim=(1, 2, 3))
    if snr_gamma is not None:
        snr = compute_snr(scheduler, timesteps)
        loss = loss * torch.clamp(snr, max=snr_gamma) / snr
    loss = loss.mean()
    loss.backward()
    return loss.item()


def added(weights):
    """The gradient of the added rows, of which PyTorch's optimizer is to see nothing else."""
    gradients = {}
    for encoder, weight in weights.items():
        weight.grad[:VOCABULARY] = 0
        gradients[encoder] = weight.grad[VOCABULARY:].numpy().copy()
    return gradients


def apart(found, wanted):
    """How far two trees are apart, relative to the second, by text encoder."""
    return {
        encoder: np.linalg.norm(np.asarray(found[encoder]) - wanted[encoder])
        / np.linalg.norm(wanted[encoder])
        for encoder in ENCODERS
    }


def given_batch(masked):
    """Samples at timesteps where min-SNR cuts, hardly cuts and does not; sizes as of real images."""
    rng = np.random.default_rng(4)
    latents, noise = rng.normal(size=(2, 3, 4, 4, 4)).astype(np.float32)
    time_ids = rng.integers(0, 2048, (3, 6)).astype(np.float32)
    masks = rng.uniform(size=(3, 4, 4)).astype(np.float32).round(1) if masked else None
    timesteps = np.array([20, 300, 900], np.int32)
    return Batch(latents, noise, timesteps, token_ids(rng, 3), masks, time_ids=time_ids)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "masks and min-SNR"])
def test_the_gradient_by_both_arrays_is_pytorchs(modules, config, differentiate, weighted):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(CONFIGS["scheduler"])
    rows, batch = start_rows(), given_batch(weighted)
    if weighted:
        objective = Objective.from_options(LossOptions(snr_gamma=5.0), config.schedule)
        config = dataclasses.replace(config, objective=objective)
    loss, gradient = differentiate(rows, batch, config)
    weights = learn_rows(modules, rows)
    expected = reference_step(modules, scheduler, batch, snr_gamma=5.0 if weighted else None)
    wanted = added(weights)
    assert abs(float(loss) - expected) < 1e-5 * expected
    assert all(np.linalg.norm(each) > 1e-5 for each in wanted.values())
    differences = apart(gradient, wanted)
    print(f"\nloss {expected:.6f}, gradient apart", differences)
    assert max(differences.values()) < 1e-4

    # Both things that are told beside the hidden states reach the rows: they are not lost on the way.
    for changes in ({"time_ids": batch.time_ids[::-1].copy()}, {"token_ids": batch.token_ids[::-1].copy()}):
        _, other = differentiate(rows, batch._replace(**changes), config)
        assert min(apart(other, wanted).values()) > 1e-2


def test_pooled_at_the_word_it_is_another_gradient(modules, config, differentiate):
    """As PyTorch does with Hub copies of SDXL, whose config has 2 for the end of the text."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(CONFIGS["scheduler"])
    rows, batch = start_rows(), given_batch(False)
    _, gradient = differentiate(rows, batch, config)
    weights = learn_rows(modules, rows)
    modules["text_encoder_2"].text_model.eos_token_id = 2
    reference_step(modules, scheduler, batch)
    differences = apart(gradient, added(weights))
    print("\ngradient where PyTorch pools at the word", differences)
    assert differences["text_encoder"] > 1e-3 and differences["text_encoder_2"] > 1e-2


def examples():
    """Three images with their mirror images, sizes and crops, and four prompts."""
    rng = np.random.default_rng(1)
    bucket = Bucket(
        rng.normal(size=(3, 2, 4, 4, 8)).astype(np.float32),
        np.zeros(3, np.int32),
        np.arange(3, dtype=np.int32),
        None,
        rng.integers(0, 2048, (3, 2, 6)).astype(np.float32),
    )
    return padded(Dataset((bucket,), token_ids(rng, 4)[None]))


def batches(config):
    """The batches of all steps, as a run draws them."""
    given, positions = examples(), jnp.arange(BATCH)

    @jax.jit
    def drawn(step):
        key, bucket = jax.random.key(0), given.buckets[0]
        one = lambda p: draw_sample(config.draw_rules, key, bucket, given.prompts, step=step, position=p)  # noqa: E731
        return jax.vmap(one)(positions)

    return [drawn(jnp.int32(step)) for step in range(STEPS)]


def their_rows(modules, drawn, clip):
    """The rows after PyTorch's updates with these batches, and the norms of all gradients."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(CONFIGS["scheduler"])
    weights = learn_rows(modules, start_rows())
    original = {encoder: weight.detach().clone() for encoder, weight in weights.items()}
    options = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, **options)
    norms = []
    for batch in drawn:
        optimizer.zero_grad()
        reference_step(modules, scheduler, batch)
        added(weights)
        norm = torch.nn.utils.clip_grad_norm_(weights.values(), torch.inf if clip is None else clip)
        norms.append(norm.item())
        optimizer.step()
        with torch.no_grad():
            for encoder, weight in weights.items():
                weight[:VOCABULARY] = original[encoder][:VOCABULARY]
    return {encoder: weight[VOCABULARY:].detach().numpy() for encoder, weight in weights.items()}, norms


CLIP = 0.05


@pytest.mark.parametrize("clip", [None, CLIP], ids=["plain", "one norm over both"])
def test_rows_after_twenty_updates_are_pytorchs(modules, config, differentiate, clip):
    drawn = batches(config)
    assert drawn[0].time_ids.shape == (BATCH, 6)
    clipped = dataclasses.replace(config, clip=clip)
    state = init_state(clipped, start_rows())
    move = jax.jit(lambda state, gradient: apply_update(clipped, state, gradient, jnp.float32(RATE)))
    for batch in drawn:
        _, gradient = differentiate(state.rows, batch, config)
        state = move(state, gradient)
    wanted, norms = their_rows(modules, drawn, clip)
    differences = apart(state.rows, wanted)
    moved = apart(start_rows(), wanted)
    print(f"\nnorms {min(norms):.2e} to {max(norms):.2e}, rows apart", differences, "moved", moved)
    assert max(differences.values()) < 1e-3
    assert min(moved.values()) > 0.1
    if clip is not None:
        # It clips some gradients and not others, so that it is more than a scale, which AdamW would undo.
        assert min(norms) < clip / 1.2 and max(norms) > 1.2 * clip
