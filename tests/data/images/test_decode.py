"""Images of every mode, brought over a ground in strips."""

import numpy as np
import pytest
from PIL import Image

from ti_flax.data.images import decode as decoding

PIXELS = np.random.default_rng(0).integers(0, 256, (23, 17, 4)).astype(np.uint8)


def image(mode):
    made = Image.fromarray(PIXELS)
    if mode == "P":
        made = made.convert("RGB").convert("P")
        made.info["transparency"] = bytes(range(256))
        return made
    return made.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "RGBa"])
@pytest.mark.parametrize("strip", [1, 40, 17 * 23, 10**6])
def test_strips_are_the_whole(mode, strip, monkeypatch):
    monkeypatch.setattr(decoding, "_STRIP", strip)
    whole = Image.new("RGBA", (17, 23), "white")
    whole.alpha_composite(image(mode).convert("RGBA"))
    assert np.array_equal(decoding._over(image(mode), "white", "RGB"), whole.convert("RGB"))
    whole = Image.new("RGBA", (17, 23), "black")
    whole.alpha_composite(image(mode).convert("RGBA"))
    assert np.array_equal(decoding._over(image(mode), "black", "L"), whole.convert("L"))


def test_deep_gray_row_by_row_is_the_whole():
    values = np.random.default_rng(0).integers(-500, 90_000, (23, 17)).astype(np.int32)
    low, high = min(values.min(), 0), values.max()
    whole = np.rint((values.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
    assert np.array_equal(decoding._eight_bit(Image.fromarray(values)), whole)
