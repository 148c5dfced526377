"""Many concepts in one run: each learns what it would learn alone, and what goes wrong stays its own."""

import jax
import numpy as np
import pytest
from tiny_folder import write_images
from tiny_run import compilations, configure, learned

from ti_flax.config import RunConfig
from ti_flax.errors import TrainingError
from ti_flax.run import train as run

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


@pytest.fixture(scope="module")
def place(place):
    write_images(place / "five", count=5)
    return place


@pytest.fixture(scope="module")
def together(place, tmp_path_factory):
    output = tmp_path_factory.mktemp("together")
    with compilations() as compiled:
        run.train(configure_many(place, output, listed(place)))
    return output, compiled


@pytest.mark.parametrize("name", NAMES)
def test_each_learns_what_it_would_learn_alone(place, together, tmp_path, name):
    output, _ = together
    [entry] = [entry for entry in listed(place) if entry["name"] == name]
    own = {key: value for key, value in entry.items() if key != "name"}
    run.train(configure(place, tmp_path, **{"placeholder_token": f"<{name}>", "num_vectors": 2} | own))
    alone, found = learned(tmp_path), learned(output / name)
    assert found.shape == alone.shape
    assert np.linalg.norm(found - alone) <= 1e-5 * np.linalg.norm(alone)
