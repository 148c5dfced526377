"""Runs of the tests that train with the same options share one compiled step.

Tracing, lowering and compiling take nine tenths of a run on a tiny model, and what most tests of runs look at
(files, hooks, resuming, disks) is none of it. A program is shared where all that decides it is the same: the
options that have to be alike on all hosts of a run, the model's configs, the shapes of all arguments, and the
devices. What a run compiles beside the step (evaluations and previews) is shared where all options are the
same but for data, folders and intervals. `compilations` of tiny_run.py forgets them first, so that it counts
what a run compiles.
"""

import contextvars
import functools
import json
import pickle

import jax

from ti_flax.run import fit as fit_module
from ti_flax.run import train as run
from ti_flax.run.hooks import Common
from ti_flax.training.streaming import Choices

PROGRAMS = {}
# Decide what a program is given, not what it is; where they change a shape, the key has it.
_DATA = {"seed", "train_data_dir", "init_embeds", "initializer_token", "placeholder_token"}
_DATA |= {"learning_rate", "scale_lr", "lr_scheduler", "lr_warmup_steps", "max_train_steps"}
_DATA |= {"prior_loss_weight", "checkpointing_steps"}
# Decide neither what it is given: where a run reads and writes, and when.
_PLACES = {"pretrained_model_name_or_path", "output_dir", "latents_cache_dir", "resume_from_checkpoint"}
_PLACES |= {"eval_steps", "validation_steps", "save_steps", "only_save_embeds", "overwrite_output_dir"}
_config = contextvars.ContextVar("config")


def _shape(leaf):
    return leaf.shape, str(leaf.dtype)


def _without(options, names):
    return json.dumps({name: options[name] for name in sorted({*options} - names)}, default=str)


def _fixed(step_config):
    """What decides a program besides options, shapes and devices."""
    batch = step_config.batch_size, step_config.accumulation, step_config.device_count
    tokens = str(step_config.trainable), step_config.first_added_id, str(step_config.special)
    return json.dumps(step_config.model.configs, sort_keys=True, default=str), *batch, *tokens


def share_programs():
    """Lets runs in this process look for compiled programs before they make their own."""
    train, lower_step, beside = run._train, fit_module.lower_step, fit_module.Beside

    @functools.wraps(train)
    def train_with(config, *args):
        before = _config.set(config)
        try:
            return train(config, *args)
        finally:
            _config.reset(before)

    @functools.wraps(lower_step)
    def found_or_lowered(step_config, shapes, slots, state, arguments, sender):
        given = step_config, shapes, slots, state, arguments, sender
        config = _config.get(None)
        if config is None:  # not a run: a benchmark that compiles for itself
            return lower_step(*given)
        leaves, structure = jax.tree.flatten((state, arguments, sender.empty()))
        key = (
            _without(run.must_match(config), _DATA),
            (structure, *map(_shape, leaves)),
            (tuple(slots.devices), slots.count, slots.whole, shapes),
            _fixed(step_config),
        )
        return Shared(key, lambda: lower_step(*given))

    @functools.wraps(beside)
    def beside_with(config, step_config, inputs, frozen, taught, devices, *args, **named):
        options = _without(config.to_dict(), _DATA | _PLACES)
        key = "beside", options, tuple(devices), _fixed(step_config)
        programs = PROGRAMS.setdefault(key, {})
        for name in [name for name, program in programs.items() if program.ended and program._error]:
            del programs[name]
        given = config, step_config, inputs, frozen, taught, devices, *args
        return beside(*given, **{"common": Common(programs)} | named)

    run._train, fit_module.lower_step, fit_module.Beside = train_with, found_or_lowered, beside_with
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
