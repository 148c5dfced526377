"""Curves as SVG: where points come to lie, what is left out, and round numbers beside them."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from ti_flax.monitoring.report.charts import HEIGHT, WIDTH, Curve, Limit, chart, smoothed, ticks

X = np.arange(5.0)


def parts(text, tag):
    """The elements of a chart with a tag; the chart must be well-formed."""
    return [each for each in ET.fromstring(text).iter() if each.tag == tag]


def points(line):
    return np.asarray([pair.split(",") for pair in line.get("points").split()], np.float64)


def test_points_are_spread_over_the_image_and_higher_values_lie_higher():
    [line] = parts(chart("Loss", [Curve("", X, np.asarray([1.0, 2, 3, 4, 5]))]), "polyline")
    found = points(line)
    assert found.shape == (5, 2) and line.get("class") == "c0"
    np.testing.assert_allclose(np.diff(found[:, 0]), (WIDTH - 26 - 62) / 4, atol=0.11)
    assert (np.diff(found[:, 1]) < 0).all()
    assert found[:, 0].min() >= 62 and found[:, 0].max() <= WIDTH - 26 + 0.1
    assert found[:, 1].min() >= 46 and found[:, 1].max() <= HEIGHT - 44


def test_values_that_are_not_finite_are_left_out():
    text = chart("Loss", [Curve("a", X, np.asarray([1, np.nan, 3, np.inf, 5]))])
    assert len(points(parts(text, "polyline")[0])) == 3 and "nan" not in text and "inf" not in text


@pytest.mark.parametrize("curves", [[], [Curve("", X[:0], X[:0])], [Curve("", X[:1], X[:1])]])
def test_nothing_is_drawn_of_nothing(curves):
    assert chart("Loss", curves) == ""


def test_a_level_line_has_a_height():
    [line] = parts(chart("Rate", [Curve("", X, np.full(5, 2e-3))]), "polyline")
    assert len(set(points(line)[:, 1])) == 1


def test_faint_curves_are_drawn_first_and_have_no_end_point():
    text = chart("Loss", [Curve("mean", X, X), Curve("each", X, X[::-1], True), Curve("b", X, 2 * X)])
    assert [line.get("class") for line in parts(text, "polyline")] == ["faint", "c0", "c1"]
    assert [each.get("class") for each in parts(text, "circle")] == ["c0", "c1"]
    assert [title.text for title in parts(text, "title")] == ["mean 4 at step 4", "b 8 at step 4"]
    assert [(each.get("class"), each.text) for each in parts(text, "span")] == [
        ("faint", "each"),
        ("c0", "mean"),
        ("c1", "b"),
    ]


def test_many_points_are_thinned_to_means_and_the_last_stays():
    x = np.arange(10_000.0)
    text = chart("Loss", [Curve("", x, np.where(x % 5 == 0, 0.0, 2.0)), Curve("", x, 0 * x)])
    first = points(parts(text, "polyline")[0])
    assert len(first) == 401 and abs(first[-1, 0] - (WIDTH - 26)) < 0.1
    assert len(set(first[:-1, 1])) == 1


def test_a_limit_is_drawn_only_where_the_curve_comes_near_it():
    near, far = (
        chart("Length", [Curve("", X, X * scale)], limit=Limit(10.0, "out of range")) for scale in (2.0, 0.5)
    )
    assert "out of range" in near and "out of range" not in far
    [level] = [line for line in parts(near, "line") if line.get("class") == "limit"]
    assert points(parts(near, "polyline")[0])[-1, 1] > float(level.get("y1"))
    [field] = [each for each in parts(near, "rect") if each.get("class") == "limit"]
    assert float(field.get("y")) + float(field.get("height")) == pytest.approx(
        float(level.get("y1")), abs=0.11
    )


def test_a_limit_from_below_has_its_field_below_it_however_far_the_curve_stays():
    limit = Limit(0.9, "too low", below=True, always=True)
    text = chart("Sensitivity", [Curve("", X, 1.2 + 0.01 * X)], limit=limit)
    [level] = [line for line in parts(text, "line") if line.get("class") == "limit"]
    [field] = parts(text, "rect")
    height = float(level.get("y1"))
    assert 46 < height < HEIGHT - 44 and points(parts(text, "polyline")[0])[:, 1].max() < height
    assert float(field.get("y")) == height
    assert height + float(field.get("height")) == pytest.approx(HEIGHT - 44, abs=0.11)


def test_both_axes_have_round_numbers_and_say_what_they_count():
    values = np.asarray([0.1312, 0.1291, 0.1277, 0.1268, 0.1262])
    text = chart("Loss", [Curve("", 500 * X, values)], unit="mean squared error")
    said = [each.text for each in parts(text, "text")]
    heights, steps = [f"0.1{number}" for number in range(26, 32)], ["0", "500", "1,000", "1,500", "2,000"]
    assert said == [*heights, *steps, "step", "mean squared error"]


def test_a_few_points_are_dots_that_say_their_values():
    text = chart("Loss", [Curve("", X, 2 * X, dots=True)])
    assert [title.text for title in parts(text, "title")] == [
        f"{2 * step} at step {step}" for step in range(5)
    ]
    x = np.arange(61.0)
    assert len(parts(chart("Loss", [Curve("", x, x, dots=True)]), "title")) == 1


def test_a_mark_is_named_on_the_side_that_has_room():
    for step, anchor in ((1.0, "start"), (4.0, "end")):
        text = chart("Loss", [Curve("", X, X)], mark=(step, "best"))
        [name] = [each for each in parts(text, "text") if each.text == "best"]
        assert name.get("anchor", name.get("text-anchor")) == anchor


def test_names_cannot_leave_their_places():
    hostile = '<script>alert("x")</script>'
    text = chart(
        hostile,
        [Curve(hostile, X, X)],
        explanation=hostile,
        mark=(1, hostile),
        limit=Limit(4, hostile),
        unit=hostile,
    )
    assert "<script" not in text
    ET.fromstring(text)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0.1255, 0.1322, [0.126, 0.128, 0.13, 0.132]),
        (0, 200, [0, 50, 100, 150, 200]),
        (-3, 3, [-2, 0, 2]),
        (1, 3000, [1000, 2000, 3000]),
        (2e-5, 9e-5, [2e-5, 4e-5, 6e-5, 8e-5]),
    ],
)
def test_round_numbers(low, high, expected):
    np.testing.assert_allclose(ticks(low, high, 4), expected, atol=1e-12)


def test_smoothing_is_a_mean_that_forgets_by_half():
    np.testing.assert_allclose(smoothed(np.asarray([3.0, 3.0, 3.0]), 1), 3.0)
    np.testing.assert_allclose(smoothed(np.asarray([0.0, 3.0]), 1), [0.0, 2.0])
    np.testing.assert_allclose(smoothed(np.asarray([np.nan, 3.0, np.nan]), 1), [np.nan, 3.0, 3.0])
