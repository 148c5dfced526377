"""Second stage of the base model: text encoder and UNet, together (arXiv:2112.10752, eq. 3)."""

import argparse
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from progress import run_updates, warmup_cosine

from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.stable_diffusion import FlaxStableDiffusion
from ti_flax.models.tokenizer import encode_prompts

# Share of samples without a caption, for classifier-free guidance (arXiv:2207.12598).
_NO_CAPTION = 0.1
_EMA_DECAY = 0.999
# The loss of a timestep is weighted by its SNR, limited to this range, over its SNR, then all by their mean.
# The upper limit is that of arXiv:2303.09556. The lower one lifts the noisy end, where a shape is decided:
# without it, shapes were right in 16% of samples after 11,000 updates; 2,800 updates with it made that 66%.
_SNR_RANGE = (0.3, 5.0)


def make_optimizer(steps: int, peak_rate: float) -> optax.GradientTransformation:
    """AdamW at a rate that warms up and falls over so many updates, with gradients clipped together."""
    rate = warmup_cosine(peak_rate, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.01))


def snr_weights(schedule: NoiseSchedule) -> np.ndarray:
    """The weight of each timestep in the loss, `[timesteps]` float32, whose mean is one."""
    signal = schedule.alphas_cumprod / (1.0 - schedule.alphas_cumprod)
    weights = np.clip(signal, *_SNR_RANGE) / signal
    return weights / weights.mean()


def shardings(batch_size: int) -> tuple[NamedSharding, NamedSharding]:
    """Of what every device holds, and of a batch that as many devices as can share out.

    On the CPU a single device leaves most of the cores idle.
    """
    mesh = Mesh(jax.devices()[: math.gcd(batch_size, jax.device_count())], ("samples",))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("samples"))


def averaged(average: Any, params: Any, step: jax.Array) -> Any:
    """The running average with the next parameters.

    Early on it follows quickly, so that it does not remember the start.
    """
    decay = jnp.minimum(_EMA_DECAY, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, average, 1.0 - decay)


def choose(
    keys: jax.Array, described: np.ndarray, counts: tuple[int, ...], options: argparse.Namespace
) -> tuple[jax.Array, jax.Array]:
    """Draws the scenes of a batch and which of its captions each is told by, `[batch]` int32 each.

    Args:
      keys: `[2]`, of the two draws.
      described: `[some scenes]` int; a share of the batch, `options.described`, is of these alone.
      counts: of scenes, and of captions of each.
      options: of the command line.
    """
    size = (options.batch_size,)
    scene = jax.random.randint(keys[0], size, 0, counts[0])
    if options.described and len(described):
        chosen = jax.random.bernoulli(jax.random.fold_in(keys[0], 1), options.described, size)
        scene = jnp.where(chosen, jnp.asarray(described)[scene % len(described)], scene)
    return scene, jax.random.randint(keys[1], size, 0, counts[1])


def train_denoiser(
    model: FlaxStableDiffusion,
    latents: np.ndarray,
    token_ids: np.ndarray,
    described: np.ndarray,
    tokenizer: Any,
    options: argparse.Namespace,
) -> tuple[dict[str, Any], float]:
    """Trains text encoder and UNet; returns the running average of their parameters, and the seconds.

    Args:
      model: modules and starting parameters.
      latents: `[scenes, height, width, channels]` float32, unscaled.
      token_ids: `[scenes, captions, tokens]` int32.
      described: `[some scenes]` int, those whose shape has no noun.
      tokenizer: for the empty caption.
      options: of the command line.
    """
    schedule = NoiseSchedule.from_config(model.configs["scheduler"])
    optimizer = make_optimizer(options.denoiser_steps, options.peak_rate)
    seed = jax.random.key(options.seed + 1)
    everywhere, shared = shardings(options.batch_size)
    resident = jax.device_put(latents * np.float32(model.vae.config.scaling_factor), everywhere)
    captions = jax.device_put(token_ids, everywhere)
    empty = jnp.asarray(encode_prompts(tokenizer, [""])[0])
    weights = jnp.asarray(snr_weights(schedule))
    encode_ids = model.text_encoder.encode_ids

    def loss(params, key, resident, captions):
        keys = jax.random.split(key, 5)
        scene, which = choose(keys[:2], described, token_ids.shape[:2], options)
        silent = jax.random.bernoulli(keys[2], _NO_CAPTION, scene.shape)
        ids = jnp.where(silent[:, None], empty, captions[scene, which])
        ids, clean = jax.lax.with_sharding_constraint((ids, resident[scene]), shared)
        noise = jax.random.normal(keys[3], clean.shape)
        timesteps = jax.random.randint(keys[4], scene.shape, 0, schedule.num_train_timesteps)
        hidden_states = model.text_encoder.apply({"params": params["text_encoder"]}, ids, method=encode_ids)
        noisy = schedule.add_noise(clean, noise, timesteps)
        predicted = jnp.asarray(model.unet.apply({"params": params["unet"]}, noisy, timesteps, hidden_states))
        return jnp.mean(jnp.mean(jnp.square(predicted - noise), axis=(1, 2, 3)) * weights[timesteps])

    @jax.jit
    def update(state, step, resident, captions):
        params, average, opt_state = state
        value, gradient = jax.value_and_grad(loss)(params, jax.random.fold_in(seed, step), resident, captions)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, averaged(average, params, step), opt_state), value

    params = {name: jax.tree.map(jnp.asarray, model.params[name]) for name in ("text_encoder", "unet")}
    state, seconds = run_updates(
        lambda state, step: update(state, step, resident, captions),
        (params, params, optimizer.init(params)),
        steps=options.denoiser_steps,
        file=options.work / "denoiser.msgpack",
        save_every=options.save_every,
        name="text encoder and UNet",
    )
    return state[1], seconds
