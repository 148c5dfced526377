"""What the benchmark of likeness makes of losses and of judged words."""

import numpy as np
import pytest
from likeness import PROMPTS, SEEDS, TIMESTEPS, Measured, lost_by_choice, rank_correlation, training_loss
from test_prompt_sensitivity_table import word

from ti_flax.monitoring.row_statistics import DROWNS


def measured(fidelity, loss, *, concept="ruby", rate="1e-2", sensitivity=1.0):
    """A word with one loss everywhere."""
    losses = np.full((len(SEEDS), len(PROMPTS), len(TIMESTEPS)), loss)
    made = word(sensitivity, fidelity=fidelity, loss=loss, rate=rate, concept=concept)
    return Measured(made, losses, loss)


def loss(each):
    return each.trained


def test_words_of_a_concept_are_ranked_against_each_other():
    falling = [measured(0.1, 0.3), measured(0.5, 0.2), measured(0.9, 0.1)]
    assert rank_correlation(falling, loss) == pytest.approx(1.0)
    assert rank_correlation(falling, lambda each: -each.trained) == pytest.approx(-1.0)
    others = [measured(0.9, 0.9, concept="posy"), measured(0.8, 0.8, concept="posy")]
    assert rank_correlation([*falling, *others], loss) == pytest.approx(0.0)


def test_a_concept_whose_words_are_alike_says_nothing():
    falling = [measured(0.1, 0.3), measured(0.5, 0.2)]
    alike = [measured(1.0, 0.3, concept="posy"), measured(1.0, 0.2, concept="posy")]
    assert rank_correlation([*falling, *alike], loss) == pytest.approx(1.0)
    assert np.isnan(rank_correlation(alike, loss)) and np.isnan(rank_correlation([], loss))


def test_what_a_choice_loses_is_the_mean_over_runs_while_the_prompt_is_heard():
    one = [measured(0.5, 0.2), measured(0.75, 0.3), measured(1.0, 0.1, sensitivity=DROWNS - 0.1)]
    other = [measured(0.25, 0.1, rate="3e-2"), measured(0.25, 0.2, rate="3e-2")]
    assert lost_by_choice(one, loss) == pytest.approx(0.25)
    assert lost_by_choice([*one, *other], loss) == pytest.approx(0.125)
    assert np.isnan(lost_by_choice(one[2:], loss))


def test_the_training_loss_is_that_of_the_updates_before_a_step(tmp_path):
    rows = "".join(f"{step},{step},1e-3,0.1,10\n" for step in range(1, 101))
    (tmp_path / "metrics.csv").write_text(f"step,loss,learning_rate,grad_norm,samples_per_second\n{rows}")
    assert training_loss(tmp_path, 50) == pytest.approx(np.mean(range(26, 51)))
    assert training_loss(tmp_path, 5) == pytest.approx(3.0)
