"""What people tune enters the step's program as an argument: with other numbers it is the same program."""

import jax
import numpy as np
import pytest
from tiny_models import SMALL
from tiny_run import configure
from tiny_step import VOCABULARY, make_frozen

from ti_flax.data.dataset import padded
from ti_flax.embedding.rows import AddedRows
from ti_flax.models.stable_diffusion import random_stable_diffusion
from ti_flax.run.fit import CHUNK_CAPACITY
from ti_flax.run.step_config import make_step_config
from ti_flax.training.devices import pmapped, replicate
from ti_flax.training.state import init_state
from ti_flax.training.step import make_chunk


@pytest.fixture(scope="module")
def lowered(tmp_path_factory):
    """The text of the step's program for a configuration with some changes, before it is compiled."""
    place, model = tmp_path_factory.mktemp("place"), random_stable_diffusion(SMALL["sd1"], seed=0)
    devices = jax.devices()[:1]

    def text(added, **changes):
        config = configure(place, place / "out", **changes)
        step_config, _ = make_step_config(config, model, VOCABULARY, added=added, devices=1)
        frozen = make_frozen(step_config) | {"settings": step_config.settings}
        frozen["examples"] = padded(frozen["examples"])
        key = np.asarray(jax.random.key_data(jax.random.key(config.training.seed)))
        state, rates = init_state(step_config, added.start), np.zeros(CHUNK_CAPACITY, np.float32)
        arguments = replicate((state, frozen, key, rates, np.int32(1)), devices)
        return pmapped(make_chunk(step_config, CHUNK_CAPACITY), devices).lower(*arguments).as_text()

    return text


def rows(scale=1.0):
    start = np.full((2, 32), 0.02 * scale, np.float32)
    return AddedRows(start, np.array([True, True]), median_norm=0.4 * scale, largest_norm=0.6 * scale)


@pytest.mark.parametrize(
    ("fixed", "one", "other"),
    [
        ({}, {"learning_rate": 1e-3}, {"learning_rate": "0.05:3, 0.001"}),
        ({}, {"max_train_steps": 6}, {"max_train_steps": 3000}),
        ({}, {"seed": 1}, {"seed": 2}),
        ({}, {"lr_scheduler": "constant"}, {"lr_scheduler": "cosine", "lr_warmup_steps": 2}),
        ({}, {"max_grad_norm": 1.0}, {"max_grad_norm": 0.5}),
        ({}, {"grad_clip_value": 1.0}, {"grad_clip_value": 0.5}),
        ({"use_ema": True}, {"ema_decay": 0.9}, {"ema_decay": 0.99}),
        ({}, {"pull_to_start": 0.1}, {"pull_to_start": 0.2}),
        ({}, {"snr_gamma": 5.0}, {"snr_gamma": 1.0}),
        ({"loss_type": "huber"}, {"huber_c": 0.1, "huber_schedule": "snr"}, {"huber_schedule": "constant"}),
    ],
)
def test_other_numbers_are_the_same_program(lowered, fixed, one, other):
    assert lowered(rows(), **fixed, **one) == lowered(rows(), **fixed, **other)


@pytest.mark.parametrize("norm", ["keep", "limit"])
def test_another_start_and_vocabulary_are_the_same_program(lowered, norm):
    changes = {"embedding_norm": norm, "pull_to_start": 0.1}
    assert lowered(rows(), **changes) == lowered(rows(2.0), **changes)


def test_what_is_computed_otherwise_is_another_program(lowered):
    plain = lowered(rows())
    for changes in ({"optimizer": "lion"}, {"snr_gamma": 5.0}, {"loss_type": "l1"}, {"max_grad_norm": 1.0}):
        assert lowered(rows(), **changes) != plain
