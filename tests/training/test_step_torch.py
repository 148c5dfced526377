"""The step against PyTorch: the same batches through diffusers' models and training recipe."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from chunks import draw_sample  # noqa: E402
from diffusers.training_utils import compute_snr  # noqa: E402
from row_trees import only, tree  # noqa: E402
from tiny_models import SMALL  # noqa: E402
from tiny_step import VOCABULARY, make_frozen, make_step_config, start_rows  # noqa: E402
from torch_models import channels_first, write_torch_models  # noqa: E402

from ti_flax.config.options import LossOptions  # noqa: E402
from ti_flax.data.dataset import padded  # noqa: E402
from ti_flax.models.stable_diffusion import load_stable_diffusion, random_stable_diffusion  # noqa: E402
from ti_flax.training.batches import Batch  # noqa: E402
from ti_flax.training.objective import Objective  # noqa: E402
from ti_flax.training.optimizer import apply_updates  # noqa: E402
from ti_flax.training.step import denoising_loss  # noqa: E402

RATE, STEPS = 5e-3, 20


def write_folder(folder, family):
    import json

    modules = write_torch_models(folder, SMALL[family])
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SMALL[family]["scheduler"]))
    return modules


def reference_step(modules, scheduler, batch, snr_gamma=None):
    """The loss of diffusers' training scripts, backpropagated into the token table."""
    tensors = [channels_first(np.asarray(x)) for x in (batch.latents, batch.noise)]
    latents, noise = tensors
    timesteps = torch.tensor(np.asarray(batch.timesteps)).long()
    noisy = scheduler.add_noise(latents, noise, timesteps)
    token_ids = torch.tensor(np.asarray(batch.token_ids)).long()
    hidden_states = modules["text_encoder"](token_ids)[0]
    predicted = modules["unet"](noisy, timesteps, hidden_states).sample
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    loss = torch.nn.functional.mse_loss(predicted, target, reduction="none")
    if batch.loss_weights is not None:
        loss = loss * torch.tensor(np.asarray(batch.loss_weights))[:, None]
    loss = loss.mean(dim=(1, 2, 3))
    if snr_gamma is not None:
        snr = compute_snr(scheduler, timesteps)
        loss = loss * torch.clamp(snr, max=snr_gamma) / (snr + 1 if velocity else snr)
    loss = loss.mean()
    loss.backward()
    return loss.item()


def learn_rows(modules, rows):
    """Appends rows to the token table and returns it as the only thing that is differentiated."""
    for module in modules.values():
        module.requires_grad_(False)
    encoder = modules["text_encoder"]
    encoder.resize_token_embeddings(VOCABULARY + 2, mean_resizing=False)
    weight = encoder.get_input_embeddings().weight
    with torch.no_grad():
        weight[VOCABULARY:] = torch.from_numpy(rows)
    return weight.requires_grad_(True)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_masks_and_min_snr_have_pytorchs_gradient(tmp_path, family):
    from diffusers import DDPMScheduler

    modules = write_folder(tmp_path, family)
    scheduler = DDPMScheduler.from_config(SMALL[family]["scheduler"])
    config = make_step_config(family, model=random_stable_diffusion(SMALL[family], seed=0))
    model = load_stable_diffusion(tmp_path)
    frozen = {name: jax.tree.map(jnp.asarray, model.params[name]) for name in ("text_encoder", "unet")}
    rows = only(start_rows(config)).astype(np.float32)
    weight = learn_rows(modules, rows)

    rng = np.random.default_rng(4)
    masks = rng.uniform(size=(3, 4, 4)).astype(np.float32).round(1)
    token_ids = make_frozen(config)["examples"].token_ids[0, :3]
    latents, noise = rng.normal(size=(2, 3, 4, 4, 4)).astype(np.float32)
    # Where the ratio is above gamma, about it, and far below.
    batch = Batch(latents, noise, np.array([20, 300, 900], np.int32), token_ids, masks)
    objective = Objective.from_options(LossOptions(snr_gamma=5.0), config.schedule)
    weighted = dataclasses.replace(config, objective=objective)
    differentiate = jax.jit(jax.value_and_grad(denoising_loss), static_argnums=3)
    loss, gradient = differentiate(tree(jnp.asarray(rows)), frozen, batch, weighted)
    plain = reference_step(modules, scheduler, batch._replace(loss_weights=None))
    unweighted = weight.grad[VOCABULARY:].numpy().copy()
    weight.grad = None
    expected = reference_step(modules, scheduler, batch, snr_gamma=5.0)
    wanted = weight.grad[VOCABULARY:].numpy()
    assert abs(float(loss) - expected) < 1e-5 * expected
    difference = np.linalg.norm(only(gradient) - wanted) / np.linalg.norm(wanted)
    assert difference < 1e-4
    # The weights matter, and do not merely scale.
    assert abs(expected / plain - 1) > 0.05
    scale = np.vdot(unweighted, wanted) / np.vdot(unweighted, unweighted)
    assert np.linalg.norm(wanted - scale * unweighted) > 0.01 * np.linalg.norm(wanted)
    print(family, "masks and min-SNR, gradient", difference)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_gradients_and_twenty_updates_are_pytorchs(tmp_path, family):
    from diffusers import DDPMScheduler

    modules = write_folder(tmp_path, family)
    scheduler = DDPMScheduler.from_config(SMALL[family]["scheduler"])
    config = make_step_config(family, model=random_stable_diffusion(SMALL[family], seed=0))
    model = load_stable_diffusion(tmp_path)
    frozen = make_frozen(config) | {name: model.params[name] for name in ("text_encoder", "unet")}
    examples = padded(frozen.pop("examples"))
    frozen = jax.tree.map(jnp.asarray, frozen)
    rows = only(start_rows(config)).astype(np.float32)

    weight = learn_rows(modules, rows)
    original = weight.detach().clone()
    options = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
    optimizer = torch.optim.AdamW([weight], lr=RATE, **options)

    import optax

    ours = optax.adamw(RATE, weight_decay=1e-2)
    rows = tree(jnp.asarray(rows))
    state = ours.init(rows)
    positions = jnp.arange(2)
    draw_batch = jax.jit(
        lambda step: jax.vmap(
            lambda p: draw_sample(
                config.draw_rules,
                jax.random.key(0),
                examples.buckets[0],
                examples.prompts,
                step=step,
                position=p,
            )
        )(positions)
    )
    differentiate = jax.jit(
        lambda rows, batch: jax.value_and_grad(denoising_loss)(rows, frozen, batch, config)
    )
    for step in range(STEPS):
        batch = draw_batch(jnp.int32(step))
        loss, gradient = differentiate(rows, batch)
        optimizer.zero_grad()
        expected = reference_step(modules, scheduler, batch)
        if step == 0:
            wanted = weight.grad[VOCABULARY:].numpy()
            assert abs(float(loss) - expected) < 1e-5 * expected
            assert np.linalg.norm(wanted) > 1e-6
            first_difference = np.linalg.norm(only(gradient) - wanted) / np.linalg.norm(wanted)
            assert first_difference < 1e-4
        optimizer.step()
        with torch.no_grad():
            weight[:VOCABULARY] = original[:VOCABULARY]
        updates, state = ours.update(gradient, state, rows)
        rows = apply_updates(rows, updates, tree(np.array([True, True])))
    wanted = weight[VOCABULARY:].detach().numpy()
    moved = np.linalg.norm(wanted - only(start_rows(config)))
    assert moved > 0.1
    difference = np.linalg.norm(np.asarray(only(rows)) - wanted) / np.linalg.norm(wanted)
    assert difference < 1e-3, difference
    print(family, "gradient", first_difference, "rows", difference)
