"""SDXL on two processes: the rows of both text encoders are those of one process, written once."""

import numpy as np
import pytest
from drawn_images import photograph, save
from host_runs import ended, run_on_two, start
from sdxl_place import learned_rows, write_place

STEPS = ("--train_batch_size", 1, "--max_train_steps", 4, "--checkpointing_steps", 2, "--eval_steps", 0)
ENCODERS = ["text_encoder", "text_encoder_2"]


@pytest.mark.slow
def test_two_processes_learn_both_text_encoders_as_one_does_and_the_first_writes(tmp_path):
    place = write_place(tmp_path / "place")
    # Of other sizes and crops, so that it matters which process is told which.
    save(place / "pictures", "high.png", photograph(64, 48))
    save(place / "pictures", "wide.png", photograph(48, 80))
    flags = (*STEPS, "--center_crop", "--no_only_save_embeds")
    ended(start(place, place / "one", *flags, devices=4))
    outputs = [place / "two", place / "two-second"]
    spoken, quiet = run_on_two(place, outputs, *flags)
    assert "done in" in spoken and quiet == ""
    assert not outputs[1].exists()
    assert {path.name for path in outputs[0].iterdir()} == {path.name for path in (place / "one").iterdir()}
    one, two = learned_rows(place / "one"), learned_rows(outputs[0])
    assert [*one] == [*two] == ENCODERS
    for name in ENCODERS:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-6)
