"""A checkpoint with rows and the state of an optimizer."""

import jax
import numpy as np
from row_trees import tree

from ti_flax.training import optimizer as optim
from ti_flax.training.checkpoint import (
    Checkpoint,
    optimizer_leaves,
)
from ti_flax.training.optimizer import mask_rows

ROWS = tree(np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32))


FINGERPRINT = {"concept": "<cat> from cat", "model": "abc", "images": "def"}


def make_optimizer(learned=3):
    inner = optim.make_optimizer("adamw", lambda step: 1e-3, arguments={"weight_decay": 1e-2})
    return mask_rows(inner, tree(np.arange(3) < learned))


def make_checkpoint(step=5):
    state = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.1), make_optimizer().init(ROWS))
    config = {"learning_rate": 5e-4, "seed": None}
    return Checkpoint(ROWS, optimizer_leaves(state), step, config, FINGERPRINT)
