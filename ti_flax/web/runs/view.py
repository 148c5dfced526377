"""What the page shows of a run, read from its folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ti_flax.config.flags import make_parser
from ti_flax.console.messages import shown_on
from ti_flax.errors import TiFlaxError
from ti_flax.files.written_files import CONCEPTS
from ti_flax.monitoring.asked_samples import asked_files
from ti_flax.monitoring.previews import preview_files
from ti_flax.monitoring.report.concepts import Entry, read_entries
from ti_flax.monitoring.report.curves import curves, read_metrics
from ti_flax.monitoring.report.document import escape
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.monitoring.report.files import is_there
from ti_flax.monitoring.report.run_state import state_of
from ti_flax.monitoring.report.verdict import Verdict, evaluations, verdict
from ti_flax.monitoring.row_statistics import Evaluation
from ti_flax.web.runs.processes import Program
from ti_flax.web.runs.waiting import Queue
from ti_flax.web.words import Unheard

OUTPUT = "output"
_OF_STEP = re.compile(r"learned_embeds-steps-(\d{1,9})\.safetensors")
_LAST, _BEST = "learned_embeds.safetensors", "learned_embeds-best.safetensors"
# What a concept's own states are called on the page.
STATES = {"running": "learning"}
_STARTING = "The run is starting; it first looks at its options."


@dataclass(frozen=True)
class RunView:
    """A run as the page shows it.

    Attributes:
      folder: the page's, in which `output` is the run's own.
      at_work: whether its process is there.
      concept: the one that is looked at, by its folder in `output`; empty for a run of one.
      concepts: all those of a run of many.
      learns: whether what is looked at is being learned now.
      state: how far it is, in a sentence or two.
      waits: whether it waits for others to end.
      error: why it ended, if it ended with an error.
      share: how much of the updates is made, from 0 to 1; None if not known.
      finished: whether its result is written.
      facts: what it says of itself; None before that.
      said: what its evaluations say; None where there are none.
      charts: its curves as markup.
      previews: from step to file.
      asked: from number to file, of the samples that somebody asked for.
      vectors: what can be used of it, from what it is called to the name of its file, the advised first.
    """

    folder: Path
    at_work: bool
    state: str
    waits: bool = False
    error: str = ""
    share: float | None = None
    finished: bool = False
    facts: RunFacts | None = None
    said: Verdict | None = None
    charts: str = ""
    previews: dict[int, Path] = field(default_factory=dict)
    asked: dict[int, Path] = field(default_factory=dict)
    vectors: dict[str, str] = field(default_factory=dict)
    concept: str = ""
    concepts: tuple[Entry, ...] = ()
    learns: bool = False

    @property
    def output(self) -> Path:
        """Where what is looked at has its files."""
        return self.folder / OUTPUT / self.concept

    @property
    def samples(self) -> Path:
        """Where samples go that are drawn while no run is at work."""
        return self.folder / "samples" / self.concept

    @property
    def can_go_on(self) -> bool:
        """Whether starting it again would continue it."""
        done = all(each.state == "done" for each in self.concepts) if self.concepts else self.finished
        stands = not (self.at_work or self.waits or done)
        return stands and Program(self.folder).started is not None


def look_at(folder: Path, concept: str | None = None) -> RunView:
    """Looks at a run; what is damaged in its folder is left out.

    Args:
      folder: of the run.
      concept: which one of a run of many; where there is none of the name, one that is being learned, or
        the first.
    """
    program, output = Program(folder), folder / OUTPUT
    entries = tuple(concepts_of(output))
    entry = _chosen(entries, concept)
    at_work, error = program.is_at_work, program.error
    learns = at_work
    if entry is not None:
        output, learns = output / entry.name, at_work and entry.state == "running"
    before = _before(folder)
    with shown_on(Unheard()):
        facts = _facts(output)
        metrics, table = read_metrics(output), evaluations(output)
        state = state_of(output, facts, metrics)
        said = verdict(table)
        finished = state.finished and not learns
        return RunView(
            folder,
            at_work,
            before
            or _sentences(entries, entry, at_work, error)
            or _sentence(learns, output, str(state), facts, error),
            before is not None,
            error,
            share=state.share if learns else None,
            finished=finished,
            facts=facts,
            said=said,
            charts=curves(metrics, table),
            previews=_without_links(output, preview_files(output / "validation")),
            asked=_without_links(output, asked_files(output)),
            vectors=usable(output, facts, said, table),
            concept="" if entry is None else entry.name,
            concepts=entries,
            learns=learns,
        )


def _before(folder: Path) -> str | None:
    """What a run waits for, in a sentence; None of one that does not wait."""
    names = [each.run for each in Queue(folder.parent.parent).waiting()]
    if folder.name not in names:
        return None
    place = names.index(folder.name)
    others = f", and then {place} that wait{'s' if place == 1 else ''} longer" if place else ""
    return f"It waits until the run at work has ended{others}; it starts by itself."


def _facts(output: Path) -> RunFacts | None:
    try:
        return RunFacts.read(output)
    except TiFlaxError:
        return None


def _chosen(entries: Sequence[Entry], name: str | None) -> Entry | None:
    """The concept of a name, or else one that is being learned, or the first; None without any."""
    named = [each for each in entries if each.name == name]
    return next(iter([*named, *(each for each in entries if each.state == "running"), *entries]), None)


def _sentences(entries: Sequence[Entry], entry: Entry | None, at_work: bool, error: str) -> str:
    """How far a run of many is, and the concept that is looked at; empty of another run."""
    if entry is None:
        return ""
    over = sum(each.state in ("done", "failed") for each in entries)
    ended = f"it has ended{f' with an error: {error}' if error else ''}"
    others = f"{over} of {len(entries)} concepts are done; {'the others follow' if at_work else ended}."
    steps = f" of {entry.steps}" if entry.steps is not None else ""
    how = {"waiting": "waits", "done": "is done", "failed": f"failed: {entry.error}"}
    learning = f"{'is at' if at_work else 'stopped at'} step {entry.step}{steps}"
    return f"{others} {entry.name} {how.get(entry.state, learning)}{'' if entry.state == 'failed' else '.'}"


def _sentence(at_work: bool, output: Path, state: str, facts: RunFacts | None, error: str) -> str:
    if at_work and facts is None and not output.exists():
        return _STARTING
    if not at_work and facts is None:
        return f"It ended before its first update: {error}" if error else "It has not begun."
    if error:
        return f"It ended with an error: {error}"
    return state.replace(
        "The same command with --resume_from_checkpoint auto goes on.", "Go on continues it."
    )


def _without_links(output: Path, files: dict[int, Path]) -> dict[int, Path]:
    """The files that lie in the run's folder themselves."""
    return {
        number: path
        for number, path in files.items()
        if is_there(output, path.relative_to(output).as_posix())
    }


def usable(
    output: Path, facts: RunFacts | None, said: Verdict | None, table: Sequence[Evaluation]
) -> dict[str, str]:
    """What can be used of a run, from what it is called to the name of its file, the advised first."""
    found: dict[str, str] = {}
    advised = said.best.step if said is not None and said.has_learned else None
    last = facts.steps if facts is not None and facts.finished else None
    if advised is not None and advised != last and is_there(output, _BEST):
        found[f"step {advised} (advised)"] = _BEST
    if last is not None and is_there(output, _LAST):
        found[f"step {last}{', the last' if advised != last else ', the last (advised)'}"] = _LAST
    numbered = {
        int(match[1]): path.name
        for path in output.glob("learned_embeds-steps-*.safetensors")
        if (match := _OF_STEP.fullmatch(path.name)) and is_there(output, path.name)
    }
    for step, name in sorted(numbered.items(), reverse=True):
        if step not in (advised, last) or (step == advised and not found):
            found[f"step {step}"] = name
    return found


def concepts_of(output: Path) -> list[Entry]:
    """The concepts of a run of many; none of another run."""
    if not is_there(output, CONCEPTS):
        return []
    try:
        entries = read_entries(output)
    except TiFlaxError:
        return []
    return [each for each in entries if not (output / each.name).is_symlink()]


def queue(folders: Sequence[Path]) -> list[list[str]]:
    """A line for each run of a work folder and each concept of a run of many: where, word, state and step."""
    if not folders:
        return []
    lines = []
    waiting = {each.run: each.arguments for each in Queue(folders[0].parents[1]).waiting()}
    for folder in folders:
        program, output = Program(folder), folder / OUTPUT
        entries = concepts_of(output)
        if entries:
            lines += [
                [
                    f"{folder.name}/{each.name}",
                    each.token,
                    STATES.get(each.state, each.state),
                    str(each.step),
                ]
                for each in entries
            ]
            continue
        facts = _facts(output)
        with shown_on(Unheard()):
            state = state_of(output, facts, read_metrics(output))
        if folder.name in waiting:
            said = "waiting"
        elif program.is_at_work:
            said = "learning"
        elif state.finished:
            said = "done"
        else:
            said = "failed" if program.error else "stopped"
        lines.append(
            [folder.name, _word_of(program, facts, waiting.get(folder.name)), said, str(state.step or "")]
        )
    return lines


def _word_of(program: Program, facts: RunFacts | None, arguments: Sequence[str] | None) -> str:
    if facts is not None:
        return facts.token
    started = program.started
    arguments = arguments or (() if started is None else started.arguments)
    try:
        given, _ = make_parser().parse_known_args([*arguments[1:]])
    except Exception:  # of a file that somebody has edited
        return ""
    return " ".join(getattr(given, "placeholder_token", []))


def verdict_markup(view: RunView) -> str:
    """How far a run is and how it goes, as markup."""
    bar = ""
    if view.share is not None:
        bar = f'<progress value="{view.share:.4f}" max="1" aria-label="updates made"></progress>'
    flagged = ' class="flag"' if view.error else ""
    now = f'<div class="now" role="status">{bar}<p{flagged}>{escape(view.state)}</p></div>'
    said = view.said
    if said is None:
        return now
    look = "good" if said.is_good else "flagged"
    more = said.more_steps(view.finished)
    lines = [f"<b>Over-trained?</b> {escape(said.over_training)}", *([escape(more)] if more else [])]
    return (
        f'{now}<section class="verdict {look}"><p class="headline">{escape(said.headline(view.finished))}</p>'
        f"{''.join(f'<p>{line}</p>' for line in lines)}</section>"
    )
