"""What options ask of one another: the conditions they declare, and what takes more than a condition."""

from __future__ import annotations

import pathlib
import re
import typing

from ti_flax.config.conditions import Options, Values, missing_values, unmet_conditions
from ti_flax.config.image_sources import not_of_concepts
from ti_flax.config.options import MOST_STEPS_UNTIL_DONE, WITHOUT_WARMUP, HubOptions, OutputOptions
from ti_flax.config.picture_size import LONGEST, STEP, picture_size
from ti_flax.config.stepped_values import parse_steps
from ti_flax.config.words import TEMPLATE_PLACES, clashing_words, spelled_plainly
from ti_flax.errors import ConfigError, redacted, shortened

_Errors = typing.Iterator[ConfigError]

# The learning rate that `polynomial` ends at, the reference scheduler's default.
POLYNOMIAL_LR_END = 1e-7
# The Hub's rules: an owner, if any, and a name of at most 96 letters, digits and - _ . each.
_REPOSITORY = re.compile(r"(?:[A-Za-z0-9_][\w.-]{0,95}/)?[A-Za-z0-9_](?:[\w.-]{0,94}\w)?", re.ASCII)


def check_constraints(options: Options, values: Values) -> None:
    """Raise `ConfigError` for the first options that cannot both do what they say, with both names."""
    for error in (*missing_values(options, values), *contradictions(options, values)):
        raise error


def contradictions(options: Options, values: Values) -> typing.Iterator[ConfigError]:
    """Yield an error for all options that cannot both do what they say, with both names.

    In a run that teaches many concepts, what a concept may change is not asked here but of each concept.

    Args:
      options: every option of a run, by name.
      values: their values, by name.
    """
    wrong = [*_wrong_words(options, values)] if values["concepts"] is None else []
    yield from wrong or unmet_conditions(options, values)
    if values["concepts"] is None:
        yield from _wrong_rates(values)
        yield from _wrong_schedules(values)
        yield from _wrong_repeats(values)
        yield from _wrong_texts(values)
    else:
        yield from not_of_concepts(options, values["train_data_dir"])
    yield from _wrong_buckets(values)
    yield from _wrong_colours(values)
    yield from _wrong_places(values)


def check_upload(hub: HubOptions, output: OutputOptions) -> None:
    """Raise `ConfigError` for an upload that cannot be what is asked for, before the Hub is asked."""
    if not hub.push_to_hub:
        return
    name = hub.hub_model_id
    if name is None:
        name = pathlib.Path(output.output_dir).resolve().name
    strange = "--" in name or ".." in name or name.endswith(".git")
    if strange or not _REPOSITORY.fullmatch(name):
        raise ConfigError(
            "hub_model_id",
            expected="owner/name or a name, of letters, digits and single - _ . between them",
            found=repr(redacted(name, hub.hub_token))
            + ("" if hub.hub_model_id is not None else ", the name of output_dir"),
            remedy="Give for example hub_model_id your-name/cat-toy.",
        )
    if hub.hub_whole_pipeline and output.only_save_embeds:
        raise ConfigError(
            "hub_whole_pipeline and only_save_embeds exclude each other",
            remedy="One uploads the pipeline, the other writes none: leave one of them out.",
        )
    if hub.hub_license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", hub.hub_license):
        raise ConfigError(
            "hub_license",
            expected="a license in the Hub's spelling, such as cc-by-4.0 or mit",
            found=repr(redacted(hub.hub_license, hub.hub_token)),
        )


def _wrong_words(options: Options, values: Values) -> _Errors:
    """Of several words: those that a prompt could mistake, and lists of another length than theirs."""
    words: tuple[str, ...] = values["placeholder_token"]
    for clashes in clashing_words([(word,) for word in words]).values():
        _, word, other = clashes[0]
        yield ConfigError(
            "placeholder_token",
            expected="words of which none is another or part of it",
            found=f"{word!r} twice" if word == other else f"{word!r} beside {other!r}",
            remedy="Give one of them another name: a prompt with one would name both.",
        )
    for name, option in options.items():
        given = values[name]
        if option.rule.per_word and words and given is not None and len(given) not in (1, len(words)):
            yield ConfigError(
                name,
                expected=f"one value, or one for each word of placeholder_token ({len(words)})",
                found=f"{len(given)} values",
                remedy="On the command line, a text with blanks belongs in quotes."
                if len(words) == 1
                else "",
            )


def _wrong_rates(values: Values) -> _Errors:
    rate, scheduler, steps = values["learning_rate"], values["lr_scheduler"], _steps(values)
    if not isinstance(rate, str):
        if scheduler == "polynomial" and rate <= POLYNOMIAL_LR_END:
            end = f"more than {POLYNOMIAL_LR_END:g}, where lr_scheduler polynomial ends"
            yield ConfigError("learning_rate", expected=end, found=f"{rate:g}")
        return
    if scheduler != "constant":
        yield ConfigError(
            "learning_rate in steps requires lr_scheduler constant",
            found=scheduler,
            remedy="Give learning_rate one number, or leave lr_scheduler out.",
        )
    last = parse_steps(rate)[-1][1]
    if last is not None and (steps is None or last < steps):
        yield ConfigError(
            "learning_rate",
            expected=f"a last rate without a step, or until max_train_steps ({steps or 'null'})",
            found=f"{rate!r}, which ends at step {last}",
            remedy=f'Write for example "{rate.rpartition(":")[0]}", or set max_train_steps to {last}.',
        )


def _wrong_schedules(values: Values) -> _Errors:
    scheduler, warmup, steps = values["lr_scheduler"], values["lr_warmup_steps"], _steps(values)
    if values["max_train_steps"] == "auto" and values["eval_steps"] == 0:
        yield ConfigError(
            "max_train_steps auto and eval_steps 0 exclude each other",
            remedy="Evaluations tell when a run is done: leave eval_steps out.",
        )
    if values["lr_step_rules"] is not None:
        yield from _wrong_rules(values["lr_step_rules"])
    if steps is None or scheduler in WITHOUT_WARMUP:
        return
    if warmup >= steps:
        yield ConfigError(
            "lr_warmup_steps",
            expected=f"fewer than max_train_steps ({steps}) with lr_scheduler {scheduler}",
            found=str(warmup),
            remedy="Lower lr_warmup_steps (0 is no warmup) or raise max_train_steps.",
        )
    falls = values["lr_decay_steps"]
    if scheduler == "warmup_stable_decay" and falls is not None and falls > steps - warmup:
        most = f"at most max_train_steps - lr_warmup_steps ({steps - warmup})"
        yield ConfigError("lr_decay_steps", expected=most, found=str(falls))


def _steps(values: Values) -> int | None:
    """Steps of the run, the most if it ends itself; None if they are counted in epochs."""
    steps = values["max_train_steps"]
    return MOST_STEPS_UNTIL_DONE if steps == "auto" else steps


def _wrong_rules(rules: str) -> _Errors:
    try:
        last = parse_steps(rules)[-1][1]
        problem = "" if last is None else "The last factor holds to the end, so it has no step"
    except ValueError as error:
        problem = str(error)
    if problem:
        yield ConfigError(
            "lr_step_rules",
            expected='factors such as "1:10,0.1:20,0.005"',
            found=repr(rules),
            remedy=f"{problem}.",
        )


def _wrong_repeats(values: Values) -> _Errors:
    repeats, sources = values["repeats"], values["train_data_dir"]
    if len(repeats) not in (1, len(sources)):
        yield ConfigError(
            "repeats",
            expected=f"one number, or one for each train_data_dir ({len(sources)})",
            found=f"{len(repeats)} numbers",
        )


def _wrong_buckets(values: Values) -> _Errors:
    largest = int(values["resolution"] / 6**0.5)  # the least shape that is no square is 2 x 3 steps
    if values["enable_bucket"] and values["bucket_reso_steps"] > largest:
        yield ConfigError(
            "bucket_reso_steps",
            expected=f"at most {largest // 8 * 8} with resolution {values['resolution']}",
            found=str(values["bucket_reso_steps"]),
            remedy="Larger steps leave no shape but the square.",
        )


def _wrong_colours(values: Values) -> _Errors:
    strengths: typing.Sequence[float] = values["color_jitter"]
    if len(strengths) not in (1, 4):
        yield ConfigError(
            "color_jitter",
            expected="one number, or four: brightness, contrast, saturation and hue",
            found=f"{len(strengths)} numbers",
        )
    elif strengths[3:] and strengths[3] > 0.5:
        yield ConfigError(
            "color_jitter", expected="at most half a turn of hue, 0.5", found=f"{strengths[3]:g}"
        )


def _wrong_texts(values: Values) -> _Errors:
    try:
        re.compile(values["filename_pattern"] or "")
    except re.error as error:
        found = f"{values['filename_pattern']!r} ({error})"
        yield ConfigError("filename_pattern", expected="a regular expression", found=found)
    prompt, words = values["class_prompt"], values["placeholder_token"]
    if prompt is not None and words and not ("{}" in prompt or _names_one(words, prompt)):
        yield ConfigError(
            "class_prompt",
            expected=f"a prompt with placeholder_token {' or '.join(words)} in it",
            found=repr(prompt),
            remedy="Only the new word learns, so a prompt without it would change nothing.",
        )
    for template in values["prompt_template"] or ():
        if not (TEMPLATE_PLACES.search(template) or words[1:] and _names_one(words, template)):
            expected, found = "[name] or {}, where the word goes", repr(template)
            yield ConfigError("prompt_template", expected=expected, found=found)
    yield from _wrong_sensitivity_prompts(values["sensitivity_prompts"])


def _wrong_sensitivity_prompts(prompts: typing.Sequence[str] | None) -> _Errors:
    if prompts is None:
        return
    if len(prompts) < 2:
        yield ConfigError(
            "sensitivity_prompts",
            expected="a plain prompt, and at least one that says more",
            found=f"{len(prompts)}",
            remedy='For example "a photo of a {}" "a photo of a {} on the beach".',
        )
    for prompt in prompts:
        if "{}" not in prompt:
            yield ConfigError("sensitivity_prompts", expected="{}, where the word goes", found=repr(prompt))


def _names_one(words: typing.Sequence[str], text: str) -> bool:
    return any(spelled_plainly(word) in spelled_plainly(text) for word in words)


def _wrong_places(values: Values) -> _Errors:
    size = values["validation_size"]
    if size is not None and picture_size(size) is None:
        yield ConfigError(
            "validation_size",
            expected=f"width x height in pixels, multiples of {STEP} up to {LONGEST}, such as 512x768",
            found=shortened(repr(size), 80),
        )
    trackers: typing.Sequence[str] = values["report_to"]
    if "none" in trackers and len(trackers) > 1:
        expected = "none alone, or the names of trackers"
        yield ConfigError("report_to", expected=expected, found=", ".join(trackers))
    address = values["coordinator_address"]
    host, _, port = (address or "").rpartition(":")
    if address is not None and not (host and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 1 << 16):
        yield ConfigError("coordinator_address", expected="HOST:PORT", found=address)
