"""What the page says of a word while it is typed."""

import threading
import time

import pytest

from ti_flax.errors import DataError, TiFlaxError
from ti_flax.web import words
from ti_flax.web.words import look_at_word


@pytest.fixture
def model(place):
    return str(place / "model")


def test_a_word_is_counted_in_tokens_and_its_start_has_neighbours(model):
    look = look_at_word(model, "<new-thing>", "toy", "2")
    assert look.tokens == ("<new-thing>", "<new-thing>_1") and look.start == ("toy",) and look.faults == ()
    [(word, others)] = look.nearest
    assert word == "toy" and len(others) == 5 and "toy" not in dict(others)
    assert all(-1 <= cosine <= 1 for _, cosine in others)
    assert look_at_word(model, "", "", "").tokens == ()


@pytest.mark.parametrize(
    ("placeholder", "initializer", "vectors", "beside", "found"),
    [
        ("toy", "", "", "word", "expected a new word"),
        (" <a>", "", "", "word", "expected a word without blanks around it"),
        ("<a>", "", "0", "word", "num_vectors: expected a whole number from 1 to 64"),
        ("<a>", "", "1e3", "word", "num_vectors: expected a whole number from 1 to 64"),
        ("<a>", "toy hat toy", "2", "start", "expected at most num_vectors"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field(model, placeholder, initializer, vectors, beside, found):
    [(where, message)] = look_at_word(model, placeholder, initializer, vectors).faults
    assert where == beside and found in message


def test_the_tokenizer_learns_no_word_by_it(model):
    assert look_at_word(model, "<a>", "", "").faults == look_at_word(model, "<a>", "", "").faults == ()


def test_threads_look_one_after_another(monkeypatch):
    """As two that import transformers for the first time get in each other's way."""
    inside, most = [], []

    def tokenizer(model):
        inside.append(model)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        raise DataError(model, found="nothing")

    monkeypatch.setattr(words, "_tokenizer", tokenizer)
    threads = [threading.Thread(target=words.warm_up, args=("x",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


def test_nothing_is_said_aloud(model, capsys):
    look_at_word(model, "<My-Cat>", "", "2")
    assert capsys.readouterr() == ("", "")


def test_no_weights_are_downloaded_for_neighbours(model, monkeypatch):
    monkeypatch.setattr(words, "is_here", lambda model: False)
    monkeypatch.setattr(words, "_vocabulary", lambda model: pytest.fail("read"))
    assert look_at_word(model, "<a>", "toy", "").nearest == ()
    monkeypatch.undo()
    assert not words.is_here("nobody/none")


def test_a_model_that_is_none_is_refused(tmp_path):
    with pytest.raises(TiFlaxError):
        look_at_word(str(tmp_path), "<a>", "", "")
    words.warm_up(str(tmp_path))
