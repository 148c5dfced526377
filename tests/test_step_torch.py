"""The step against PyTorch: the same batches through diffusers' models and training recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_step import VOCABULARY, make_frozen, make_task, start_rows  # noqa: E402
from tiny_models import FAMILIES  # noqa: E402
from torch_models import channels_first, write_torch_models  # noqa: E402

from ti_flax.examples import draw  # noqa: E402
from ti_flax.models.stable_diffusion import load_stable_diffusion  # noqa: E402
from ti_flax.optim import move_rows  # noqa: E402
from ti_flax.step import denoising_loss  # noqa: E402

RATE, STEPS = 5e-3, 20


def write_folder(folder, family):
    import json

    modules = write_torch_models(folder, FAMILIES[family])
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(FAMILIES[family]["scheduler"]))
    return modules


def reference_step(modules, scheduler, batch):
    """The loss of diffusers' training script, backpropagated into the token table."""
    tensors = [channels_first(np.asarray(x)) for x in (batch.latents, batch.noise)]
    latents, noise = tensors
    timesteps = torch.tensor(np.asarray(batch.timesteps)).long()
    noisy = scheduler.add_noise(latents, noise, timesteps)
    token_ids = torch.tensor(np.asarray(batch.token_ids)).long()
    hidden_states = modules["text_encoder"](token_ids)[0]
    predicted = modules["unet"](noisy, timesteps, hidden_states).sample
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    loss = torch.nn.functional.mse_loss(predicted, target)
    loss.backward()
    return loss.item()


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_gradients_and_twenty_updates_are_pytorchs(tmp_path, family):
    from diffusers import DDPMScheduler

    modules = write_folder(tmp_path, family)
    scheduler = DDPMScheduler.from_config(FAMILIES[family]["scheduler"])
    task = make_task(family)
    model = load_stable_diffusion(tmp_path)
    frozen = make_frozen(task) | {name: model.params[name] for name in ("text_encoder", "unet")}
    frozen = jax.tree.map(jnp.asarray, frozen)
    rows = start_rows(task).astype(np.float32)

    for module in modules.values():
        module.requires_grad_(False)
    encoder = modules["text_encoder"]
    encoder.resize_token_embeddings(VOCABULARY + 2, mean_resizing=False)
    weight = encoder.get_input_embeddings().weight
    with torch.no_grad():
        weight[VOCABULARY:] = torch.from_numpy(rows)
    original = weight.detach().clone()
    weight.requires_grad_(True)
    options = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
    optimizer = torch.optim.AdamW([weight], lr=RATE, **options)

    import optax

    ours = optax.adamw(RATE, weight_decay=1e-2)
    state, rows = ours.init(jnp.asarray(rows)), jnp.asarray(rows)
    positions = jnp.arange(2)
    draw_batch = jax.jit(
        lambda step: jax.vmap(
            lambda p: draw(
                task.draw_rules,
                jax.random.key(0),
                frozen["examples"].buckets[0],
                frozen["examples"].token_ids,
                step=step,
                position=p,
            )
        )(positions)
    )
    differentiate = jax.jit(lambda rows, batch: jax.value_and_grad(denoising_loss)(rows, frozen, batch, task))
    for step in range(STEPS):
        batch = draw_batch(jnp.int32(step))
        loss, gradient = differentiate(rows, batch)
        optimizer.zero_grad()
        expected = reference_step(modules, scheduler, batch)
        if step == 0:
            wanted = weight.grad[VOCABULARY:].numpy()
            assert abs(float(loss) - expected) < 1e-5 * expected
            assert np.linalg.norm(wanted) > 1e-6
            first_difference = np.linalg.norm(gradient - wanted) / np.linalg.norm(wanted)
            assert first_difference < 1e-4
        optimizer.step()
        with torch.no_grad():
            weight[:VOCABULARY] = original[:VOCABULARY]
        updates, state = ours.update(gradient, state, rows)
        rows = move_rows(rows, updates, np.array([True, True]))
    wanted = weight[VOCABULARY:].detach().numpy()
    moved = np.linalg.norm(wanted - start_rows(task))
    assert moved > 0.1
    difference = np.linalg.norm(np.asarray(rows) - wanted) / np.linalg.norm(wanted)
    assert difference < 1e-3, difference
    print(family, "gradient", first_difference, "rows", difference)
