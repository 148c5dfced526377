"""Whole runs on a tiny model: how they are configured, stopped and looked at."""

import contextlib
import logging

import jax
import pytest
from shared_programs import PROGRAMS

from ti_flax.config import RunConfig
from ti_flax.embedding.learned_embeds import load_learned_embeds
from ti_flax.run import train as run
from ti_flax.training.loop import Hook


def configure(place, output, **changes):
    """A run with the model and the images of a folder, that watches nothing unless told to."""
    options = {
        "pretrained_model_name_or_path": str(place / "model"),
        "train_data_dir": str(place / "pictures"),
        "placeholder_token": "<thing>",
        "initializer_token": "toy",
        "num_vectors": 2,
        "resolution": 32,
        "train_batch_size": 1,
        "max_train_steps": 6,
        "learning_rate": 1e-2,
        "seed": 3,
        "checkpointing_steps": 2,
        "only_save_embeds": True,
        "report_to": "none",
        "eval_steps": 0,
        "output_dir": str(output),
        "latents_cache_dir": str(place / "cache"),
    }
    return RunConfig.from_dict(options | changes)


def configure_scheduled(place, output, **changes):
    """The same with a learning rate that changes, and the rows written on the way."""
    schedule = {"lr_scheduler": "cosine", "lr_warmup_steps": 2, "save_steps": 3}
    return configure(place, output, **schedule | changes)


def learned(folder):
    """The rows that a run left, `[vectors, width]`."""
    return load_learned_embeds(folder / "learned_embeds.safetensors")[1]


@contextlib.contextmanager
def compilations():
    """Yields a list that a message of each compilation is added to; runs in it share no program."""
    PROGRAMS.clear()
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("jax._src.interpreters.pxla")
    logger.addHandler(handler)
    jax.config.update("jax_log_compiles", True)
    try:
        yield messages
    finally:
        jax.config.update("jax_log_compiles", False)
        logger.removeHandler(handler)


def train_until(config, step):
    """Runs until after an update, and ends as if the program had been killed there."""

    class StopHere(Hook):
        every = step

        def on_step(self, step, state):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(config, hooks=[StopHere()])
