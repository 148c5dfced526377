"""Runs that are evaluated: the same bits, the table, the best rows, and early ends."""

import csv
import shutil
import time

import numpy as np
import pytest
import tiny_run
from row_trees import only, tree
from safetensors import safe_open
from tiny_run import compilations, learned, train_until

from ti_flax.embedding.learned_embeds import load_learned_embeds, save_learned_embeds
from ti_flax.embedding.vocabulary import Vocabulary
from ti_flax.errors import OutputError
from ti_flax.monitoring import evaluation
from ti_flax.monitoring.evaluation import BEST, TABLE, UNRANKED, Evaluate, Patience, best_kept, summary
from ti_flax.monitoring.row_statistics import best_of, read_evaluations
from ti_flax.run import hooks as monitoring
from ti_flax.run import train as run
from ti_flax.training.checkpoint import checkpoint_steps, load_checkpoint
from ti_flax.training.loop import Chunk
from ti_flax.training.state import TrainState


def configure(place, output, **changes):
    watched = {"eval_steps": 2, "max_eval_samples": 6}
    return tiny_run.configure(place, output, **watched | changes)


@pytest.fixture(scope="module")
def whole(place):
    """An evaluated run that nothing interrupts, with the messages of its compilations."""
    with compilations() as messages:
        folder = run.train(configure(place, place / "whole"))
    return folder, messages


def test_evaluations_do_not_change_a_bit(place, tmp_path, whole):
    folder = run.train(configure(place, tmp_path / "plain", eval_steps=0, max_eval_samples=None))
    assert learned(folder).tobytes() == learned(whole[0]).tobytes()
    assert not (folder / TABLE).exists() and not (folder / BEST).exists()


def test_one_compilation_of_the_step_and_one_of_the_evaluation(whole):
    # On 8 devices: windows of 500 pictures for the step; for the evaluation 3 images, padded to 8, and their
    # mirror images.
    for taken in ("float32[8,1,500,1,1,512]", "float32[8,8,2,8,8,8]"):
        compiled = [message for message in whole[1] if taken in message]
        assert len(compiled) == 1, [message[:200] for message in compiled]


def test_the_table_of_a_run(whole):
    table = read_evaluations(whole[0] / TABLE)
    assert [each.step for each in table] == [0, 2, 4, 6]
    first, *others = table
    assert (first.loss, first.grad_norm) == (None, None)
    assert list(first.rows) == ["1", "2"]
    assert [row.cosine_to_start for row in first.rows.values()] == pytest.approx([1, 1])
    assert all(row.nearest_words.startswith("toy 1.00, ") for row in first.rows.values())
    with (whole[0] / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    means = [np.mean(losses[i : i + 2]) for i in (0, 2, 4)]
    assert [each.loss for each in others] == pytest.approx(means, rel=1e-5)
    assert len({each.validation_loss for each in table}) == 4
    last = others[-1].rows["1"]
    assert last.norm == pytest.approx(np.linalg.norm(learned(whole[0])[0]), rel=1e-6)


def test_the_best_rows_are_those_of_the_table(whole):
    folder, best = whole[0], best_of(read_evaluations(whole[0] / TABLE))
    token, rows = load_learned_embeds(folder / BEST)
    with safe_open(str(folder / BEST), "np") as file:
        details = file.metadata()
    assert token == "<thing>" and details["format"] == "pt"
    assert int(details["step"]) == best.step
    assert float(details["validation_loss"]) == best.validation_loss
    np.testing.assert_array_equal(rows, rows_after(folder, best.step))


def rows_after(folder, step):
    """The rows in the checkpoint of a step, `[added_tokens, width]`."""
    return only(load_checkpoint(folder / f"checkpoint-{step}").rows)


def stopped_after(place, output, after, **changes):
    train_until(configure(place, output, **changes), after)


def test_a_resumed_run_keeps_the_rows_before_its_step_and_ends_the_same(place, tmp_path, whole):
    stopped_after(place, tmp_path, 4)
    # A later table and best file, as if more had been done after the checkpoint.
    with (tmp_path / TABLE).open("a") as file:
        file.write((tmp_path / TABLE).read_text().splitlines()[-1].replace("4,", "5,", 1) + "\n")
    later = {"step": "5", "validation_loss": "0.001"}
    save_learned_embeds(tmp_path / BEST, "<thing>", np.ones((2, 32)), details=later)
    run.train(configure(place, tmp_path, resume_from_checkpoint="checkpoint-2"))
    for name in (TABLE, "learned_embeds.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole[0] / name).read_bytes()
    table = read_evaluations(tmp_path / TABLE)
    after = best_of([each for each in table if each.step > 2])
    np.testing.assert_array_equal(load_learned_embeds(tmp_path / BEST)[1], rows_after(tmp_path, after.step))


@pytest.fixture
def losses(monkeypatch):
    """Makes the validation loss one of a list, for a step each."""
    found = []

    class Listed:
        def __init__(self, *_, **__):
            pass

        def ready(self):
            return True

        def __call__(self, rows):
            return found.pop(0)

    monkeypatch.setattr(monitoring, "Validation", Listed)
    return found


EARLY = {"early_stopping": True, "early_stopping_patience": 2, "eval_steps": 1, "checkpointing_steps": 100}


def test_early_stopping_ends_a_run_that_can_be_gone_on_with(place, tmp_path, losses, whole, capsys):
    losses += [0.5, 0.4, 0.3, 0.31, 0.3]
    preview = {"validation_prompt": "a <thing>", "num_validation_images": 1, "validation_steps": 100}
    folder = run.train(configure(place, tmp_path, **EARLY, **preview))
    said = capsys.readouterr().err
    assert "step 4: early_stopping ends the run: no step was better than step 2" in said
    assert checkpoint_steps(folder) == [4]
    assert (folder / "contact_sheet.png").exists() and (folder / "validation" / "step-4.png").exists()
    assert "4 steps" in (folder / "README.md").read_text()
    np.testing.assert_array_equal(learned(folder), rows_after(folder, 4))

    losses += [0.31, 0.29]
    more = EARLY | {"early_stopping_patience": 9, "resume_from_checkpoint": "latest"}
    run.train(configure(place, tmp_path, **more))
    assert learned(folder).tobytes() == learned(whole[0]).tobytes()
    assert [each.step for each in read_evaluations(folder / TABLE)] == [0, 1, 2, 3, 4, 5, 6]


def test_a_killed_run_stops_early_where_it_would_have(place, tmp_path, losses):
    options = EARLY | {"checkpointing_steps": 1}
    losses += [0.5, 0.4, 0.3, 0.31]
    stopped_after(place, tmp_path, 3, **options)
    losses += [0.3]
    folder = run.train(configure(place, tmp_path, **options, resume_from_checkpoint="latest"))
    assert checkpoint_steps(folder)[-1] == 4 and not losses


def test_a_run_ends_itself_when_more_steps_bring_nothing(place, tmp_path, losses, capsys):
    options = {"max_train_steps": "auto", "eval_steps": 1, "checkpointing_steps": 100, "save_steps": 1}
    losses += [0.5, 0.4, 0.41, 0.41, 0.41]
    folder = run.train(configure(place, tmp_path, **options))
    said = capsys.readouterr().err
    assert "until it is done, at most 5000 steps" in said
    assert "step 4: the run is done: no step was better than step 1" in said
    assert "the result is that of step 1, the best of all evaluations" in said
    assert checkpoint_steps(folder) == [4] and not losses
    result = learned(folder).tobytes()
    _, first = load_learned_embeds(folder / "learned_embeds-steps-1.safetensors")
    assert result == first.tobytes()

    again = configure(place, tmp_path, **options, resume_from_checkpoint="auto")
    run.train(again)
    assert "holds the result of a run that was done" in capsys.readouterr().err
    (folder / "learned_embeds.safetensors").unlink()  # as if it had been killed before that was written
    run.train(again)
    assert learned(folder).tobytes() == result and checkpoint_steps(folder) == [4]


def test_a_run_that_ends_itself_goes_on_where_the_prompt_is_drowned_once(tmp_path, capsys):
    heard = iter([1.0, 0.1, 1.0, 0.1, 0.1])  # the first is that of the start, to compare with
    hook = make_hook(
        tmp_path,
        [0.5, 0.4, 0.3, 0.2, 0.1, 0.05],
        sensitivity=lambda rows: np.array([[next(heard)]]),
        until_done=True,
    )
    for step in range(5):
        assert not hook.stop
        evaluate(hook, step)
    assert hook.stop
    assert "step 4: the run is done: no step was better than step 2" in capsys.readouterr().err


STRAIGHT = {"optimizer": "directional", "use_ema": True, "learning_rate": 0.05, "num_vectors": 1}


def test_how_straight_the_vectors_come_from_the_last_evaluation(place, tmp_path):
    options = STRAIGHT | {"save_steps": 2, "lr_scheduler": "linear", "lr_warmup_steps": 0}
    folder = run.train(configure(place, tmp_path, **options))
    first, *others = read_evaluations(folder / TABLE)
    assert first.straightness is None
    for each in others[1:]:
        files = (folder / f"learned_embeds-steps-{step}.safetensors" for step in (each.step - 2, each.step))
        before, after = (load_learned_embeds(file)[1][0] for file in files)
        cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
        path = sum(0.05 * (1 - step / 6) for step in (each.step - 2, each.step - 1))
        assert each.straightness == pytest.approx(np.arccos(cosine) / path, rel=1e-2)
        assert 0.1 < each.straightness < 1.5  # the mean lags behind a rate that falls


@pytest.mark.parametrize("changes", [{"optimizer": "adamw"}, {"placeholder_token": ("<thing>", "<other>")}])
def test_it_is_left_out_where_updates_turn_no_vector_by_the_same_angle(place, tmp_path, changes):
    folder = run.train(configure(place, tmp_path, **STRAIGHT | changes))
    table = read_evaluations(folder / TABLE)
    assert len(table) == 4 and all(each.straightness is None for each in table)


def test_a_run_that_is_gone_on_with_knows_the_rows_of_the_last_evaluation(place, tmp_path):
    options = STRAIGHT | {"eval_steps": 3, "checkpointing_steps": 2}
    whole = run.train(configure(place, tmp_path / "whole", **options))
    folder = run.train(configure(place, tmp_path / "cut", **options))
    shutil.rmtree(folder / "checkpoint-6")  # step 4 has other rows than the evaluation before it
    (folder / "learned_embeds.safetensors").unlink()
    run.train(configure(place, tmp_path / "cut", **options, resume_from_checkpoint="auto"))
    expected, found = (read_evaluations(each / TABLE)[-1].straightness for each in (whole, folder))
    assert found == expected is not None


def test_what_counts_is_the_context_that_is_least_heard_of_all_words(tmp_path):
    """Each beside what it was at the start: one that was never heard much is not the least."""
    heard = iter([[[8.0, 0.1], [4.0, 4.0]], [[9.0, 0.09], [5.0, 1.0]]])
    hook = make_hook(tmp_path, [0.5, 0.4], sensitivity=lambda rows: np.array(next(heard)))
    for step in range(2):
        evaluate(hook, step)
    assert [each.prompt_sensitivity for each in read_evaluations(tmp_path / TABLE)] == [1.0, 0.25]


def test_the_best_rows_become_the_result_where_that_is_asked_for(place, tmp_path, losses, whole, capsys):
    losses += [0.5, 0.4, 0.2, 0.45]
    folder = run.train(configure(place, tmp_path, load_best_model_at_end=True))
    best = rows_after(whole[0], 4)
    assert learned(folder).tobytes() == best.tobytes() != learned(whole[0]).tobytes()
    assert "4 steps" in (folder / "README.md").read_text()
    said = capsys.readouterr().err
    assert "the result is that of step 4, the best of all evaluations" in said
    assert "validation loss 0.5000 at step 0, 0.4500 at step 6, best 0.2000 at step 4" in said


def test_nothing_is_said_of_a_run_without_a_table(tmp_path):
    assert summary(tmp_path) == []
    assert best_kept(tmp_path / BEST, [], 3) == UNRANKED


def letters(count):
    """A vocabulary of words of one letter, each a direction of its own."""
    return Vocabulary(
        np.eye(count) * 0.5, [f"{letter}</w>" for letter in "abcdef"[:count]], "abcdef".__getitem__
    )


def make_hook(tmp_path, losses, **changes):
    arguments = {
        "every": 1,
        "last_step": 100,
        "loss": lambda rows: losses.pop(0),
        "sensitivity": lambda rows: np.ones((1, 1)),
        "result": lambda state: state.rows,
        "start_rows": tree(np.ones((1, 4), np.float32)),
        "vocabularies": tree(letters(4)),
    }
    return Evaluate(tmp_path, {"<thing>": 1}, **(arguments | changes))


def state_of(step, scale=1.0):
    return TrainState(tree(np.full((1, 4), scale, np.float32)), None, np.int32(step))


def evaluate(hook, step, scale=1.0):
    if step:
        hook.on_metrics(
            Chunk(step, np.asarray([0.1], np.float32), np.asarray([1.0], np.float32), np.asarray([True]), 1.0)
        )
    state = state_of(step, scale)
    (hook.on_step if step else lambda step, state: hook.on_start(step, state))(step, state)


@pytest.mark.parametrize("ready_after", [0, 1, 9])
def test_the_first_evaluation_waits_for_no_compilation_and_comes_before_all_others(tmp_path, ready_after):
    measured, looks = [], iter(range(1, 100))
    hook = make_hook(
        tmp_path,
        [],
        loss=lambda rows: measured.append(only(rows)[0, 0]) or 0.1,
        ready=lambda: next(looks) > ready_after,
    )
    hook.on_start(0, state_of(0))
    assert measured == []
    for step in (1, 2):
        hook.on_metrics(
            Chunk(step, *(np.asarray([x], np.float32) for x in (step, 1)), np.asarray([True]), 1.0)
        )
        assert measured == [1.0] * (step > ready_after)
    hook.on_step(2, state_of(2, 3))
    assert measured == [1.0, 3.0]
    # The first has no training loss before it; that of the updates meanwhile belongs to the second.
    table = read_evaluations(tmp_path / TABLE)
    assert [(each.step, each.loss) for each in table] == [(0, None), (2, 1.5)]


def test_flags_are_said_once_when_they_begin_to_hold(tmp_path, capsys):
    hook = make_hook(
        tmp_path,
        [0.2, 0.1, 0.1, 0.1, 0.1, 0.1],
        sensitivity=lambda rows: np.array([[6.0 if only(rows).max() < 2.5 else 1.0]]),
    )
    for step, scale in enumerate([1.0, 2.0, 2.6, 2.7, 2.8, 2.9]):
        evaluate(hook, step, scale)
    assert capsys.readouterr().err.splitlines() == [
        "step 2: the concept overpowers the rest of the prompt: use step 1",
        "step 4: no longer improving since step 1",
    ]
    evaluated = summary(tmp_path)
    assert evaluated[1:] == [
        "step 2: the concept overpowers the rest of the prompt: use step 1",
        "step 4: no longer improving since step 1",
    ]
    # A run that goes on has said it already.
    again = make_hook(tmp_path, [0.1])
    again.on_start(5, state_of(5))
    evaluate(again, 6, 3.0)
    assert capsys.readouterr().err == ""


def test_the_last_step_is_not_an_early_end(tmp_path, capsys):
    hook = make_hook(tmp_path, [0.2, 0.1, 0.1], last_step=2, patience=Patience(1))
    for step in (0, 1, 2):
        evaluate(hook, step)
    assert not hook.stop and "early" not in capsys.readouterr().err
    shutil.rmtree(tmp_path)


def test_twenty_thousand_evaluations_cost_as_much_each_as_the_first(tmp_path, monkeypatch):
    """With losses that keep falling, so that what is good moves on, and the best rows left out."""
    count, whole_writes, seconds = 20_000, [], []
    losses = (1.0 - 0.5 * number / count for number in range(count))
    hook = make_hook(tmp_path, None, loss=lambda rows: next(losses), last_step=count, patience=Patience(5))
    monkeypatch.setattr(hook, "_keep_best", lambda learned: None)
    write = evaluation.write_evaluations
    monkeypatch.setattr(
        evaluation, "write_evaluations", lambda *given: (whole_writes.append(given), write(*given))
    )
    for step in range(count):
        began = time.perf_counter()
        evaluate(hook, step)
        seconds.append(time.perf_counter() - began)
    assert len(whole_writes) == 1 and not hook.stop
    # Medians, so that a busy machine does not matter; where all lines are gone over, it is 19 times.
    assert np.median(seconds[-2_000:]) < 5 * np.median(seconds[:2_000])
    table = read_evaluations(tmp_path / TABLE)
    assert [each.step for each in table] == list(range(count))
    assert table[-1].validation_loss == pytest.approx(0.5, abs=1e-4)


def test_a_table_that_could_not_be_written_is_whole_again_with_the_next_line(tmp_path, monkeypatch):
    hook = make_hook(tmp_path, [0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    evaluate(hook, 0)

    def cut(path, each):
        with path.open("ab") as file:
            file.write(b"1,0.4")
        raise OutputError(path, expected="room", found="none")

    with monkeypatch.context() as patch, pytest.raises(OutputError):
        patch.setattr(evaluation, "append_evaluation", cut)
        evaluate(hook, 1)
    assert [each.step for each in read_evaluations(tmp_path / TABLE)] == [0]
    evaluate(hook, 2)
    evaluate(hook, 3)
    (tmp_path / TABLE).unlink()  # somebody else did that
    with pytest.raises(OutputError):
        evaluate(hook, 4)
    hook.on_step(5, state_of(5))
    assert [each.step for each in read_evaluations(tmp_path / TABLE)] == [0, 1, 2, 3, 4, 5]


def test_a_resumed_run_cuts_the_table_back_and_drops_a_line_cut_short(tmp_path):
    hook = make_hook(tmp_path, [0.5, 0.4, 0.3, 0.2, 0.1])
    for step in range(3):
        evaluate(hook, step)
    whole = (tmp_path / TABLE).read_bytes()
    evaluate(hook, 3)
    evaluate(hook, 4)
    (tmp_path / TABLE).write_bytes((tmp_path / TABLE).read_bytes()[:-9])
    again = make_hook(tmp_path, [0.2])
    again.on_start(2, state_of(2))
    assert (tmp_path / TABLE).read_bytes() == whole
    evaluate(again, 3)
    assert [each.step for each in read_evaluations(tmp_path / TABLE)] == [0, 1, 2, 3]
