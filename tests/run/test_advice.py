"""What a run says when it can teach or show nothing, before its updates and after them."""

import pytest
from tiny_run import configure

from ti_flax.run import train as run


@pytest.fixture
def said(place, tmp_path, capsys):
    """Trains with some changes, and returns the lines that the run prints."""

    def lines(**changes):
        run.train(configure(place, tmp_path / "out", max_train_steps=4, **changes))
        return capsys.readouterr().err.splitlines()

    return lines


def having(lines, *parts):
    return [line for line in lines if all(part in line for part in parts)]


def test_a_word_that_has_not_moved_is_named_with_what_to_raise(said, tmp_path):
    lines = said(learning_rate=1e-9, eval_steps=2)
    (line,) = having(lines, "is still what it started as")
    assert line.startswith('warning: <thing> is still what it started as, the word "toy" (it moved by ')
    assert line.endswith("raise learning_rate, which was 1e-09, or train for more steps")
    (line,) = having(lines, "validation loss", "at step 0")
    assert line.endswith(", never better than at step 0") and "best" not in line
    report = (tmp_path / "out" / "report.html").read_text()
    assert "it has learned nothing yet" in report and "best, step" not in report


def test_a_word_that_has_learned_is_not(said, tmp_path):
    lines = said(learning_rate=0.05, eval_steps=2, max_grad_norm=None)
    assert not having(lines, "is still what it started as") and not having(lines, "note:")


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"learning_rate": 0.0}, "note: learning_rate is 0 at every step: nothing is learned"),
        ({"learning_rate": "0:2, 0"}, "note: learning_rate is 0 at every step: nothing is learned"),
        (
            {"early_stopping": True, "eval_steps": 1},
            "note: early_stopping cannot end this run: 5 evaluations, one every 1 steps, take all of its 4 "
            "steps",
        ),
        (
            {"validation_prompt": ["a photo of a toy"], "num_validation_images": 1},
            "note: validation_prompt 'a photo of a toy' does not name <thing>: its images cannot show what "
            "is learned",
        ),
        (
            {"validation_prompt": ["a {}", "red " * 80 + "{}"], "num_validation_images": 1},
            f"note: validation_prompt '{'red ' * 10} ... {' red' * 8} <thing>' is cut off after 75 of its 82 "
            "tokens, before 'red red red red red <thing>'; set max_token_length to 150",
        ),
    ],
)
def test_what_teaches_or_shows_nothing_is_said_before_the_updates(said, changes, note):
    lines = said(**changes)
    assert note in lines and lines.index(note) < min(
        place for place, line in enumerate(lines) if line.startswith(("trained", "preparing"))
    )
