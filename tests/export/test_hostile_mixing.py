"""Pairs of embeddings that have no word between them."""

import numpy as np
import pytest
from hostile_cases import Case, check, written
from sdxl_rows import sdxl_rows, write_safetensors

from ti_flax.commands import convert as convert_embeds
from ti_flax.embedding.learned_embeds import save_learned_embeds

ROWS = np.random.default_rng(0).normal(size=(2, 768)).astype(np.float32)
HALF = "0.5"


def mixed(rows, weight=HALF, *more):
    """The word between two vectors of Stable Diffusion 1.x and others."""

    def make(folder):
        save_learned_embeds(folder / "a.bin", "<a>", ROWS)
        if callable(rows):
            rows(folder / "b.bin")
        else:
            save_learned_embeds(folder / "b.bin", "<b>", rows)
        arguments = [folder / "a.bin", folder / "b.bin", weight, folder / "output" / "c.bin", *more]
        return lambda: convert_embeds.main(["--mix", *map(str, arguments)])

    return make


def of_sdxl(path):
    write_safetensors(path, **dict(zip(("clip_l", "clip_g"), sdxl_rows(2).values(), strict=True)))


CASES = [
    Case("weight_beyond", "a weight beyond the second word", mixed(ROWS, "1.01")),
    Case("weight_below", "a weight before the first word", mixed(ROWS, "-1")),
    Case("weight_nan", "a weight that is no number", mixed(ROWS, "nan")),
    Case("weight_words", "a weight in words", mixed(ROWS, "half")),
    Case("vectors", "words with 2 vectors and with 1", mixed(ROWS[:1])),
    Case("widths", "words of two bases", mixed(np.ones((2, 1024), np.float32))),
    Case("encoders", "words of one text encoder and of two", mixed(of_sdxl)),
    Case("opposite", "opposite vectors", mixed(-2 * ROWS)),
    Case("zeros", "vectors of zeros", mixed(0 * ROWS)),
    Case("no_embedding", "a text in place of the second word", mixed(lambda path: written(path, "a cat"))),
    Case("two_outputs", "two files to write", mixed(ROWS, HALF, "d.bin")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input(case, tmp_path):
    check(case, tmp_path, "test_hostile_mixing")
