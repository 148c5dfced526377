"""How long a prompt may be that images are made from, and what its brackets mean."""

import numpy as np
import pytest
from generated import draw, start

from ti_flax.errors import TiFlaxError

pytestmark = pytest.mark.usefixtures("no_compilation_twice")


def test_a_long_prompt_is_read_to_its_end_if_it_may_be(place, tmp_path, one_device, capsys):
    long = "cat " * 80
    cut, seen = (
        draw(place, tmp_path / "a.png", *flags, prompt=long) for flags in ([], ["--max_token_length", "any"])
    )
    assert (cut != seen).any() and capsys.readouterr().err.count("is cut off") == 1
    assert (draw(place, tmp_path / "a.png", prompt="cat " * 75) == cut).all()
    limited = draw(place, tmp_path / "a.png", "--max_token_length", "150", prompt="cat " * 80)
    assert (limited == seen).all()
    # A prompt that has room is drawn as ever, also beside a longer one.
    beside = draw(
        place, tmp_path / "a.png", "--max_token_length", "any", "--prompt", "a <thing>", prompt=long
    )
    assert (beside[:16] == seen).all()
    assert (beside[16:] == draw(place, tmp_path / "a.png")).all()


def test_brackets_weigh_if_they_are_asked_to(place, tmp_path, one_device, capsys):
    plain = draw(place, tmp_path / "a.png", prompt="a (cat:1.5) toy")
    weighed = draw(place, tmp_path / "a.png", "--prompt_weights", prompt="a (cat:1.5) toy")
    words = draw(place, tmp_path / "a.png", prompt="a cat toy")
    assert (plain != weighed).any() and (weighed != words).any()
    unweighed = draw(place, tmp_path / "a.png", "--prompt_weights", prompt="a (cat:1) toy").astype(int)
    assert np.abs(unweighed - words).max() <= 1
    negative = ["--prompt_weights", "--negative_prompt", "(red:2)"]
    embeds = ["--learned_embeds", place / "other.bin", "--placeholder_token", "(thing)"]
    capsys.readouterr()
    assert (draw(place, tmp_path / "a.png", *negative, *embeds, prompt=r"a (\(thing\):1.2)") != weighed).any()
    assert "no prompt has" not in capsys.readouterr().err
    draw(place, tmp_path / "a.png", *embeds, "--prompt_weights", prompt="a (thing)")
    assert "note: no prompt has (thing)" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["0", "100", "-75"])
def test_lengths_that_are_no_chunks_are_refused(place, given):
    expected = f"--max_token_length: expected a multiple of 75, or any, found {given}"
    with pytest.raises(TiFlaxError, match=f"^{expected}"):
        start(place, "--prompt", "a", "--max_token_length", given)
