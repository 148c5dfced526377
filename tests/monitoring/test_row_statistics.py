"""The signals of rows, their table, and what it says in plain words."""

import dataclasses
import re

import numpy as np
import pytest
from row_trees import ENCODER, SECOND_ENCODER

from ti_flax.embedding.vocabulary import RowStatistics, Vocabulary, measure_rows
from ti_flax.errors import OutputError
from ti_flax.monitoring.row_statistics import (
    DONE,
    DROWNS,
    EVALUATIONS_TO_TELL,
    STEPS_TO_TELL,
    TOLD,
    WANDERS,
    WORTH_HAVING,
    Evaluation,
    Flags,
    GainCounter,
    append_evaluation,
    best_of,
    flags,
    read_evaluations,
    write_evaluations,
)

NAMES = ["cat</w>", "ca", "dog</w>", "end</w>", "zero</w>", "Cat</w>"]
TABLE = np.asarray([[1, 0], [1, 0.01], [0, 2], [3, 0], [0, 0], [2, 0.1]], np.float32)


def vocabulary(table=TABLE):
    return Vocabulary(
        table, NAMES, lambda index: NAMES[index].removesuffix("</w>").lower() + " ", special=[3]
    )


def test_a_row_against_the_vocabulary():
    (signals,) = vocabulary().measure(
        np.asarray([[1.5, 1.5]], np.float32), np.asarray([[0.0, 4.0]], np.float32)
    )
    norms = [0, 1, 1.00005, 2, 2.0025, 3]
    assert signals.norm == pytest.approx(np.sqrt(4.5))
    assert signals.norm_to_median == pytest.approx(np.sqrt(4.5) / np.mean(norms[2:4]), rel=1e-5)
    assert signals.norm_percentile == pytest.approx(100 * 5 / 6)
    assert signals.cosine_to_start == pytest.approx(np.sqrt(0.5))


def test_nearest_are_whole_words_each_once():
    # `ca` is a piece, the end token is special, `zero` has no direction, and `Cat` reads as `cat`.
    found = vocabulary().nearest(np.asarray([1.0, 0.2], np.float32))
    assert [word for word, _ in found] == ["cat", "dog"]
    cosine = np.asarray([2, 0.1]) @ [1, 0.2] / np.linalg.norm([2, 0.1]) / np.linalg.norm([1, 0.2])
    assert found[0][1] == pytest.approx(cosine)


def row(to_median=1.5, nearest='ring 0.50, "x, y" 0.40'):
    return RowStatistics(1.25, to_median, 98.5, 0.1, nearest)


def table_of(losses, every=20, ratios=None):
    return [
        Evaluation(
            *(i * every, loss, None if i == 0 else 0.15, None if i == 0 else 1e-3),
            {"1": row(ratio), "2": row(1.0)},
        )
        for i, (loss, ratio) in enumerate(zip(losses, ratios or [1.5] * len(losses), strict=True))
    ]


def test_the_table_comes_back_from_its_file(tmp_path):
    table = table_of([0.14, 0.13125])
    write_evaluations(tmp_path / "signals.csv", table)
    assert read_evaluations(tmp_path / "signals.csv") == table
    assert [path.name for path in tmp_path.iterdir()] == ["signals.csv"]


def measured(scale):
    """The signals of two vectors of two text encoders, the second of three numbers."""
    wide = np.asarray([[0, 0, 1], [1, 1, 1], [0, 5, 0], [3, 0, 0], [0, 0, 0], [0, 0, 3]], np.float32)
    vocabularies = {ENCODER: vocabulary(), SECOND_ENCODER: vocabulary(wide)}
    start = {ENCODER: np.float32([[1, 0], [0, 1]]), SECOND_ENCODER: np.float32([[0, 0, 1], [0, 1, 0]])}
    rows = {ENCODER: start[ENCODER] * scale, SECOND_ENCODER: start[SECOND_ENCODER][::-1] * 2 * scale}
    return measure_rows(vocabularies, rows, start)


def test_vectors_are_named_by_number_and_those_of_a_second_encoder_by_that_as_well():
    found = measured(3.0)
    assert list(found) == ["1", "2", "1_text_encoder_2", "2_text_encoder_2"]
    assert [each.norm for each in found.values()] == pytest.approx([3, 3, 6, 6])
    assert [each.cosine_to_start for each in found.values()] == pytest.approx([1, 1, 0, 0])
    nearest = [each.nearest_words.partition(",")[0] for each in found.values()]
    assert nearest == ["cat 1.00", "dog 1.00", "dog 1.00", "cat 1.00"]
    assert found["1"].norm_to_median == pytest.approx(3 / np.mean([1.00005, 2]), rel=1e-4)
    assert found["1_text_encoder_2"].norm_to_median == pytest.approx(6 / np.mean([np.sqrt(3), 3]), rel=1e-6)


def test_the_table_of_two_encoders_comes_back(tmp_path):
    path = tmp_path / "signals.csv"
    table = [Evaluation(step, 0.5, None, None, measured(1.0 + step)) for step in (0, 1)]
    write_evaluations(path, table[:1])
    append_evaluation(path, table[1])
    found = read_evaluations(path)
    assert [list(each.rows) for each in found] == [list(table[0].rows)] * 2
    for each, wanted in zip(found, table, strict=True):
        for vector, signals in wanted.rows.items():
            assert each.rows[vector].nearest_words == signals.nearest_words
            for name in ("norm", "norm_to_median", "norm_percentile", "cosine_to_start"):
                assert getattr(each.rows[vector], name) == pytest.approx(getattr(signals, name), rel=1e-8)
    head = path.read_text().splitlines()[0].split(",")
    assert head[4:7] == ["prompt_sensitivity", "straightness", "norm_1"]
    assert head[-1] == "nearest_words_2_text_encoder_2"
    flagged = [dataclasses.replace(table[1], rows=table[1].rows | {"2_text_encoder_2": row(12.0)})]
    assert [sentence.partition(":")[0] for _, sentence in flags(flagged)] == [
        "the rows have left the range of known words"
    ]


def test_as_many_vectors_as_a_prompt_has_places_come_back_of_two_encoders(tmp_path):
    names = [f"{number}{encoder}" for encoder in ("", "_text_encoder_2") for number in range(1, 76)]
    table = [Evaluation(0, 0.5, None, None, {name: row(1.0) for name in names})]
    write_evaluations(tmp_path / "signals.csv", table)
    assert read_evaluations(tmp_path / "signals.csv") == table


OLD = """\
step,validation_loss,loss,grad_norm,\
norm_1,norm_to_median_1,norm_percentile_1,cosine_to_start_1,nearest_words_1,\
norm_2,norm_to_median_2,norm_percentile_2,cosine_to_start_2,nearest_words_2
0,0.14,,,0.5,1.25,90,1,"cat 1.00, dog 0.50",0.6,1.5,91,1,dog 1.00
20,0.13,0.15,0.001,0.7,1.75,95,0.5,ring 0.50,0.8,2,96,0.25,toy 0.40
"""


def test_a_table_from_before_some_columns_were_measured_is_read_and_has_them_from_then_on(tmp_path):
    path = tmp_path / "signals.csv"
    path.write_text(OLD)
    first, last = read_evaluations(path)
    assert list(first.rows) == list(last.rows) == ["1", "2"]
    assert first.rows["1"] == RowStatistics(0.5, 1.25, 90.0, 1.0, "cat 1.00, dog 0.50")
    assert last.rows["2"] == RowStatistics(0.8, 2.0, 96.0, 0.25, "toy 0.40")
    assert first.prompt_sensitivity is first.straightness is None
    write_evaluations(path, [first, last])
    assert path.read_text() == re.sub("^((?:[^,]*,){4})", r"\1,,", OLD, flags=re.MULTILINE).replace(
        "norm,,,", "norm,prompt_sensitivity,straightness,", 1
    )


def test_a_line_more_is_the_table_with_it(tmp_path):
    path, table = tmp_path / "signals.csv", table_of([0.14, 0.13125, 0.13])
    write_evaluations(path, table)
    whole = path.read_bytes()
    write_evaluations(path, table[:1])
    for each in table[1:]:
        append_evaluation(path, each)
    assert path.read_bytes() == whole and read_evaluations(path) == table


def test_a_line_without_an_end_is_left_out_wherever_it_was_cut(tmp_path):
    path, table = tmp_path / "signals.csv", table_of([0.14, 0.13])
    write_evaluations(path, table[:1])
    before = path.stat().st_size
    append_evaluation(path, table[1])
    whole = path.read_bytes()
    for size in range(before, len(whole)):
        path.write_bytes(whole[:size])
        assert read_evaluations(path) == table[:1]
    path.write_bytes(whole)
    assert read_evaluations(path) == table


def test_nothing_is_appended_where_no_table_is(tmp_path):
    with pytest.raises(OutputError, match="signals.csv"):
        append_evaluation(tmp_path / "signals.csv", table_of([0.14])[0])
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_table_before(tmp_path, monkeypatch):
    path = tmp_path / "signals.csv"
    write_evaluations(path, table_of([0.14]))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_evaluations(path, table_of([0.14, 0.13]))
    assert read_evaluations(path) == table_of([0.14])


NAMELESS = """\
step,validation_loss,loss,grad_norm,norm_x,norm_to_median_x,norm_percentile_x,cosine_to_start_x,nearest_words_x
0,0.14,,,0.5,1.25,90,1,cat 1.00
"""


@pytest.mark.parametrize(
    "text", ["", "step,loss\n1,2\n", "step,validation_loss,loss,grad_norm\nx,1,1,1\n", NAMELESS]
)
def test_another_table_counts_as_none(tmp_path, text):
    (tmp_path / "signals.csv").write_text(text)
    assert read_evaluations(tmp_path / "signals.csv") == []
    assert read_evaluations(tmp_path / "none.csv") == []


def test_the_best_is_one_after_an_update():
    assert best_of(table_of([0.1, 0.14, 0.13, 0.135])).step == 40
    assert best_of(table_of([0.1])) is None
    assert best_of(table_of([0.1, float("nan")])) is None


def heard(losses, sensitivities):
    """A table with the prompt sensitivity of each evaluation, in multiples of what drowns a prompt."""
    return [
        dataclasses.replace(each, prompt_sensitivity=sensitivity * DROWNS)
        for each, sensitivity in zip(table_of(losses), sensitivities, strict=True)
    ]


def test_the_best_lets_the_rest_of_the_prompt_be_heard():
    assert best_of(heard([0.2, 0.14, 0.13, 0.12], [2, 1.5, 1, 0.99])).step == 40
    # Where none does, it is the one that drowns it least, whatever its loss.
    assert best_of(heard([0.2, 0.14, 0.13, 0.12], [2, 0.8, 0.9, 0.5])).step == 40
    assert best_of(heard([0.2, 0.14, 0.13], [2, float("nan"), float("nan")])) is None
    assert best_of(heard([0.2, float("nan"), 0.13], [2, 2, 0.9])).step == 40


def test_a_loss_that_falls_while_the_prompt_drowns_is_no_gain():
    counter = GainCounter(0.0)
    for each in heard([0.2, 0.14, 0.13, 0.12], [2, 2, 0.9, 0.8]):
        counter.add(each)
    assert counter.since == 2


def test_a_concept_that_overpowers_its_prompt_is_flagged_once_with_the_step_to_use():
    table = heard([0.2, 0.14, 0.13, 0.135, 0.12, 0.11, 0.1], [2, 3, 1.2, 1.2, 0.9, 1.1, 0.8])
    assert flags(table) == [(80, "the concept overpowers the rest of the prompt: use step 40")]
    assert flags(heard([0.2, 0.14], [2, 0.9])) == [
        (20, "the concept overpowers the rest of the prompt: lower learning_rate")
    ]
    # The vectors' length says less, so it is silent where the prompt's part is measured.
    long = [dataclasses.replace(each, rows={"1": row(20.0)}) for each in heard([0.2, 0.14], [2, 2])]
    assert flags(long) == []


def straight(multiples, interval=20):
    """A table with the straightness of each evaluation, in multiples of a random walk's."""
    table = table_of([0.2, *(0.1 - 0.01 * place for place in range(len(multiples)))], interval)
    return [
        table[0],
        *(
            dataclasses.replace(each, straightness=multiple / interval**0.5)
            for each, multiple in zip(table[1:], multiples, strict=True)
        ),
    ]


@pytest.mark.parametrize("interval", [STEPS_TO_TELL, 20])
def test_vectors_that_turn_about_one_place_have_arrived_whatever_the_loss_says(interval, tmp_path):
    learned = Flags()
    for each in straight([2.0, 1.5, 0.6, 1.01 * WANDERS], interval):
        learned.add(each)
        assert not learned.over
    learned.add(straight([1, 1, 1, 1, 0.99 * WANDERS], interval)[-1])
    assert learned.over
    too_few = Flags()
    for each in straight([1, 1, 0.1], STEPS_TO_TELL - 1):
        too_few.add(each)
    assert not too_few.over
    write_evaluations(tmp_path / "signals.csv", straight([2.0]))
    assert [each.straightness for each in read_evaluations(tmp_path / "signals.csv")] == [
        None,
        pytest.approx(2 / 20**0.5),
    ]


@pytest.mark.parametrize(
    ("losses", "threshold", "since"),
    [
        ([0.10, 0.14, 0.13, 0.12], 0.0, 0),
        ([0.10, 0.14, 0.13, 0.131, 0.13], 0.0, 2),
        ([0.10, 0.14, 0.135, 0.131], 0.005, 0),
        ([0.10, 0.14, 0.136, 0.132], 0.005, 0),
        ([0.10, 0.14, 0.136, 0.1355], 0.005, 2),
        ([0.10], 0.0, 0),
    ],
)
def test_patience_counts_evaluations_without_a_better_loss(losses, threshold, since):
    counter = GainCounter(threshold)
    for each in table_of(losses):
        counter.add(each)
    assert counter.since == since


# The demo's <ruby> at two learning rates: an evaluation every 40 steps, 30 samples.
GOOD = [0.13188, 0.12830, 0.12694, 0.12663, 0.12620, 0.12619]
LARGE = [0.13188, 0.12715, 0.12676, 0.12643, 0.12657, 0.12578, 0.12566, 0.12581, 0.12586, 0.12555, 0.12581]
LARGE_NORMS = [1.52, 8.22, 8.69, 9.10, 9.87, 10.55, 11.72, 12.43, 12.80, 13.50, 14.18]


def test_a_good_run_is_silent():
    assert flags(table_of(GOOD, 40, [1.52, 1.55, 1.61, 1.66, 1.73, 1.78])) == []
    assert flags([]) == []


def test_a_learning_rate_that_is_too_large_is_flagged_once_when_it_begins():
    table = table_of(LARGE, 40, LARGE_NORMS)
    assert flags(table) == [
        (200, "the rows have left the range of known words: over-training is likely"),
        (400, "no longer improving since step 200"),
    ]
    # What was said stays as it was said, whatever comes after.
    for count in range(len(table)):
        assert flags(table[:count]) == [each for each in flags(table) if each[0] <= (count - 1) * 40]


def test_one_vector_out_of_range_is_enough_and_a_start_out_of_range_is_not():
    start = [dataclasses.replace(each, rows={"1": row(20.0)}) for each in table_of([0.14])]
    assert flags(start) == []
    assert len(flags([*start, *table_of([0.13, 0.12], ratios=[1.0, 11.0])[1:]])) == 1


def test_a_loss_that_never_falls_is_said_to_be_so():
    assert flags(table_of([0.13, 0.14, 0.14, 0.14])) == [(60, "no longer improving since step 0")]


def test_more_of_the_same_length_has_to_pass_before_a_run_counts_as_over():
    falls = [0.14, 0.138, 0.136, 0.134, 0.132, 0.130]
    assert flags(table_of(falls + [0.130] * 4)) == []
    assert flags(table_of(falls + [0.130] * 5)) == [(200, "no longer improving since step 100")]


def done_at(table):
    """The first step at which a run that ends itself is done; none if it goes on."""
    told = Flags()
    for each in table:
        told.add(each)
        if told.over:
            return [each.step]
    return []


def test_a_run_is_done_when_its_last_third_brought_nothing():
    falls = [0.14, 0.138, 0.136, 0.134, 0.132, 0.130, 0.128]  # steps 0 to 120
    assert done_at(table_of(falls)) == []
    assert done_at(table_of(falls + [0.128] * 2)) == []
    assert done_at(table_of(falls + [0.128] * 5)) == [180]
    assert done_at(table_of([0.14, 0.13, 0.13, 0.13])) == []
    assert done_at(table_of([0.14, 0.13, 0.13, 0.13, 0.13])) == [80]


def no_gain_by_definition(table, share=TOLD):
    """The first step at which a standstill is seen, and since when, from every beginning of the table."""
    losses = np.asarray([each.validation_loss for each in table])
    for count in range(1, len(table) + 1):
        seen = losses[:count]
        if not np.isfinite(seen).all():
            return []
        first = int(np.argmax(seen <= seen.min() + WORTH_HAVING * (seen[0] - seen.min())))
        last = table[count - 1].step
        if count - 1 - first >= EVALUATIONS_TO_TELL and last - table[first].step >= share * last:
            return [(last, f"no longer improving since step {table[first].step}")]
    return []


def test_taken_one_by_one_they_say_what_the_definition_says():
    rng = np.random.default_rng(0)
    said = []
    for _ in range(300):
        losses = 0.1 + np.cumsum(rng.normal(-0.4, 1.0, rng.integers(1, 40))) / 1000
        if rng.random() < 0.1:
            losses[rng.integers(len(losses))] = np.nan
        table = table_of(losses.tolist())
        assert flags(table) == no_gain_by_definition(table)
        assert done_at(table) == [step for step, _ in no_gain_by_definition(table, DONE)]
        said += flags(table)
    assert 100 < len(said) < 290
