"""The figures that the benchmark of prompt sensitivity draws from its words."""

from pathlib import Path

import numpy as np
import pytest
from prompt_sensitivity import NOISES, TIMESTEPS, Word, area, table

from ti_flax.monitoring.row_statistics import DROWNS


def word(sensitivity, *, fidelity=1.0, editability=1.0, loss=0.1, step=10, rate="1e-2", concept="ruby"):
    """A word with one prompt sensitivity at every timestep and noise."""
    at_start = np.random.default_rng(0).uniform(1, 2, (len(TIMESTEPS), NOISES, 8))
    measured = 1.0, loss, sensitivity * at_start, at_start
    return Word(concept, rate, step, fidelity, editability, *measured, Path("ruby.safetensors"))


def test_the_area_is_the_chance_that_an_over_trained_word_has_the_smaller_number():
    bad = [True, True, False, False]
    assert area([1, 2, 3, 4], bad) == 1.0 and area([3, 4, 1, 2], bad) == 0.0
    assert area([1, 3, 2, 4], bad) == 0.75 and area([1, 1, 1, 1], bad) == 0.5
    assert np.isnan(area([1, 2], [False, False]))


def test_the_sensitivity_is_that_of_the_word_relative_to_its_initializer():
    assert word(0.7).sensitivity() == pytest.approx(0.7)
    assert word(0.7).sensitivity(0.8, [1, 5]) == pytest.approx(0.7)


def test_the_setting_that_is_heard_least_tells_it_and_a_run_has_fewer_noises():
    one = word(1.0)
    one.distances[:, :, 3] *= 0.25
    one.distances[:, 4:, 5] = 0.0
    assert one.sensitivity(noises=slice(4)) == one.as_in_a_run == pytest.approx(0.25)
    assert one.sensitivity() == one.heard().min() < 0.35


def test_the_table_counts_words_below_the_limit():
    measured = [word(0.3, editability=0.2), word(1.1, editability=0.8), word(0.4), word(1.2), word(1.3)]
    lines = table(measured).splitlines()
    assert lines[0] == "5 words, 2 over-trained. Area under the ROC curve:"
    assert [line.split()[-1] for line in lines[1:5]] == ["0.833"] * 4
    assert lines[-1] == f"Below {DROWNS} are 1 of 2 over-trained words, and 1 of 3 others."
