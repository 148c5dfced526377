"""What moves the rows, as configured: learning rate, the optimizer's options, rules for the rows."""

from __future__ import annotations

from typing import Any

from ti_flax.config.options import ADAM_OPTIONS, DIRECTIONAL, OptimizerOptions, TrainingOptions
from ti_flax.embedding.rows import AddedRows, RowRules
from ti_flax.errors import ConfigError
from ti_flax.training.devices import batches_at_once
from ti_flax.training.learning_rate import Schedule, Shape, learning_rate_schedule, stepped_schedule
from ti_flax.training.optimizer import optimizer_arguments

# The adam_* options under optax's names.
_ADAMS = {"adam_beta1": "b1", "adam_beta2": "b2", "adam_epsilon": "eps", "adam_weight_decay": "weight_decay"}


def update_samples(training: TrainingOptions, batches: int | None = None) -> int:
    """Samples of one update, of which so many batches are computed at once (None: as many as here)."""
    batches = batches_at_once() if batches is None else batches
    return training.train_batch_size * training.gradient_accumulation_steps * batches


def row_rules(options: OptimizerOptions, added: AddedRows) -> RowRules:
    """What is done to the rows besides the optimizer's updates.

    Directions learn on the sphere of the vocabulary's median norm, as `embedding_norm` keep has it and the
    report's curves measure norms against. The paper takes the mean, which a few long rows raise: by 3% in
    the demo's vocabulary.
    """
    ema_decay = options.ema_decay if options.use_ema else None
    if options.optimizer == DIRECTIONAL:
        kappa = options.directional_kappa
        return RowRules(norm=added.median_norm, kappa=kappa, start=added.start, ema_decay=ema_decay)
    norms = {"none": None, "keep": added.median_norm, "limit": added.largest_norm}
    return RowRules(
        norm=norms[options.embedding_norm],
        only_longer=options.embedding_norm == "limit",
        pull=options.pull_to_start or None,
        start=added.start if options.pull_to_start else None,
        ema_decay=ema_decay,
    )


def make_schedule(
    options: OptimizerOptions, training: TrainingOptions, batches: int | None = None
) -> Schedule:
    """The learning rate of every update."""
    factor = rate_factor(options, training, batches)
    if isinstance(options.learning_rate, str):
        return stepped_schedule(options.learning_rate, factor=factor)
    shape = Shape(
        name=options.lr_scheduler,
        total_steps=training.total_steps or 1,
        warmup_steps=options.lr_warmup_steps,
        num_cycles=options.lr_num_cycles,
        power=options.lr_power,
        step_rules=options.lr_step_rules,
        timescale=options.lr_scheduler_timescale,
        min_ratio=options.lr_scheduler_min_lr_ratio,
        decay_steps=options.lr_decay_steps,
    )
    return learning_rate_schedule(shape, peak=options.learning_rate * factor)


def rate_factor(options: OptimizerOptions, training: TrainingOptions, batches: int | None = None) -> int:
    """What `scale_lr` multiplies learning_rate by: the samples of an update, as in the reference."""
    return update_samples(training, batches) if options.scale_lr else 1


def describe_rate(options: OptimizerOptions, training: TrainingOptions, batches: int | None = None) -> str:
    """The learning rate in words, after `scale_lr`."""
    rate, factor = options.learning_rate, rate_factor(options, training, batches)
    if isinstance(rate, str):
        return rate if factor == 1 else f"{factor} x ({rate})"
    return f"{rate * factor:g}"


def read_optimizer_arguments(options: OptimizerOptions) -> dict[str, Any]:
    """The optimizer's own options: those of Adam where it has them, then `optimizer_args`.

    Raises:
      ConfigError: the optimizer has no such option, or it is given twice.
    """
    arguments = {
        theirs: getattr(options, ours)
        for ours, theirs in _ADAMS.items()
        if options.optimizer in ADAM_OPTIONS[ours]
    }
    given = optimizer_arguments(options.optimizer, options.optimizer_args or ())
    for ours, theirs in _ADAMS.items():
        if theirs in given and getattr(options, ours) != getattr(OptimizerOptions, ours):
            raise ConfigError(
                f"{ours} and {theirs} of optimizer_args exclude each other", remedy="Leave one of them out."
            )
    return arguments | given
