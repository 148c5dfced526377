"""A step on a tiny model, with frozen parts and examples."""

import dataclasses

import numpy as np
from row_trees import tree
from tiny_models import LEAST

from ti_flax.data.dataset import one_shape
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.stable_diffusion import random_stable_diffusion
from ti_flax.training import optimizer as optim
from ti_flax.training.learning_rate import Shape, learning_rate_schedule, rates_after
from ti_flax.training.state import StepConfig

VOCABULARY = 120


CAPACITY = 8
# From a number of updates made to the learning rates of the next ones.
_SCHEDULE = learning_rate_schedule(Shape(name="cosine", total_steps=20, warmup_steps=2), peak=1e-2)
rates = rates_after(_SCHEDULE, CAPACITY)


def make_step_config(family="sd1", *, trainable=(True, True), **changes):
    model = random_stable_diffusion(LEAST[family], seed=0)
    trainable = trainable if isinstance(trainable, dict) else tree(np.array(trainable))

    def optimizer(rate, clip):
        adamw = optim.make_optimizer("adamw", rate, arguments={"weight_decay": 1e-2}, max_grad_norm=clip)
        return optim.mask_rows(adamw, trainable)

    config = StepConfig(
        model=model,
        schedule=NoiseSchedule.from_config(model.configs["scheduler"]),
        optimizer=optimizer,
        trainable=trainable,
        first_added_id=VOCABULARY,
        batch_size=8,
    )
    return dataclasses.replace(config, **changes)


def make_frozen(config, images=3):
    rng = np.random.default_rng(1)
    token_ids = rng.integers(0, VOCABULARY, (4, 77)).astype(np.int32)
    token_ids[:, 5:7] = [VOCABULARY, VOCABULARY + 1]
    return {
        "text_encoder": config.model.params["text_encoder"],
        "unet": config.model.params["unet"],
        "examples": one_shape(rng.normal(size=(images, 2, 4, 4, 8)).astype(np.float32), token_ids),
    }


def start_rows(config):
    width = config.model.widths["text_encoder"]
    return tree(np.random.default_rng(2).normal(size=(2, width)) * 0.02)
