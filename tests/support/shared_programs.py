"""Runs of a test file that train with the same options share one compiled step.

Tracing, lowering and compiling take nine tenths of a run on a tiny model, and what most tests of runs look at
(files, hooks, resuming, disks) is none of it. A program is shared where all that decides it is the same: the
options that have to be alike on all hosts of a run, the model's configs, the shapes of all arguments, and the
devices. `compilations` of tiny_run.py forgets them first, so that it counts what a run compiles.
"""

import contextvars
import functools
import json
import pickle

import jax

from ti_flax.run import fit as fit_module
from ti_flax.run import train as run
from ti_flax.training.streaming import Choices

PROGRAMS = {}
# Decide what a program is given, not what it is; where they change a shape, the key has it.
_DATA = {"seed", "train_data_dir", "init_embeds", "initializer_token", "placeholder_token"}
_DATA |= {"learning_rate", "scale_lr", "lr_scheduler", "lr_warmup_steps", "max_train_steps"}
_DATA |= {"prior_loss_weight"}
_config = contextvars.ContextVar("config")


def _shape(leaf):
    return leaf.shape, str(leaf.dtype)


def share_programs():
    """Lets runs in this process look for a compiled step before they make one."""
    begin, lower_step = run.begin_compiling, fit_module.lower_step

    @functools.wraps(begin)
    def begin_with(config, *args):
        _config.set(config)
        return begin(config, *args)

    @functools.wraps(lower_step)
    def found_or_lowered(step_config, shapes, slots, state, arguments, sender):
        given = step_config, shapes, slots, state, arguments, sender
        config = _config.get(None)
        if config is None:  # not a run: a benchmark that compiles for itself
            return lower_step(*given)
        options = {name: value for name, value in run.must_match(config).items() if name not in _DATA}
        leaves, structure = jax.tree.flatten((state, arguments, sender.empty()))
        key = (
            json.dumps([options, step_config.model.configs], sort_keys=True, default=str),
            (structure, *map(_shape, leaves)),
            (tuple(slots.devices), slots.count, slots.whole, shapes),
            (str(step_config.trainable), step_config.first_added_id),
        )
        return Shared(key, lambda: lower_step(*given))

    run.begin_compiling, fit_module.lower_step = begin_with, found_or_lowered
    share_choices()


def share_choices():
    """Lets runs that draw their samples by the same rules share what chooses these on the host."""
    make = Choices.__init__

    @functools.wraps(make)
    def made_or_found(self, config):
        make(self, config)
        self._choices = PROGRAMS.setdefault(("choices", pickle.dumps(config.draw_rules)), self._choices)

    Choices.__init__ = made_or_found


class Shared:
    """A lowered program that is compiled, and lowered before that, unless another run has done so."""

    def __init__(self, key, lower):
        self._key, self._lower = key, lower

    def compile(self, **options):
        if self._key not in PROGRAMS:
            PROGRAMS[self._key] = self._lower().compile(**options)
        return PROGRAMS[self._key]
