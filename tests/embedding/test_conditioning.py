"""What the UNet is told of words that have vectors behind the text encoders."""

import numpy as np
import pytest
from row_trees import ENCODER, SECOND_ENCODER
from tiny_models import SMALL

from ti_flax.embedding.conditioning import encode_with_rows
from ti_flax.embedding.contents import BEHIND
from ti_flax.models.prompt_encoding import SpecialTokens
from ti_flax.models.stable_diffusion import random_stable_diffusion

FIRST, END = 100, 98


@pytest.mark.parametrize(
    ("family", "encoders"),
    [("sd1", [ENCODER]), ("sdxl", [SECOND_ENCODER]), ("sdxl", [ENCODER, SECOND_ENCODER])],
)
def test_vectors_behind_text_encoders_are_told_at_the_word_alone(family, encoders):
    model = random_stable_diffusion(SMALL[family], seed=0)
    rng = np.random.default_rng(0)
    before = {name: rng.normal(size=(2, width)).astype(np.float32) for name, width in model.widths.items()}
    # The second of the two tokens has none.
    behind = {name + BEHIND: before[name] * np.array([[3.0], [0.0]], np.float32) for name in encoders}
    ids = np.array([[97, 5, FIRST, FIRST + 1, 6, END, END], [97, FIRST + 1, 7, END, END, END, END]], np.int32)

    def encode(rows):
        return encode_with_rows(
            model, model.params, rows, ids, first_added_id=FIRST, special=SpecialTokens(END)
        )

    plain, told = encode(before), encode(before | behind)
    expected, begin = np.array(plain.hidden_states), 0
    for name, width in model.widths.items():
        if name in encoders:
            expected[0, 2, begin : begin + width] = behind[name + BEHIND][0]
        begin += width
    np.testing.assert_array_equal(told.hidden_states, expected)
    if family == "sdxl":
        np.testing.assert_array_equal(told.pooled, plain.pooled)
