"""What the benchmark of learning says of its measurements."""

import json

import learning_table as table
import numpy as np
import pytest


def point(concept, kind, steps, seed, fidelity, editability=(1, 1, 1, 1)):
    score = table.Score(np.array(fidelity, bool), np.array(editability, bool))
    return table.Point(concept, kind, steps, seed, score)


@pytest.fixture
def points():
    return [
        point("a", "initializer", 0, 0, [0, 0, 0, 0]),
        point("a", "literal", 0, 0, [1, 1, 1, 0]),
        point("a", "learned", 50, 0, [0, 1, 0, 0]),
        point("a", "learned", 50, 1, [0, 1, 1, 0]),
        point("a", "learned", 100, 0, [1, 1, 1, 1], [1, 0, 0, 0]),
        point("a", "learned", 100, 1, [1, 1, 0, 0], [1, 1, 0, 0]),
        point("a", "autoencoder", 0, 0, [1, 1, 1, 1]),
        point("b", "initializer", 0, 0, [0, 1, 0, 0]),
        point("b", "autoencoder", 0, 0, [1, 1, 1, 0]),
        point("b", "learned", 50, 0, [0, 0, 0, 0]),
        point("b", "learned", 50, 1, [0, 0, 0, 0]),
        point("b", "learned", 100, 0, [0, 1, 0, 0], [1, 1, 1, 0]),
        point("b", "learned", 100, 1, [0, 1, 0, 0], [1, 1, 1, 1]),
    ]


def test_shares_are_means_over_concepts_and_their_intervals_hold_them(points):
    final = [each for each in points if each.steps == 100]
    mean, low, high = table.interval(final, "fidelity")
    assert mean == pytest.approx((0.75 + 0.25) / 2)
    assert 0.0 <= low < mean < high <= 1.0
    sure = [point(name, "learned", 1, 0, [1] * 50) for name in "abc"]
    assert table.interval(sure, "fidelity") == (1.0, 1.0, 1.0)


def test_more_samples_make_the_interval_narrower():
    def width(samples):
        truth = np.arange(samples) % 2
        _, low, high = table.interval([point("a", "learned", 1, 0, truth)], "fidelity")
        return high - low

    # For a share of one half the 95% interval of n samples is about 1.96 / sqrt(n) wide.
    assert width(100) == pytest.approx(0.196, abs=0.02)
    assert width(400) == pytest.approx(0.098, abs=0.01)


def test_the_table_of_steps_has_a_row_for_each_step_and_bound(points):
    lines = table.steps_table(points).splitlines()
    assert [line[:14].strip() for line in lines[1:]] == [
        "initializer",
        "learned 50",
        "learned 100",
        "literal",
        "autoencoder",
        "of these",
    ]
    assert lines[3].split()[2] == "0.50" and lines[3].endswith("2 x 2 x 4")
    assert lines[6].split()[2] == "0.75" and lines[6].endswith("1 x 2 x 4")


def test_a_table_of_steps_without_a_concept_in_plain_words(points):
    lines = table.steps_table([each for each in points if each.concept == "b"]).splitlines()
    assert [line[:14].strip() for line in lines[1:]] == [
        "initializer",
        "learned 50",
        "learned 100",
        "autoencoder",
    ]


def test_the_table_of_concepts_has_a_row_for_each_and_for_the_mean(points):
    points.append(point("a", "chosen", 60, 0, [1, 1, 1, 1]))
    points.append(point("a", "chosen", 90, 1, [1, 1, 1, 0], [1, 1, 0, 0]))
    points.append(point("b", "chosen", 80, 0, [0, 0, 0, 0]))
    shown = table.concepts_table(points, {"a": "red plain arrow", "b": "pink plain flower"}).splitlines()
    legend, titles, heads, one, two, mean, low, high = shown
    assert "fid.: fidelity" in legend
    assert [title.strip() for title in titles.split("   ")[-6:]] == [
        "initializer",
        "in words",
        "autoencoder",
        "after 100 steps",
        "best by the judge",
        "chosen by the run",
    ]
    assert " ".join(heads.split()) == "concept fid. fid. fid. fid. edit. step fid. edit. step fid. edit."
    # At 50 steps a is at 0.38 x 1.00, at 100 steps at 0.75 x 0.38, which is less.
    assert " ".join(one.split()) == "a red plain arrow 0.00 0.75 1.00 0.75 0.38 50 0.38 1.00 60-90 0.88 0.75"
    assert " ".join(two.split()) == "b pink plain flower 0.25 0.75 0.25 0.88 100 0.25 0.88 80 0.00 1.00"
    assert " ".join(mean.split()) == "mean 0.12 0.75 0.88 0.50 0.62 0.31 0.94 0.44 0.88"
    assert low.split()[:2] == ["95%", "from"] and high.split()[:2] == ["95%", "to"]
    for least, middle, most in zip(low.split()[2:], mean.split()[1:], high.split()[2:], strict=True):
        assert least <= middle <= most
    # Cells end below one another, and under the end of their title.
    assert len({len(line) for line in (titles, heads, one, two, mean, low, high)}) == 1


def test_files_have_no_steps_and_no_best(points):
    points = [each for each in points if each.kind != "learned"]
    points += [point(name, "learned", 0, 0, [1, 1, 0, 0]) for name in "ab"]
    _, titles, heads, *_ = table.concepts_table(points, {"a": "", "b": ""}).splitlines()
    assert titles.split("   ")[-1].strip() == "of the file" and "chosen" not in titles
    assert " ".join(heads.split()) == "concept fid. fid. fid. fid. edit."


def test_of_runs_that_ended_themselves_the_steps_made_stand_beside_the_result(points, tmp_path):
    points = [each for each in points if each.kind != "learned"]
    points += [point(name, "ended", steps, 0, [1, 1, 0, 0]) for name, steps in (("a", 60), ("b", 90))]
    points += [point(name, "chosen", 40, 0, [1, 1, 0, 0]) for name in "ab"]
    _, titles, heads, one, *_ = table.concepts_table(points, {"a": "", "b": ""}).splitlines()
    assert [title.strip() for title in titles.split("   ")[-2:]] == ["ended by itself", "chosen by the run"]
    assert " ".join(one.split()) == "a 0.00 0.75 1.00 60 0.50 1.00 40 0.50 1.00"
    assert table.last_line(points).startswith("fidelity 0.500 literal 0.750 initializer 0.000")
    pytest.importorskip("matplotlib")
    table.plot(points, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_of_steps_that_are_as_good_the_first_is_best():
    points = [point("a", "learned", steps, 0, [1, 1, 0, 0]) for steps in (200, 100)]
    assert [each.steps for each in table.best_by_the_judge(points)] == [100]


def test_the_last_line(points):
    assert table.last_line(points) == (
        "fidelity 0.750 literal 0.750 initializer 0.000 editability 0.375 literal 1.000"
    )
    without = [each for each in points if each.concept == "b"]
    assert table.last_line(without).startswith("fidelity 0.250 literal none initializer 0.250")


def test_results_are_written_in_full(points, tmp_path):
    points.append(point("a", "chosen", 60, 0, [1, 1, 1, 1]))
    table.write(tmp_path, points, {"options": ["--learning_rate", "1e-3"], "seconds": 3})
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["options"] == ["--learning_rate", "1e-3"] and content["seconds"] == 3
    assert len(content["results"]) == len(points)
    assert content["results"][3]["fidelity"] == 0.5 and content["results"][3]["seed"] == 1
    assert content["results"][-1]["kind"] == "chosen" and content["results"][-1]["steps"] == 60
    assert (tmp_path / "results.png").stat().st_size > 5000
