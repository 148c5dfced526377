"""Embeddings in images: what their two hiding places hold, and images that mean harm."""

import base64
import zlib

import numpy as np
import pytest
from embedding_consumers import scrambling
from PIL import Image, PngImagePlugin

from ti_flax.embedding import png as embedding_images
from ti_flax.embedding.png import hidden_bytes, hide_bytes, is_image, read_image, tree_bytes
from ti_flax.errors import WeightsError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_bytes_come_back_from_the_pixels(size):
    content = np.random.default_rng(1).bytes(size)
    made = hide_bytes(PIXELS, content)
    assert made.dtype == np.uint8 and hidden_bytes(made) == content
    assert hidden_bytes(np.pad(made, ((4, 2), (3, 5), (0, 0)))) == content
    # What other programs do to the high bits is not seen.
    assert hidden_bytes(made ^ np.uint8(0x50)) == content


def test_the_pattern_is_the_web_uis():
    # The first numbers its generator is tested with there.
    first = [253, 242, 127, 44, 157, 27, 239, 133, 38, 79, 167, 4, 177]
    assert (embedding_images._pattern(13) == np.array(first) % 16).all()
    assert (embedding_images._pattern(5000) == scrambling(5000)).all()


def test_the_image_itself_is_unchanged():
    made = hide_bytes(PIXELS, b"x" * 50)
    side = (made.shape[1] - 60 - 2) // 2
    assert (made[:, side + 1 : side + 61] == PIXELS).all()
    assert not made[:, side].any() and not made[:, side + 61].any()
    assert (made[:, :side] >= 16).all()


@pytest.mark.parametrize(("size", "columns"), [(60, 1), (80, 2), (200, 3)])
def test_blocks_are_as_wide_as_the_web_uis(size, columns):
    """Filled up to whole rows, then of pixels, and by one more where it was whole."""
    content = np.random.default_rng(1).bytes(size)
    length = len(zlib.compress(content, 9))
    filled = length + 40 - length % 40
    filled += 120 - filled % 120
    assert filled == 120 * columns
    assert hide_bytes(PIXELS, content).shape == (40, 60 + 2 + 2 * columns, 3)


@pytest.mark.parametrize("harm", ["cut off", "scratched", "black", "one wall"])
def test_pixels_without_bytes(harm):
    made = hide_bytes(PIXELS, np.random.default_rng(1).bytes(300))
    if harm == "cut off":
        made = made[:, 2:]
    elif harm == "scratched":
        made[10] ^= 1
    elif harm == "black":
        made[:] = 0
    else:
        made = made[:, : made.shape[1] - 10]
    with pytest.raises((ValueError, zlib.error)):
        hidden_bytes(made)


def test_a_image_that_unfolds_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(embedding_images, "_LONGEST_TEXT", 1000)
    made = hide_bytes(PIXELS, bytes(100_000))
    with pytest.raises(ValueError, match="without an end"):
        hidden_bytes(made)


@pytest.mark.parametrize("text", ["!!", base64.b64encode(b"[" * 100_000).decode(), "bm9uZQ=="])
def test_text_that_is_no_tree(tmp_path, text):
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("sd-ti-embedding", text)
    Image.fromarray(PIXELS).save(tmp_path / "a.png", pnginfo=chunk)
    with pytest.raises(WeightsError, match="an image that carries none"):
        read_image(tmp_path / "a.png")


def test_a_image_too_large_to_open(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(WeightsError, match="carries none .*exceeds limit"):
        read_image(tmp_path / "a.png")


def test_numbers_keep_their_bits():
    rows = np.array([[-0.0, 1e-45, 0.1, 3.4e38]], np.float32)
    tree = embedding_images.json.loads(
        tree_bytes({"x": rows, "n": None}), object_hook=embedding_images._tensor_or_mapping
    )
    assert tree["x"].tobytes() == rows.tobytes() and tree["n"] is None


def test_what_a_image_begins_with():
    assert is_image(b"\x89PNG\r\n\x1a\n...") and is_image(b"RIFF1234WEBP")
    assert not is_image(b"RIFF1234WAVE") and not is_image(b"PK\x03\x04")
