"""Options of the start, the rate and the optimizer that exclude each other."""

from ti_flax.config.options import ADAM_OPTIONS, SCHEDULE_FREE, ConceptOptions, OptimizerOptions
from ti_flax.config.steps import parse_steps
from ti_flax.config.values import options_of
from ti_flax.errors import ConfigError

# The learning rate that `polynomial` ends at, the reference scheduler's default.
POLYNOMIAL_LR_END = 1e-7


def refuse_contradictory_rows(
    concept: ConceptOptions, optimizer: OptimizerOptions, max_train_steps: int | None
) -> None:
    """Raise `ConfigError` for options that cannot both do what they say, with both names."""
    _refuse_starts(concept)
    _refuse_rates(optimizer, max_train_steps)
    _refuse_scheduler_options(optimizer, max_train_steps)
    _refuse_optimizers(optimizer)


def _refuse_starts(concept: ConceptOptions) -> None:
    names = ["initializer_token"] if concept.initializer_token is not None else []
    names += ["init_embeds"] if concept.init_embeds is not None else []
    if concept.initializer_mode == "random":
        if names:
            raise ConfigError(
                "initializer_mode",
                expected=f"spread or mean together with {names[0]}",
                found="random, which starts from neither words nor a file",
                remedy=f"Set {names[0]} to null, or leave initializer_mode out.",
            )
        return
    if len(names) == 2:
        raise ConfigError(
            "initializer_token and init_embeds exclude each other",
            remedy="Set one of them to null: the vectors start from words or from a file.",
        )
    if not names:
        raise ConfigError(
            "initializer_token",
            expected="a known word",
            found="null",
            remedy="Name one, or give init_embeds or initializer_mode random.",
        )


def _refuse_rates(optimizer: OptimizerOptions, steps: int | None) -> None:
    rate, scheduler = optimizer.learning_rate, optimizer.lr_scheduler
    if isinstance(rate, str):
        if scheduler != "constant":
            raise ConfigError(
                "lr_scheduler",
                expected="constant with a learning_rate in steps",
                found=scheduler,
                remedy="Give learning_rate one number, or leave lr_scheduler out.",
            )
        last = parse_steps(rate)[-1][1]
        if last is not None and (steps is None or last < steps):
            raise ConfigError(
                "learning_rate",
                expected=f"a last rate without a step, or until max_train_steps ({steps or 'null'})",
                found=f"{rate!r}, which ends at step {last}",
                remedy=f'Write for example "{rate.rpartition(":")[0]}", or set max_train_steps to {last}.',
            )
    elif scheduler == "polynomial" and rate <= POLYNOMIAL_LR_END:
        raise ConfigError(
            "learning_rate",
            expected=f"more than {POLYNOMIAL_LR_END:g}, where lr_scheduler polynomial ends",
            found=f"{rate:g}",
        )


def _refuse_scheduler_options(optimizer: OptimizerOptions, steps: int | None) -> None:
    rules, scheduler = optimizer.lr_step_rules, optimizer.lr_scheduler
    if (rules is None) == (scheduler == "piecewise_constant"):
        raise ConfigError(
            "lr_step_rules" if rules is None else "lr_scheduler",
            expected='rules such as "1:10,0.1:20,0.005" with lr_scheduler piecewise_constant'
            if rules is None
            else "piecewise_constant with lr_step_rules",
            found="null" if rules is None else scheduler,
        )
    if rules is not None:
        _check_rules(rules)
    falls = optimizer.lr_decay_steps
    if scheduler != "warmup_stable_decay" or falls is None or steps is None:
        return
    if falls > steps - optimizer.lr_warmup_steps:
        raise ConfigError(
            "lr_decay_steps",
            expected=f"at most max_train_steps - lr_warmup_steps ({steps - optimizer.lr_warmup_steps})",
            found=str(falls),
        )


def _check_rules(rules: str) -> None:
    try:
        last = parse_steps(rules)[-1][1]
        problem = "" if last is None else "The last factor holds to the end, so it has no step"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise ConfigError(
            "lr_step_rules",
            expected='factors such as "1:10,0.1:20,0.005"',
            found=repr(rules),
            remedy=f"{problem}.",
        )


def _refuse_optimizers(optimizer: OptimizerOptions) -> None:
    name = optimizer.optimizer
    defaults = {each.name: each.default for each in options_of(OptimizerOptions)}
    for option, users in ADAM_OPTIONS.items():
        value = getattr(optimizer, option)
        if name not in users and value != defaults[option]:
            raise ConfigError(
                option,
                expected=f"to be left out with optimizer {name}",
                found=f"{value:g}",
                remedy="Give the optimizer's own options with optimizer_args.",
            )
    if optimizer.max_grad_norm is not None and optimizer.grad_clip_value is not None:
        raise ConfigError(
            "max_grad_norm and grad_clip_value exclude each other",
            remedy="Clip gradients by their norm or number by number: leave one of them out.",
        )
    if name not in SCHEDULE_FREE:
        return
    if optimizer.lr_scheduler not in ("constant", "constant_with_warmup"):
        raise ConfigError(
            "lr_scheduler",
            expected=f"constant or constant_with_warmup with optimizer {name}",
            found=optimizer.lr_scheduler,
            remedy="Its average takes the place of a falling rate.",
        )
    if optimizer.use_ema:
        raise ConfigError(
            f"use_ema and optimizer {name} exclude each other",
            remedy="A schedule-free optimizer averages the vectors itself: leave use_ema out.",
        )
    if optimizer.embedding_norm != "none":
        raise ConfigError(
            f"embedding_norm and optimizer {name} exclude each other",
            remedy="A schedule-free average does not survive rescaling: leave embedding_norm out.",
        )
