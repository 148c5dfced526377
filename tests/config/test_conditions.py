"""What options declare of one another: that it names what there is, and that breaking it is refused."""

import pytest

from ti_flax.config import RunConfig, parse_config
from ti_flax.config.conditions import asked_of_others, holds, in_words, parts_of
from ti_flax.config.run_config import OPTIONS
from ti_flax.errors import ConfigError

BASE = {
    "pretrained_model_name_or_path": "model",
    "placeholder_token": "<thing>",
    "initializer_token": "toy",
    "train_data_dir": "images",
}
# A value other than the default, where one made up would be refused for itself.
VALUES = {
    "validation_size": "64x96",
    "class_prompt": "a <thing>",
    "initializer_token": "toy",
    "lr_step_rules": "1:10,0.5",
    "lr_decay_steps": 10,
    "coordinator_address": "host:1",
    "templates": "style",
    "report_to": "none",
    "train_data_dir": "images",
}


def another(name):
    """A value of an option that is neither its default nor off."""
    option = OPTIONS[name]
    if name in VALUES:
        return VALUES[name]
    if option.choices:
        return next(each for each in reversed(option.choices) if each != option.default)
    if option.kind is str:
        return "something"
    if option.kind is bool:
        return True
    numbers = (0.5, 0.25, 0, 1, 2, 8, 16)
    rule = option.rule
    for number in numbers:
        fits = (rule.above is None or number > rule.above) and (
            rule.at_least is None or number >= rule.at_least
        )
        fits = fits and not (rule.multiple_of and number % rule.multiple_of)
        if fits and number not in (option.default, 0) and isinstance(number, (int, option.kind)):
            return option.kind(number)
    raise AssertionError(name)


def made_true(condition):
    """The options of a condition's first alternative, so that it holds."""
    name, wanted = parts_of(condition)[0]
    if not wanted:
        return {name: another(name)}
    return {name: OPTIONS[name].kind(wanted[0])}


def refusal(**changes):
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict(BASE | changes)
    return str(caught.value)


def conditions():
    for name, option in OPTIONS.items():
        rule = option.rule
        for condition in (*rule.needs, *rule.excludes, *rule.value_needs.values()):
            yield name, condition
        for condition in (rule.only_with, rule.required_unless):
            if condition:
                yield name, condition


@pytest.mark.parametrize(("name", "condition"), [*conditions()])
def test_conditions_name_options_and_values_that_exist(name, condition):
    for other, wanted in parts_of(condition):
        assert other in OPTIONS and other != name
        assert not OPTIONS[other].choices or set(wanted) <= set(OPTIONS[other].choices)


@pytest.mark.parametrize(
    ("name", "condition"), [(name, each) for name, option in OPTIONS.items() for each in option.rule.needs]
)
def test_what_an_option_needs_is_required(name, condition):
    others = [each for each in OPTIONS[name].rule.needs if each != condition]
    met = {key: value for each in others for key, value in made_true(each).items()}
    broken = {}
    if holds(condition, {key: option.default for key, option in OPTIONS.items()}, OPTIONS):
        ((other, wanted),) = parts_of(condition)
        broken = {other: next(each for each in OPTIONS[other].choices if each not in wanted)}
    start = {"initializer_token": None} if name == "init_embeds" else {}
    message = refusal(**start, **met, **broken, **{name: another(name)})
    assert message.startswith(f"{name} requires {in_words(condition)}"), message


@pytest.mark.parametrize(
    ("name", "condition"), [(name, each) for name, option in OPTIONS.items() for each in option.rule.excludes]
)
def test_options_that_exclude_each_other(name, condition):
    message = refusal(**{name: another(name)}, **made_true(condition))
    other = parts_of(condition)[0][0]
    assert message.startswith(f"{name} and {other}") and "exclude each other" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, option in OPTIONS.items() for value in option.rule.value_needs],
)
def test_what_a_value_needs_is_required(name, value):
    condition = OPTIONS[name].rule.value_needs[value]
    (other, wanted), *_ = parts_of(condition)
    defaults = {key: option.default for key, option in OPTIONS.items()}
    broken = {}
    if holds(condition, defaults, OPTIONS):
        broken = {
            other: next(each for each in OPTIONS[other].choices if each not in wanted and each != "linear")
        }
    message = refusal(**{name: value}, **broken)
    assert message.startswith(f"{name} {value} requires {in_words(condition)}"), message


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.rule.less_than])
def test_a_number_that_has_to_be_less(name):
    other = OPTIONS[name].rule.less_than
    rest = {key: value for each in OPTIONS[name].rule.needs for key, value in made_true(each).items()}
    rest |= {"multi_host": True} if name == "process_id" else {}
    message = refusal(**rest | {name: 5, other: 5})
    assert message.startswith(f"{name}: expected less than {other} (5), found 5")


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.rule.only_with])
def test_an_option_without_effect_is_noted(name, capsys):
    flags = [f"--{key}={value}" for key, value in (BASE | {name: another(name)}).items()]
    parse_config(flags)
    condition = in_words(OPTIONS[name].rule.only_with)
    assert f"note: {name} does nothing without {condition}\n" in capsys.readouterr().err


def test_help_says_what_an_option_asks_of_others():
    assert asked_of_others(OPTIONS["max_buckets"]) == "requires enable_bucket"
    assert asked_of_others(OPTIONS["unmasked_weight"]) == "requires alpha_mask or mask_dir"
    assert asked_of_others(OPTIONS["huber_c"]) == "requires loss_type huber or smooth_l1"
    assert asked_of_others(OPTIONS["ema_decay"]) == "only with use_ema"
    assert asked_of_others(OPTIONS["min_timestep"]) == "less than max_timestep"
    assert asked_of_others(OPTIONS["optimizer"]) == (
        "schedule_free_adamw and schedule_free_sgd require lr_scheduler constant or constant_with_warmup"
    )
    assert asked_of_others(OPTIONS["seed"]) == ""


def test_messages_say_both_names_and_what_to_do():
    assert refusal(max_buckets=2) == (
        "max_buckets requires enable_bucket. Set enable_bucket, or leave max_buckets out."
    )
    assert refusal(huber_c=0.5) == (
        "huber_c requires loss_type huber or smooth_l1: found l2. "
        "Set loss_type to huber, or leave huber_c out."
    )
    assert refusal(use_ema=True, optimizer="schedule_free_sgd") == (
        "use_ema and optimizer schedule_free_sgd exclude each other. Leave one of them out."
    )
