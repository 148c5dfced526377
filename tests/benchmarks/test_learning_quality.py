"""What the benchmark of learning takes; what it says is in test_learning_table.py, its runs are elsewhere."""

import learning_quality as bench
import pytest

from ti_flax.config.concept_list import read_concepts
from ti_flax.errors import ConfigError
from ti_flax.monitoring.row_statistics import Evaluation, write_evaluations


def test_options_of_the_training_pass_through(tmp_path):
    options, training = bench.parse_arguments(["--num_vectors", "2", "--steps", "40", "100"])
    concept = bench.BY_NAME["posy"]
    options.output = tmp_path / "out"
    bench.write_images(concept, options.output / "images" / "posy", 2)
    of_run = bench.settings(options, training, [concept], seed=5)
    [listed] = read_concepts(of_run).concepts
    config = listed.config
    assert (config.training.seed, config.training.max_train_steps) == (5, 100)
    assert config.concept.each[0].num_vectors == 2
    assert config.output.save_steps == 20
    assert (listed.name, config.concept.words) == ("posy", ("<posy>",))
    with pytest.raises(ConfigError, match="unknown flag --nun_vectors"):
        bench.settings(options, ["--nun_vectors=2"], [concept], seed=0)
    until_done = bench.settings(options, ["--max_train_steps=auto"], [concept], seed=0)
    assert until_done.training.until_done


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--concepts rubi", "--concepts: expected one of glowheart, .*found 'rubi'. Did you mean ruby"),
        ("--concepts ruby --held_out", "--held_out and --concepts exclude each other"),
        ("--samples 0", "--samples: expected 1 or more, found 0"),
        ("--steps 50 -1", "--steps: expected 1 or more, found -1"),
        ("--seeds two", "--seeds: expected a whole number, found 'two'"),
        ("--embeds x.pt --seeds 2 --quick", "leave out --seeds and --quick"),
    ],
)
def test_what_cannot_be_measured_is_said(line, said, capsys):
    with pytest.raises(ConfigError, match=said) as raised:
        bench.parse_arguments(line.split())
    assert len(str(raised.value).splitlines()) == 1 and not capsys.readouterr().err


def test_which_concepts_are_asked_for():
    def asked(line):
        return bench.asked_for(bench.parse_arguments(line.split())[0])

    assert asked("") is None and asked("--concepts spool ruby") == ["spool", "ruby"]
    assert asked("--held_out") == [concept.name for concept in bench.HELD_OUT]
    assert asked("--quick") == ["glowheart", "plaidmoon"] and asked("--quick --concepts ruby") == ["ruby"]
    held_out = {concept.name for concept in bench.HELD_OUT}
    assert set(asked("--quick --held_out")) < held_out


def test_the_choice_of_a_run_is_what_it_evaluated_as_best(tmp_path):
    def found():
        return [(kind, steps, path.name) for kind, steps, path in bench.embeddings(tmp_path, [100, 50])]

    learned = [
        ("learned", 50, "learned_embeds-steps-50.safetensors"),
        ("learned", 100, "learned_embeds.safetensors"),
    ]
    assert found() == learned
    losses = {0: 0.2, 30: 0.1, 60: 0.05, 90: 0.07}
    table = [Evaluation(step, loss, None, None, {}) for step, loss in losses.items()]
    write_evaluations(tmp_path / "signals.csv", table)
    assert found() == [*learned, ("chosen", 60, "learned_embeds-best.safetensors")]


def test_the_result_of_a_run_that_ended_itself_is_its_best_step(tmp_path):
    losses = {0: 0.2, 30: 0.1, 60: 0.05, 90: 0.07}
    table = [Evaluation(step, loss, None, None, {}) for step, loss in losses.items()]
    write_evaluations(tmp_path / "signals.csv", table)
    result = tmp_path / "learned_embeds.safetensors"
    assert bench.ended(tmp_path, [30, 120]) == [("ended", 90, result), ("chosen", 60, result)]
    before = tmp_path / "learned_embeds-steps-30.safetensors"
    before.touch()
    assert bench.ended(tmp_path, [30, 120])[0] == ("learned", 30, before)
