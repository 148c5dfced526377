"""Runs of three concepts that differ in all that a concept may set."""

import jax
from tiny_run import configure

from ti_flax.config import RunConfig

NAMES = ("one", "two", "three")


def listed(place, **changes):
    """Three concepts that differ in images, seed, rate, vectors and steps, as entries of a list."""
    entries = [
        {"name": "one", "seed": 1, "max_train_steps": 6},
        {"name": "two", "seed": 2, "learning_rate": 3e-2, "num_vectors": 1, "max_train_steps": 4},
        {"name": "three", "seed": 3, "train_data_dir": str(place / "five"), "max_train_steps": 5},
    ]
    return [entry | changes.get(entry["name"], {}) for entry in entries]


def configure_many(place, output, concepts, **changes):
    """A run of concepts; an update is of as many samples as one of a single run on all devices."""
    given = {"concepts": concepts, "concepts_at_once": 2, "train_batch_size": len(jax.devices())}
    alone = configure(place, output).to_dict()
    del alone["placeholder_token"]
    return RunConfig.from_dict(alone | given | changes)
