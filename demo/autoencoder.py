"""First stage of the base model: the autoencoder (arXiv:2112.10752, section 3.1, without its adversary)."""

import argparse
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from progress import run_updates, warmup_cosine

from ti_flax.models.stable_diffusion import FlaxStableDiffusion

_PEAK_RATE = 2e-3
# Against a mean absolute error: latents near a normal distribution that bear a few hundredths of noise.
_KL_WEIGHT = 1e-3
# At the start nearly no noise: with the usual variance of 1 it would drown the first signal.
_FIRST_LOG_VARIANCE = -6.0
_EDGE_WEIGHT = 0.5


def reconstruction_loss(found: jax.Array, wanted: jax.Array) -> jax.Array:
    """Mean absolute error of pixels and of their differences to the right and below, `[]`."""
    error = found - wanted
    edges = jnp.abs(jnp.diff(error, axis=1)).mean() + jnp.abs(jnp.diff(error, axis=2)).mean()
    return jnp.abs(error).mean() + _EDGE_WEIGHT * edges


def train_autoencoder(
    model: FlaxStableDiffusion, images: np.ndarray, options: argparse.Namespace
) -> tuple[Any, float]:
    """Trains the autoencoder on `[images, 64, 64, 3]` uint8; returns its parameters and the seconds."""
    rate = warmup_cosine(_PEAK_RATE, options.autoencoder_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))
    seed = jax.random.key(options.seed)
    resident = jnp.asarray(images)

    def loss(params, batch, key):
        moments = jnp.asarray(model.vae.apply({"params": params}, batch, method=model.vae.encode))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        sampled = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        decoded = jnp.asarray(model.vae.apply({"params": params}, sampled, method=model.vae.decode))
        divergence = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)
        return reconstruction_loss(decoded, batch) + _KL_WEIGHT * divergence

    @jax.jit
    def update(state, step, resident):
        params, opt_state = state
        pick, noise = jax.random.split(jax.random.fold_in(seed, step))
        index = jax.random.randint(pick, (options.autoencoder_batch_size,), 0, len(images))
        batch = resident[index].astype(jnp.float32) / 127.5 - 1.0
        value, gradient = jax.value_and_grad(loss)(params, batch, noise)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    params = jax.tree.map(jnp.asarray, model.params["vae"])
    channels, moments = model.vae.config.latent_channels, params["quant_conv"]
    moments["bias"] = moments["bias"].at[channels:].set(_FIRST_LOG_VARIANCE)
    state, seconds = run_updates(
        lambda state, step: update(state, step, resident),
        (params, optimizer.init(params)),
        steps=options.autoencoder_steps,
        file=options.work / "autoencoder.msgpack",
        save_every=options.save_every,
        name="autoencoder",
    )
    return state[0], seconds


def scaled(model: FlaxStableDiffusion, latents: np.ndarray) -> FlaxStableDiffusion:
    """The model with the scaling factor that gives its latents unit variance."""
    factor = round(float(1.0 / latents.std()), 4)
    vae_config = dataclasses.replace(model.vae.config, scaling_factor=factor)
    configs = model.configs | {"vae": model.configs["vae"] | {"scaling_factor": factor}}
    return dataclasses.replace(model, vae=model.vae.clone(config=vae_config), configs=configs)
