"""All concepts of a run: their configurations, or all that is wrong with them at once."""

import collections
import dataclasses
import typing

from ti_flax.config.concept_list.merge import Checked, check_concept
from ti_flax.config.concept_list.sources import read_drafts
from ti_flax.config.run_config import RunConfig
from ti_flax.config.words import clashing_words
from ti_flax.errors import ConfigError, one_line

_MOST_LINES = 100


@dataclasses.dataclass(frozen=True)
class ListedConcept:
    """One concept of a run that teaches many.

    Args:
      name: of its folder below the run's output_dir.
      config: what it would be told if it were alone; its seed is the run's where it has none of its own.
      where: where the list says so.
    """

    name: str
    config: RunConfig
    where: str


@dataclasses.dataclass(frozen=True)
class ConceptList:
    """What is to be taught.

    Args:
      concepts: in the order of the list.
      notes: lines that the user should see.
      left_out: a line for each fault of the concepts that skip_bad_concepts leaves out.
    """

    concepts: tuple[ListedConcept, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class ConceptListError(ConfigError):
    """Concepts cannot be taught as they are listed; the message has a line for each fault.

    Args:
      faults: the lines.
    """

    def __init__(self, faults: typing.Sequence[str]):
        super().__init__(faults[0])
        self.faults = tuple(faults)
        shown = list(self.faults[:_MOST_LINES])
        if len(self.faults) > _MOST_LINES:
            shown.append(f"and {len(self.faults) - _MOST_LINES} more faults in the list of concepts")
        self.args = ("\n".join(shown),)


def read_concepts(run: RunConfig) -> ConceptList:
    """Read the list of concepts of a run and merge each with what the run says.

    Nothing is loaded, printed or written: folders are listed, small files of settings are read.

    Args:
      run: with `concepts`; its options are the defaults of every concept.

    Raises:
      ConceptListError: a concept has a fault, and skip_bad_concepts is not set or no concept is left; all
        faults of all concepts are in it.
      ConfigError: there is no list, or it cannot be read.
    """
    listed, skips = run.concept_list.concepts, run.concept_list.skip_bad_concepts
    if listed is None:
        raise ConfigError("concepts", expected="a folder, a file or a list", found="null")
    drafts, notes = read_drafts(listed)
    found = [check_concept(draft, run) for draft in drafts]
    _refuse_clashes(found, skips=skips)
    faults = _fault_lines(found)
    if skips and faults:
        faults = (
            faults if any(not each.faults for each in found) else [*faults, "no concept is left to teach"]
        )
    good = tuple(
        ListedConcept(each.name, each.config, each.where)
        for each in found
        if each.name is not None and each.config is not None and not each.faults
    )
    if faults and not (skips and good):
        raise ConceptListError(faults)
    if isinstance(listed, str) and run.images.train_data_dir and any(draft.images for draft in drafts):
        notes.append("train_data_dir does nothing beside a folder of concepts: each has its own images")
    return ConceptList(good, (*notes, *_note_lines(found)), tuple(faults))


def _refuse_clashes(found: typing.Sequence[Checked], *, skips: bool) -> None:
    """Add a fault to every concept that has the name or a word of one before it.

    Where faulty ones are left out, those that clash with them alone are not.
    """
    names: dict[str, Checked] = {}
    out: set[int] = set()
    clashes = clashing_words([each.words for each in found])
    for place, concept in enumerate(found):
        same = names.get((concept.name or "").casefold()) if concept.name is not None else None
        if same is not None:
            again = ConfigError(
                "name",
                expected="a name of its own, whatever its case",
                found=f"{concept.name!r} again, first at {same.where}",
                remedy="Leave one of them out, or give it another `name`.",
            )
            concept.faults.append((concept.where, str(again)))
        else:
            for other, word, its in clashes.get(place, ()):
                if other not in out:
                    concept.faults.append((concept.where, _clash(word, its, found[other].label)))
                    break
        if skips and concept.faults:
            out.add(place)
        elif concept.name is not None:
            names.setdefault(concept.name.casefold(), concept)


def _clash(word: str, other: str, label: str) -> str:
    error = ConfigError(
        "placeholder_token",
        expected="a word that neither contains one of another concept nor is part of it",
        found=f"{word!r} beside {other!r} of concept {label}",
        remedy="Give one of them another word: a text with the longer one would name both.",
    )
    return str(error)


def _fault_lines(found: typing.Sequence[Checked]) -> list[str]:
    """A line for each fault; one that all concepts have is the run's, and is said once."""
    counts = collections.Counter(text for each in found for text in each.of_run)
    everywhere = {text for text, count in counts.items() if len(found) > 1 and count == len(found)}
    lines = [one_line(f"every concept: {text}") for text in sorted(everywhere)]
    for each in found:
        for where, text in dict.fromkeys(each.faults):
            if text not in everywhere:
                place = "" if where == each.label else f" ({where})"
                lines.append(one_line(f"concept {each.label}{place}: {text}"))
    return lines


def _note_lines(found: typing.Sequence[Checked]) -> list[str]:
    """A line for each note, with the concepts that it is about."""
    labels: dict[str, list[str]] = {}
    for each in found:
        if not each.faults:
            for text in each.notes:
                labels.setdefault(text, []).append(each.label)
    return [
        one_line(
            f"concept {its[0]}: {text}" if len(its) == 1 else f"{len(its)} concepts, such as {its[0]}: {text}"
        )
        for text, its in labels.items()
    ]
