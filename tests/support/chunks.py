"""Chunks of updates of one concept, and samples, put together by hand."""

import jax
import numpy as np

from ti_flax.training.batches import choose, draw, example_of
from ti_flax.training.devices import Slots, of_slot, pmapped, replicate, stacked
from ti_flax.training.state import Taught
from ti_flax.training.step import make_chunk
from ti_flax.training.streaming import shapes_of

KEY = np.asarray(jax.random.key_data(jax.random.key(7)))


def draw_sample(rules, key, bucket, prompts, *, step, position, round=None):
    """One sample of a run, without the batch axis, out of a padded bucket."""
    choice = choose(rules, key, bucket, prompts, step=step, position=position, round=round)
    shown = {"image": choice.image, "mirrored": choice.mirrored, "prompt": choice.prompt}
    return draw(rules, example_of(bucket, prompts, **shown), choice.timestep, choice.keys)


def chunk_of(config, capacity, frozen, devices):
    """The chunk of updates for such examples, spread over devices."""
    return pmapped(make_chunk(config, capacity, shapes_of(frozen["examples"])), devices)


def chunk_arguments(config, frozen, state, rates, steps, devices, key=KEY):
    """What a chunk is called with: state, frozen, taught, rates and steps, on the devices."""
    slots = Slots(1, devices)
    taught = slots.place(stacked([Taught(key, config.settings)]))
    given = slots.place((np.asarray(rates, np.float32)[None], np.full(1, steps, np.int32)))
    return slots.place(stacked([state])), replicate(frozen, devices), taught, *given


def fetched(tree, devices):
    """What a chunk gave, of its one concept, on the host."""
    return of_slot(Slots(1, devices).fetch(tree), 0)
