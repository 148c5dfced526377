"""The best rows of two text encoders: one file, which a kill leaves whole, and what a result takes of it."""

import os

import numpy as np
import pytest
from row_trees import ENCODER, SECOND_ENCODER, bits, only, tree
from safetensors import safe_open

from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.embedding.read import load_embedding
from ti_flax.embedding.vocabulary import Vocabulary
from ti_flax.monitoring.evaluation import BEST, TABLE, UNRANKED, Evaluate, best_kept, with_best
from ti_flax.monitoring.row_statistics import read_evaluations
from ti_flax.training.loop import Chunk
from ti_flax.training.state import TrainState

WIDTHS = {ENCODER: 4, SECOND_ENCODER: 6}


def words(width):
    """Words of one letter, each a direction of its own."""
    return Vocabulary(
        np.eye(width) * 0.5, [f"{letter}</w>" for letter in "abcdef"[:width]], "abcdef".__getitem__
    )


def rows_of(scale):
    """Two vectors of the concept and one that was loaded, none of them alike."""
    return {
        encoder: (np.arange(1, 3 * width + 1, dtype=np.float32) * scale).reshape(3, width)
        for encoder, width in WIDTHS.items()
    }


class Told:
    """A tracker that keeps the names of what it is told."""

    def __init__(self):
        self.names = []

    def scalars(self, values, step):
        self.names.append(list(values))


def make_hook(folder, losses, **changes):
    given = {
        "every": 1,
        "last_step": 100,
        "loss": lambda rows: losses.pop(0),
        "sensitivity": lambda rows: np.ones((1, 1)),
        "result": lambda state: state.rows,
        "start_rows": rows_of(1.0),
        "vocabularies": {encoder: words(width) for encoder, width in WIDTHS.items()},
    }
    return Evaluate(folder, {"<thing>": 2}, **given | changes)


def evaluate(hook, step):
    hook.on_metrics(Chunk(step, np.float32([0.1]), np.float32([1.0]), np.asarray([True]), 1.0))
    hook.on_step(step, TrainState(rows_of(1.0 + step), None, np.int32(step)))


def started(folder, losses, **changes):
    hook = make_hook(folder, losses, **changes)
    hook.on_start(0, TrainState(rows_of(1.0), None, np.int32(0)))
    hook.settle()
    return hook


def test_loaded_rows_stay_behind_the_best_ones(tmp_path):
    save_learned_embeds(tmp_path / BEST, "<thing>", np.ones((2, 4)), details={"step": "7"})
    rows, step = with_best(tree(np.zeros((3, 4), np.float32)), tmp_path)
    assert step == 7 and only(rows).tolist() == [[1] * 4, [1] * 4, [0] * 4]


def test_the_best_rows_of_two_encoders_are_one_file_that_says_of_which_step(tmp_path):
    hook = started(tmp_path, [0.5, 0.4, 0.3, 0.35])
    for step in (1, 2, 3):
        evaluate(hook, step)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".txt") == sorted([BEST, TABLE])
    with safe_open(str(tmp_path / BEST), "np") as file:
        assert set(file.keys()) == {"clip_l", "clip_g"}
        details = file.metadata()
        for key, encoder in (("clip_l", ENCODER), ("clip_g", SECOND_ENCODER)):
            assert file.get_tensor(key).tobytes() == rows_of(3.0)[encoder][:2].tobytes()
    assert (details["step"], details["validation_loss"]) == ("2", "0.3")
    last = rows_of(9.0)
    rows, step = with_best(last, tmp_path)
    assert step == 2 and list(rows) == list(WIDTHS)
    for encoder, best in rows_of(3.0).items():
        assert rows[encoder].tobytes() == np.concatenate([best[:2], last[encoder][2:]]).tobytes()
    table = read_evaluations(tmp_path / TABLE)
    assert best_kept(tmp_path / BEST, table, 3) == (False, pytest.approx(0.3))
    assert best_kept(tmp_path / BEST, table, 1) == UNRANKED


def test_a_kill_at_any_moment_leaves_the_best_rows_of_one_step(tmp_path, monkeypatch):
    """Each renaming of a new best is killed before and after it: the rows are of one step all the same."""
    replace = os.replace

    def killed(place, before):
        hook = started(tmp_path / f"{place}{before}", [0.5, 0.4, 0.3])
        evaluate(hook, 1)
        made = []

        def dying(*names):
            made.append(names)
            if len(made) <= place or not before:
                replace(*names)
            if len(made) > place:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            try:
                evaluate(hook, 2)
            except KeyboardInterrupt:
                return tmp_path / f"{place}{before}"
        return None

    seen = []
    for before in (True, False):
        for place in range(9):
            folder = killed(place, before)
            if folder is None:
                break
            file = load_embedding(folder / BEST)
            step = int(file.details["step"])
            expected = {encoder: rows[:2] for encoder, rows in rows_of(1.0 + step).items()}
            assert bits(file.rows) == bits(expected)
            seen.append((before, step))
    assert seen == [(True, 1), (False, 2)]


def test_signals_of_both_encoders_are_in_the_table_and_trackers_are_told_them(tmp_path):
    told = Told()
    hook = started(tmp_path, [0.5, 0.4], trackers=[told])
    evaluate(hook, 1)
    (first, last) = read_evaluations(tmp_path / TABLE)
    names = ["1", "2", "1_text_encoder_2", "2_text_encoder_2"]
    assert list(first.rows) == list(last.rows) == names
    assert [row.cosine_to_start for row in last.rows.values()] == pytest.approx([1] * 4)
    for vector, row in last.rows.items():
        number, _, encoder = vector.partition("_")
        learned = rows_of(2.0)[encoder or ENCODER][int(number) - 1]
        assert row.norm == pytest.approx(np.linalg.norm(learned), rel=1e-6)
    signals = [f"{signal}/{name}" for name in names for signal in ("norm_to_median", "cosine_to_start")]
    assert told.names == [["validation_loss", "prompt_sensitivity", *signals]] * 2
