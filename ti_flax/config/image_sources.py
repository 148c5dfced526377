"""A source of images with options of its own: `train_data_dir: [cats, {path: more-cats, repeats: 3}]`."""

import typing

from ti_flax.config.concept_entry import ConceptEntry
from ti_flax.config.conditions import Options, Values, holds, in_words
from ti_flax.config.values import checked
from ti_flax.errors import ConfigError, nearest

PATH = "path"
# What a source may have of its own, beside its path.
PER_SOURCE = (
    *("repeats", "center_crop", "flip_p"),
    *("learnable_property", "templates", "template_file", "prompt_template"),
    *("captions", "caption_extension", "caption_file", "filename_pattern"),
    *("caption_prefix", "caption_suffix", "caption_separator", "shuffle_caption", "keep_tokens"),
    *("caption_tag_dropout_rate", "caption_dropout_rate", "enable_wildcard"),
)
# Options of which a source has one and gives up the run's others.
_INSTEAD = ("templates", "template_file", "prompt_template")


def path_of(source: str | ConceptEntry) -> str:
    """What a source is, without its options; empty where its author left it out."""
    path = source if isinstance(source, str) else dict(source.values).get(PATH, "")
    return path if isinstance(path, str) else ""


def label_of(source: str | ConceptEntry, place: int, where: str = "") -> str:
    """What messages call a source: its path, or its number, and where it is written."""
    if isinstance(source, str):
        return f"train_data_dir {source}"
    written = where or source.where
    at = f" ({written})" if written.partition(":")[2] else ""
    return f"train_data_dir {path_of(source) or place + 1}{at}"


def value_of_source(name: str, value: typing.Any, place: int, source: str | ConceptEntry) -> typing.Any:
    """The value that an option has for one source.

    Args:
      name: of the option.
      value: of the run; of `repeats`, one number or one for each source.
      place: of the source.
      source: with values that `values_of_source` has checked.
    """
    if not isinstance(source, str):
        value = dict(source.values).get(name, value)
    if name != "repeats":
        return value
    several = value if isinstance(value, tuple) else (value,)
    return several[min(place, len(several) - 1)]


def values_of_source(options: Options, values: Values, place: int) -> dict[str, typing.Any]:
    """The values of options that a run of one source alone would have in place of all sources'.

    Args:
      options: every option of a run, by name.
      values: their values, by name.
      place: of the source in `train_data_dir`.

    Raises:
      ConfigError: an option that a source cannot have, or a value that does not fit; it names the source.
    """
    source = values["train_data_dir"][place]
    changes: dict[str, typing.Any] = {
        "train_data_dir": (path_of(source),),
        "repeats": (value_of_source("repeats", values["repeats"], place, source),),
    }
    if isinstance(source, str):
        return changes
    label = label_of(source, place)
    for where, fault in source.faults:
        raise ConfigError(f"{label_of(source, place, where)}: {fault}")
    own = dict(source.values)
    if not path_of(source).strip():
        raise ConfigError(f"{label}: {PATH}", expected="where the images are", found="nothing")
    for name, value in own.items():
        if name != PATH:
            changes[name] = _checked(options, name, value, source, label)
    changes = {**dict.fromkeys(_INSTEAD if any(name in own for name in _INSTEAD) else ()), **changes}
    known = {**values, **changes}
    for name in own:
        condition = "" if name == PATH else options[name].rule.only_with
        if condition and not holds(condition, known, options):
            raise ConfigError(f"{label}: {name} does nothing without {in_words(condition)}")
    return changes


def not_of_concepts(
    options: Options, sources: typing.Sequence[str | ConceptEntry] | None
) -> typing.Iterator[ConfigError]:
    """Yield an error for what a source sets that is the same for all concepts: they share their program.

    Args:
      options: every option of a run, by name.
      sources: of `train_data_dir`, of a concept or of a run that teaches many.
    """
    for place, source in enumerate(sources or ()):
        for name in dict(source.values) if isinstance(source, ConceptEntry) else ():
            if name in PER_SOURCE and not options[name].rule.per_concept:
                yield ConfigError(
                    f"{label_of(source, place)}: {name}",
                    expected="an option of a concept",
                    found="one of the run",
                    remedy="Set it for the whole run.",
                )


def _checked(options: Options, name: str, value: object, source: ConceptEntry, label: str) -> object:
    if name not in PER_SOURCE:
        close = nearest(name, (PATH, *PER_SOURCE))
        remedy = f"Did you mean {close}?" if close else f"A source may set {', '.join((PATH, *PER_SOURCE))}."
        if name in options:
            remedy = f"Set it for the whole run; a source may set {', '.join((PATH, *PER_SOURCE))}."
        raise ConfigError(
            f"{label}: {name}", expected="an option of a source", found="another", remedy=remedy
        )
    if name == "repeats" and isinstance(value, tuple) and len(value) > 1:
        raise ConfigError(f"{label}: {name}", expected="one number", found=f"{len(value)}")
    return checked(options[name], value, f"{label}: {name}")
