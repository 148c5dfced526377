"""One concept of a list, with what the run says beneath it: checked, and made a configuration of its own."""

import dataclasses
import os
import re
import typing

from ti_flax.config.concept_entry import SOURCES, ConceptEntry
from ti_flax.config.concept_list.custom_diffusion import translated
from ti_flax.config.concept_list.local_paths import missing_files
from ti_flax.config.concept_list.names import name_from, words_of, wrong_name, wrong_words
from ti_flax.config.concept_list.sources import Draft
from ti_flax.config.conditions import holds, of_each_word
from ti_flax.config.constraints import contradictions
from ti_flax.config.image_sources import not_of_concepts
from ti_flax.config.run_config import GROUPS, OPTIONS, RunConfig
from ti_flax.config.values import checked, options_of
from ti_flax.config.words import notes_on_word
from ti_flax.errors import ConfigError, nearest, shortened

PER_CONCEPT = tuple(name for name, option in OPTIONS.items() if option.rule.per_concept)
_LONGEST_SHOWN = 80
# Options in whose text {} stands for the concept's word.
_WITH_WORD = ("validation_prompt", "validation_negative_prompt", "class_prompt")


@dataclasses.dataclass
class Checked:
    """What is known of one concept.

    Args:
      label: its name, or its place as long as that is not known.
      where: file and line, folder, or place in the list.
      name: of its folder; None if it is not known.
      words: its placeholder tokens.
      config: as if it were alone; None with faults.
      faults: places and sentences.
      of_run: sentences of the faults that no key of the concept's own has.
      notes: sentences for the user.
    """

    label: str
    where: str
    name: str | None = None
    words: tuple[str, ...] = ()
    config: RunConfig | None = None
    faults: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    of_run: set[str] = dataclasses.field(default_factory=set)
    notes: list[str] = dataclasses.field(default_factory=list)


def check_concept(draft: Draft, run: RunConfig) -> Checked:
    """Check all of one concept that can be told without the others and without loading anything."""
    other = translated(draft.entry)
    entry = other.entry
    found = Checked(
        draft.name or entry.where, entry.where, faults=list(entry.faults), notes=list(other.notes)
    )
    if entry.faults and not entry.values and draft.name is None:
        return found  # nothing of it could be read, so nothing more can be said
    own = _own_values(entry, found)
    _settle_name(draft, own, dict(entry.values), found)
    merged = {
        **run.of_every_concept(),
        **({"train_data_dir": (draft.images,)} if draft.images else {}),
        **own,
    }
    place = entry.place("placeholder_token")
    found.faults += [(place, str(error)) for error in wrong_words(words_of(own.get("placeholder_token")))]
    if found.name is not None:
        merged.setdefault("placeholder_token", (f"<{found.name}>",))
    found.words = words_of(merged.get("placeholder_token"))
    known = _with_word({name: option.default for name, option in OPTIONS.items()} | merged, found.words)
    written = dict(entry.values)
    refused = [key for key in written if key in OPTIONS and key not in own]
    for error in (*_missing(known, written), *contradictions(OPTIONS, known), *missing_files(known)):
        words = re.findall(r"\w+", str(error))
        if not any(key in words for key in refused):  # what follows of another fault is none of its own
            found.faults.append((entry.place(words[0]), str(error)))
            found.of_run |= set() if words[0] in written else {str(error)}
    if not found.faults and found.name is not None:
        _configure(run, _with_word(merged, found.words), found)
    return found


def _own_values(entry: ConceptEntry, found: Checked) -> dict[str, typing.Any]:
    """The values of a concept's own keys that fit their options; the others become faults."""
    own: dict[str, typing.Any] = {}
    for key, value in entry.values:
        if key == "name":
            continue
        if key not in PER_CONCEPT:
            found.faults.append((entry.place(key), _refused(key)))
            continue
        try:
            own[key] = checked(OPTIONS[key], value, key)
            sources = own[key] if key == SOURCES else ()
            found.faults += [(entry.place(key), str(error)) for error in not_of_concepts(OPTIONS, sources)]
        except ConfigError as error:
            found.faults.append((entry.place(key), str(error)))
    return own


def _refused(key: str) -> str:
    if key not in OPTIONS:
        close = nearest(key, ("name", *PER_CONCEPT, *OPTIONS))
        remedy = f"Did you mean {close}?" if close else "docs/options.md marks what a concept may set with †."
        return str(ConfigError(f"unknown key {key!r}", remedy=remedy))
    group, kind = next(
        (group, kind) for group, kind in GROUPS.items() if key in [each.name for each in options_of(kind)]
    )
    free = [each.name for each in options_of(kind) if each.rule.per_concept]
    remedy = f"Set it for the whole run; of {group}, a concept may set {', '.join(free) or 'nothing'}."
    return str(ConfigError(key, expected="an option of a concept", found="one of the run", remedy=remedy))


def _settle_name(
    draft: Draft, own: dict[str, typing.Any], written: dict[str, object], found: Checked
) -> None:
    given = written.get("name", draft.name)
    if given is None and (words := words_of(own.get("placeholder_token"))):
        given = "-".join(map(name_from, words))
    place = draft.entry.place("name")
    if given is None:
        expected = 'a name or a placeholder_token, such as "<cat-toy>"'
        found.faults.append((place, str(ConfigError("name", expected=expected, found="neither"))))
        return
    if not isinstance(given, str) or not given:
        error = ConfigError("name", expected="text", found=repr(given) if given else "empty text")
        found.faults.append((place, str(error)))
        return
    found.label = shortened(given, _LONGEST_SHOWN)
    if error := wrong_name(given):
        found.faults.append((place, str(error)))
    found.name = given


def _with_word(values: dict[str, typing.Any], words: tuple[str, ...]) -> dict[str, typing.Any]:
    """Put the concept's word where a prompt has {}."""

    def filled(text: typing.Any) -> typing.Any:
        if isinstance(text, tuple):
            return tuple(filled(each) for each in text)
        return text.replace("{}", " and ".join(words)) if isinstance(text, str) and words else text

    return {**values, **{name: filled(values[name]) for name in _WITH_WORD if name in values}}


def _missing(values: dict[str, typing.Any], written: typing.Collection[str]) -> typing.Iterator[ConfigError]:
    """Yield an error for what a concept needs and neither it nor the run gives."""
    examples = {"initializer_token": "a word to start from, such as toy", "train_data_dir": "its images"}
    for name, expected in examples.items():
        option = OPTIONS[name]
        lacking = [each for each in of_each_word(OPTIONS, values) if each[name] == option.default]
        unless = option.rule.required_unless
        if name not in written and not all(holds(unless, each, OPTIONS) for each in lacking):
            instead = " (or init_embeds, or initializer_mode random)" if name == "initializer_token" else ""
            remedy = f"Give it {name}{instead}, or give one for all concepts beside the list."
            yield ConfigError(name, expected=expected, found="none", remedy=remedy)


def _configure(run: RunConfig, values: dict[str, typing.Any], found: Checked) -> None:
    name = typing.cast(str, found.name)
    values["output_dir"] = os.path.join(run.output.output_dir, name)
    if run.hub.hub_model_id is not None:
        values["hub_model_id"] = f"{run.hub.hub_model_id}-{name}"
    try:
        found.config = RunConfig.from_dict(values)
    except ConfigError as error:
        found.faults.append((found.where, str(error)))
    found.notes += [line for word in found.words for line in notes_on_word(word)]
