"""Chunks of updates of one concept, and samples, put together by hand."""

import jax
import numpy as np

from ti_flax.training.batches import choose, draw, example_of
from ti_flax.training.devices import Slots, of_slot, pmapped, replicate, stacked
from ti_flax.training.state import Taught
from ti_flax.training.step import make_chunk
from ti_flax.training.streaming import Feed, Sender, shapes_of

KEY = np.asarray(jax.random.key_data(jax.random.key(7)))


def draw_sample(rules, key, bucket, prompts, *, step, position, round=None):
    """One sample of a run, without the batch axis, out of a padded bucket."""
    choice = choose(rules, key, bucket, prompts, step=step, position=position, round=round)
    shown = {"image": choice.image, "mirrored": choice.mirrored, "prompt": choice.prompt}
    return draw(rules, example_of(bucket, prompts, **shown), choice.timestep, choice.keys)


def chunk_of(config, capacity, frozen, devices):
    """The chunk of updates for examples of such shapes, spread over devices."""
    return pmapped(make_chunk(config, capacity, shapes_of(frozen["examples"])), devices)


def sender_of(config, examples, devices, capacity, key=KEY, *, kind=Sender):
    """What sends the devices the images of one concept."""
    shapes = shapes_of(examples)
    sender = kind(config, shapes, Slots(1, devices), capacity)
    sender.seat(0, Feed(config, examples, key, shapes, capacity=capacity))
    return sender


def chunk_arguments(config, frozen, state, rates, steps, devices, key=KEY, *, window=None):
    """What a chunk is called with: state, frozen, taught, rates, steps and window, on the devices."""
    slots = Slots(1, devices)
    taught = slots.place(stacked([Taught(key, config.settings)]))
    given = slots.place((np.asarray(rates, np.float32)[None], np.full(1, steps, np.int32)))
    parts = {name: part for name, part in frozen.items() if name != "examples"}
    if window is None:
        sender = sender_of(config, frozen["examples"], devices, len(rates), key)
        window = sender.window([int(state.step)], steps)
    return slots.place(stacked([state])), replicate(parts, devices), taught, *given, window


def fetched(tree, devices):
    """What a chunk gave, of its one concept, on the host."""
    return of_slot(Slots(1, devices).fetch(tree), 0)
