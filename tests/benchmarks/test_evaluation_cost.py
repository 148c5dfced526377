"""What evaluations are found to cost."""

import evaluation_cost
import pytest
from evaluation_cost import Cost, Span

from ti_flax.errors import ConfigError


def test_the_cost_is_that_from_the_second_evaluation_on():
    spans = [Span(5, 0, 9), Span(10, 10, 30), Span(15, 32, 33), Span(20, 35, 36)]
    assert evaluation_cost.cost(spans) == Cost(2, 10, 1.0, 0.4, 2 / 6)


def test_a_run_of_too_few_evaluations_is_one_line():
    with pytest.raises(ConfigError, match="max_train_steps: expected a run with 4 evaluations"):
        evaluation_cost.cost([Span(5, 0, 1), Span(10, 2, 3), Span(15, 4, 5)])
