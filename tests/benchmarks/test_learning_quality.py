"""The benchmark's arithmetic and what it prints; trainings of its kind are in test_learning.py."""

import json

import learning_quality as bench
import numpy as np
import pytest

from ti_flax.config.concept_list import read_concepts
from ti_flax.errors import ConfigError


def point(concept, kind, steps, seed, fidelity, editability=(1, 1, 1, 1)):
    score = bench.Score(np.array(fidelity, bool), np.array(editability, bool))
    return bench.Point(concept, kind, steps, seed, score)


@pytest.fixture
def points():
    return [
        point("a", "initializer", 0, 0, [0, 0, 0, 0]),
        point("a", "literal", 0, 0, [1, 1, 1, 0]),
        point("a", "learned", 50, 0, [0, 1, 0, 0]),
        point("a", "learned", 50, 1, [0, 1, 1, 0]),
        point("a", "learned", 100, 0, [1, 1, 1, 1], [1, 0, 0, 0]),
        point("a", "learned", 100, 1, [1, 1, 0, 0], [1, 1, 0, 0]),
        point("b", "initializer", 0, 0, [0, 1, 0, 0]),
        point("b", "learned", 50, 0, [0, 0, 0, 0]),
        point("b", "learned", 50, 1, [0, 0, 0, 0]),
        point("b", "learned", 100, 0, [0, 1, 0, 0], [1, 1, 1, 0]),
        point("b", "learned", 100, 1, [0, 1, 0, 0], [1, 1, 1, 1]),
    ]


def test_shares_are_means_over_concepts_and_their_intervals_hold_them(points):
    final = [each for each in points if each.steps == 100]
    mean, low, high = bench.interval(final, "fidelity")
    assert mean == pytest.approx((0.75 + 0.25) / 2)
    assert 0.0 <= low < mean < high <= 1.0
    sure = [point(name, "learned", 1, 0, [1] * 50) for name in "abc"]
    assert bench.interval(sure, "fidelity") == (1.0, 1.0, 1.0)


def test_more_samples_make_the_interval_narrower():
    def width(samples):
        truth = np.arange(samples) % 2
        _, low, high = bench.interval([point("a", "learned", 1, 0, truth)], "fidelity")
        return high - low

    # For a share of one half the 95% interval of n samples is about 1.96 / sqrt(n) wide.
    assert width(100) == pytest.approx(0.196, abs=0.02)
    assert width(400) == pytest.approx(0.098, abs=0.01)


def test_the_table_has_a_row_for_each_step_and_bound(points):
    lines = bench.table(points).splitlines()
    assert [line[:14].strip() for line in lines[1:]] == [
        "initializer",
        "learned 50",
        "learned 100",
        "literal",
        "of these",
    ]
    assert lines[3].split()[2] == "0.50" and lines[3].endswith("2 x 2 x 4")
    assert lines[5].split()[2] == "0.75" and lines[5].endswith("1 x 2 x 4")


def test_a_table_without_a_concept_in_plain_words(points):
    lines = bench.table([each for each in points if each.concept == "b"]).splitlines()
    assert [line[:14].strip() for line in lines[1:]] == ["initializer", "learned 50", "learned 100"]


def test_the_last_line(points):
    assert bench.last_line(points) == (
        "fidelity 0.750 literal 0.750 initializer 0.000 editability 0.375 literal 1.000"
    )
    without = [each for each in points if each.concept == "b"]
    assert bench.last_line(without).startswith("fidelity 0.250 literal none initializer 0.250")


def test_results_are_written_in_full(points, tmp_path):
    options, training = bench.parse_arguments(["--output", str(tmp_path), "--learning_rate", "1e-3"])
    bench.write(points, options, training, 3.2)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["options"] == ["--learning_rate", "1e-3"] and content["seconds"] == 3
    assert len(content["results"]) == len(points)
    assert content["results"][3]["fidelity"] == 0.5 and content["results"][3]["seed"] == 1
    assert (tmp_path / "results.png").stat().st_size > 5000


def test_options_of_the_training_pass_through(tmp_path):
    options, training = bench.parse_arguments(["--num_vectors", "2", "--steps", "40", "100"])
    concept = bench.BY_NAME["posy"]
    options.output = tmp_path / "out"
    bench.write_images(concept, options.output / "images" / "posy", 2)
    of_run = bench.settings(options, training, [concept], seed=5, steps=100)
    [listed] = read_concepts(of_run).concepts
    config = listed.config
    assert (config.training.seed, config.training.max_train_steps) == (5, 100)
    assert config.concept.each[0].num_vectors == 2
    assert config.output.save_steps == 20
    assert (listed.name, config.concept.words) == ("posy", ("<posy>",))
    with pytest.raises(ConfigError, match="unknown flag --nun_vectors"):
        bench.settings(options, ["--nun_vectors=2"], [concept], seed=0, steps=40)


def test_an_embedding_is_of_one_concept(tmp_path):
    options, training = bench.parse_arguments(["--embeds", "x.safetensors"])
    with pytest.raises(ConfigError, match="one name after --concepts"):
        bench.measure(options, training)
