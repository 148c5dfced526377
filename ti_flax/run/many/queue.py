"""A run of many concepts: each takes a slot of one program, and the next one its place when it is done."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import numpy as np

from ti_flax.config import RunConfig
from ti_flax.config.concept_list import ConceptListError, ListedConcept, read_concepts
from ti_flax.console.interrupt import Interrupt
from ti_flax.console.messages import about, say, stage, warn
from ti_flax.errors import ConfigError, TiFlaxError, TrainingError
from ti_flax.export.pipeline import INDEX
from ti_flax.export.with_embeds import save_pipeline_with
from ti_flax.hosts import group as hosts
from ti_flax.models.stable_diffusion import FlaxStableDiffusion
from ti_flax.monitoring.progress import ProgressOfMany
from ti_flax.monitoring.report.facts import RunFacts
from ti_flax.run.done import is_finished
from ti_flax.run.inputs import ConceptTokens, add_concept_tokens, read_model
from ti_flax.run.many.board import Board, known_steps
from ti_flax.run.many.teaching import Teaching, begin_teaching, shapes_for
from ti_flax.run.many.turns import Fate, Turn, finish_turn, prepared, read_turn, seated
from ti_flax.run.output_checks import refuse_output
from ti_flax.run.output_dir import opened_output
from ti_flax.training.checkpoint import NEWEST
from ti_flax.training.devices import of_slot, stacked
from ti_flax.training.loop import Seat, run_steps
from ti_flax.training.state import Taught, TrainState

# Concepts that are read and encoded before there is a slot for them.
_AHEAD = 2


def train_concepts(config: RunConfig, output_dir: Path, interrupt: Interrupt) -> None:
    """Teaches all concepts of a list; each has a folder of its own in the run's.

    Args:
      config: of the run, whose options are the defaults of every concept.
      output_dir: of the run, opened.
      interrupt: tells whether a signal asks for an end.

    Raises:
      TiFlaxError: nothing can be taught, or some concepts failed; the others are done.
      Stopped: a signal ended it early.
    """
    began = time.perf_counter()
    refuse_named_checkpoint(config)
    concepts = listed_concepts(config)
    done = done_before(concepts)
    left = [each for each in concepts if each.name not in done]
    board = Board(output_dir, [(each.name, each.config) for each in concepts], host=hosts.index())
    for name, step in done.items():
        board.done_before(name, step)
    if not left:
        if not (output_dir / INDEX).exists():
            save_joint_pipeline(config, output_dir, board)
        say(f"nothing to do: {output_dir} holds the results of all {len(concepts)} concepts")
        return
    vectors, tokens = check_concepts(concepts, done)
    # Several hosts share the list, and each teaches its part by itself.
    own = left[hosts.index() :: hosts.count()]
    places = math.ceil(len(concepts) / hosts.count())
    with hosts.apart():
        if own:
            teach(config, concepts, own, board, interrupt, places=places, vectors=vectors, tokens=tokens)
    names = [each.name for each in own]
    board.settle(hosts.gather("the results of all concepts", board.entries(names), patience=math.inf))
    save_joint_pipeline(config, output_dir, board)
    for line in board.table():
        say(line)
    say(f"done in {time.perf_counter() - began:.0f} s: {board.path}")
    say(f"all about it: {board.page}")
    if failed := board.failed():
        raise TrainingError(
            f"{len(failed)} of {len(concepts)} concepts",
            expected="results of all",
            found=f"none of {', '.join(failed)}",
            remedy=f"{board.path} says why; --resume_from_checkpoint auto tries them again.",
        )


def save_joint_pipeline(config: RunConfig, output_dir: Path, board: Board) -> None:
    """Writes the pipeline of all concepts that have a result on this host, the first, if it is asked for.

    Raises:
      TiFlaxError: it cannot be written.
    """
    if not config.concept_list.save_joint_pipeline or not hosts.is_first():
        return
    files = []
    for name in board.done_ones():
        file = output_dir / name / "learned_embeds.safetensors"
        if file.exists():
            files.append(file)
        else:
            warn(f"the pipeline is without {name}: its files are on another host")
    with stage("writing the pipeline of all concepts", done="wrote the pipeline of all concepts"):
        save_pipeline_with(config.model, files, output_dir, layout="flax")


def refuse_named_checkpoint(config: RunConfig) -> None:
    """Refuses to go on from one checkpoint, as every concept has its own.

    Raises:
      ConfigError: a checkpoint is named.
    """
    if config.output.resume_from_checkpoint not in (None, *NEWEST):
        raise ConfigError(
            "resume_from_checkpoint",
            expected=f"{' or '.join(NEWEST)}, as every concept has checkpoints of its own",
            found=config.output.resume_from_checkpoint,
        )


def done_before(concepts: Sequence[ListedConcept]) -> dict[str, int]:
    """The concepts whose results are there, on this host or another: their names, each with its step."""
    here = {each.name: RunFacts.read(_folder(each)).steps for each in concepts if is_done(each)}
    found = hosts.gather("the concepts that are done", here)
    return {name: step for part in found for name, step in part.items()}


def teach(
    config: RunConfig,
    concepts: Sequence[ListedConcept],
    own: Sequence[ListedConcept],
    board: Board,
    interrupt: Interrupt,
    *,
    places: int,
    vectors: int,
    tokens: ConceptTokens,
) -> None:
    """Teaches the concepts of this host.

    The program depends on all concepts of the list, done or not, so that a run that goes on has the same one.

    Args:
      config: of the run.
      concepts: of all hosts.
      own: those that this one is to teach.
      board: is told what becomes of them.
      interrupt: tells whether a signal asks for an end.
      places: slots that there may be use for.
      vectors: the most of a concept.
      tokens: of one concept.
    """
    with stage("loading the model"):
        model = read_model(config)
    shapes = shapes_for([each.config for each in concepts], model)
    board.write()
    waiting = Waiting(own, model)
    try:
        teaching = begin_teaching(
            config, own[0].config, model, tokens, shapes, vectors=vectors, concepts=places
        )
        say(f"{len(own)} concepts, {teaching.in_words}")
        waiting.teaching.set_result(teaching)
        Class(config, teaching, waiting, board, interrupt).teach()
    finally:
        waiting.close()
    board.write()


def listed_concepts(config: RunConfig) -> list[ListedConcept]:
    """The concepts of a run, each as a run of its own that writes no pipeline."""
    found = read_concepts(config)
    for line in found.notes:
        say(f"note: {line}")
    for line in found.left_out:
        warn(line)
    return [
        dataclasses.replace(each, config=each.config.replace(only_save_embeds=True))
        for each in found.concepts
    ]


def is_done(concept: ListedConcept) -> bool:
    """Whether a run that is gone on with has finished a concept."""
    config = concept.config
    return config.output.resume_from_checkpoint is not None and is_finished(config, _folder(concept))


def check_concepts(concepts: Sequence[ListedConcept], done: Collection[str]) -> tuple[int, ConceptTokens]:
    """Checks what can be checked of all concepts before anything large is loaded.

    Args:
      concepts: of the list.
      done: names of those that have their results.

    Returns:
      The most vectors of a concept, and the tokens of one.

    Raises:
      ConceptListError: the faults of all concepts, a line each.
    """
    refuse_class_images_of_some(concepts)
    faults, read = [], []
    for each in concepts:
        try:
            if each.name not in done and hosts.is_first():
                refuse_output(each.config, _folder(each))
            read.append(add_concept_tokens(each.config))
        except TiFlaxError as error:
            faults.append(f"concept {each.name} ({each.where}): {error}")
    if faults:
        raise ConceptListError(faults)
    return max(len(tokens.concept.tokens) for tokens in read), read[0]


def refuse_class_images_of_some(concepts: Sequence[ListedConcept]) -> None:
    """Refuses class images for some concepts alone: one program has them for all or for none.

    Raises:
      ConfigError: some concepts have them and some do not.
    """
    without = [each.name for each in concepts if each.config.loss.class_data_dir is None]
    if without and len(without) < len(concepts):
        raise ConfigError(
            "class_data_dir",
            expected="images of the class for every concept, or for none",
            found=f"none for {', '.join(without[:3])}" + (" and others" if len(without) > 3 else ""),
        )


def _folder(concept: ListedConcept) -> Path:
    return Path(concept.config.output.output_dir)


class Waiting:
    """Concepts that wait for a slot, read and encoded by a thread while the devices compute.

    Attributes:
      teaching: is set once it is there; until then concepts are read and not encoded.
    """

    def __init__(self, concepts: Sequence[ListedConcept], model: FlaxStableDiffusion):
        self._concepts, self._model = deque(concepts), model
        self.teaching: Future[Teaching] = Future()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="concepts")
        self._begun: deque[tuple[ListedConcept, Future[Turn]]] = deque()
        self._begin()

    def next(self) -> tuple[ListedConcept, Future[Turn]] | None:
        """The next concept, in the order of the list; None if no one waits."""
        self._begin()
        found = self._begun.popleft() if self._begun else None
        self._begin()
        return found

    def close(self) -> None:
        """Ends the thread; what it is at is done first."""
        self.teaching.cancel()  # if it never came
        self._thread.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        while self._concepts and len(self._begun) < _AHEAD:
            concept = self._concepts.popleft()
            future = self._thread.submit(copy_context().run, self._prepared, concept)
            self._begun.append((concept, future))

    def _prepared(self, concept: ListedConcept) -> Turn:
        read = read_turn(concept.name, concept.config, self._model)
        return prepared(concept.name, read, self.teaching.result())


@dataclasses.dataclass
class Place:
    """A slot with a concept in it.

    Attributes:
      turn: the concept.
      seat: what the loop knows of it.
      fate: what its hooks share.
      held: its folder.
    """

    turn: Turn
    seat: Seat
    fate: Fate
    held: contextlib.ExitStack


class Class:
    """The concepts that learn at the same time."""

    def __init__(
        self, config: RunConfig, teaching: Teaching, waiting: Waiting, board: Board, interrupt: Interrupt
    ):
        self._config, self._teaching, self._waiting = config, teaching, waiting
        self._board, self._interrupt = board, interrupt
        count = teaching.slots.count
        self._places: list[Place | None] = [None] * count
        # An empty slot computes with what was last in it, and its updates are not made.
        self._states: list[TrainState] = [teaching.nobody] * count
        self._taught: list[Taught] = [Taught(np.zeros(2, np.uint32), teaching.step_config.settings)] * count
        self._progress = ProgressOfMany(board.counts, samples=teaching.samples)

    def teach(self) -> None:
        """Lets all concepts learn."""
        finished = False
        try:
            for slot in range(len(self._places)):
                self._fill(slot)
            self._progress.begin(self._board.updates())
            while any(self._places):
                self._learn()
            finished = True
        finally:
            for place in self._places:
                if place is not None:
                    _leave(place, finished=False)
            self._progress.end(finished)

    def _learn(self) -> None:
        """Makes updates until a concept is done with its own, and gives its slot to the next."""
        teaching = self._teaching
        slots, sender = teaching.slots, teaching.sender
        program = teaching.compiling.program()
        with self._interrupt.updates():
            states = run_steps(
                program,
                slots.place(stacked(self._states)),
                (teaching.frozen, slots.place(stacked(self._taught))),
                seats=[None if place is None else place.seat for place in self._places],
                slots=slots,
                steps_per_call=self._config.training.steps_per_call,
                asked=lambda: self._interrupt.asked,
                sender=sender,
            )
        for slot, place in enumerate(self._places):
            self._states[slot] = of_slot(states, slot)
            if place is not None and place.seat.updates_left == 0:
                self._end(slot, place)
                self._fill(slot)

    def _end(self, slot: int, place: Place) -> None:
        """Writes the result of a concept, or says why there is none."""
        turn, error = place.turn, place.fate.error
        self._places[slot] = None
        self._teaching.sender.seat(slot, None)
        _leave(place, finished=error is None, held=False)
        with place.held:
            if error is None:
                error = self._finish(turn, self._states[slot])
        self._tell(turn.name, error)

    def _finish(self, turn: Turn, state: TrainState) -> TiFlaxError | None:
        try:
            step = finish_turn(turn, state, self._teaching.samples, self._interrupt.unbroken)
            self._board.done(turn.name, step)
        except TiFlaxError as error:
            return error
        return None

    def _end_at_once(self, turn: Turn) -> None:
        """Writes what the result of a concept still lacks; one with too many steps stays as it is."""
        step = int(turn.state.step)
        if step > turn.total:
            self._board.done(turn.name, step)
        self._tell(turn.name, self._finish(turn, turn.state) if step == turn.total else None)

    def _tell(self, name: str, error: TiFlaxError | None) -> None:
        if error is not None:
            self._board.fail(name, str(error))
            with about(name):
                warn(f"ends: {error}")
        self._board.write()

    def _fill(self, slot: int) -> None:
        """Gives a slot to the next concept that can be taught."""
        while (waiting := self._waiting.next()) is not None:
            concept, future = waiting
            try:
                turn = future.result()
                with contextlib.ExitStack() as held:
                    held.enter_context(opened_output(turn.config))
                    if int(turn.state.step) >= turn.total:
                        self._end_at_once(turn)
                        continue
                    fate = Fate()
                    seat = seated(turn, slot, self._teaching, fate, self._progress)
                    self._places[slot] = Place(turn, seat, fate, held.pop_all())
            except TiFlaxError as error:
                self._tell(concept.name, error)
                continue
            self._states[slot], self._taught[slot] = turn.state, turn.taught
            self._board.begin(turn.name, int(turn.state.step), known_steps(turn.config))
            self._board.write()
            return


def _leave(place: Place, *, finished: bool, held: bool = True) -> None:
    """Ends what happens beside the updates of a concept, and with `held` lets go of its folder."""
    for hook in place.seat.hooks:
        hook.close(finished)
    if held:
        place.held.close()
