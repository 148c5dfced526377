"""Files of every kind become the pixels that were drawn, and what cannot be read is named."""

import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from drawn_images import checkered, encoded, only, photograph, save
from PIL import Image

from ti_flax.data.images.buckets import Shape, ShapeRules
from ti_flax.data.images.load import ImageGroup, TrainingImages, load_images
from ti_flax.data.images.resize import fit_to_shape
from ti_flax.data.sources.table_options import TableOptions
from ti_flax.errors import ConfigError, DataError

RED, WHITE = (255, 0, 0), (255, 255, 255)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.png", {}, 0),
        ("a.PNG", {"format": "PNG"}, 0),
        ("a.bmp", {}, 0),
        ("a.tiff", {"compression": "tiff_lzw"}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.gif", {}, 0),
        ("a.ppm", {}, 0),
        ("a.tga", {}, 0),
        ("a.jp2", {}, 0),
        ("a.jpg", {"quality": 100, "subsampling": 0}, 4),
        ("a.avif", {"quality": 95, "subsampling": "4:4:4"}, 8),
        ("png_without_suffix", {"format": "PNG"}, 0),
        ("jpeg.with.a.dot", {"format": "JPEG", "quality": 100, "subsampling": 0}, 4),
        ("really_a.png", {"format": "BMP"}, 0),
    ],
)
def test_formats(tmp_path, name, options, tolerance):
    save(tmp_path, name, checkered(), **options)
    np.testing.assert_allclose(only(tmp_path).astype(int), checkered(), atol=tolerance)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True}), ("a.tiff", {})],
)
def test_first_frame_of_many(tmp_path, name, options):
    first, second = Image.fromarray(checkered()), Image.new("RGB", (8, 8), "yellow")
    first.save(tmp_path / name, save_all=True, append_images=[second, second], **options)
    np.testing.assert_array_equal(only(tmp_path), checkered())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff"])
def test_exif_orientation(tmp_path, name, orientation):
    stored_from_upright = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation]
    upright = checkered(32, 32)
    exif = Image.Exif()
    exif[274] = orientation
    options = {"a.jpg": {"quality": 100, "subsampling": 0}, "a.webp": {"lossless": True}}.get(name, {})
    save(tmp_path, name, np.ascontiguousarray(stored_from_upright(upright)), exif=exif, **options)
    np.testing.assert_allclose(only(tmp_path, 32).astype(int), upright, atol=4)


def test_orientation_after_the_pixels_of_a_png(tmp_path):
    exif = Image.Exif()
    exif[274] = 3
    stored = encoded(checkered()[::-1, ::-1].copy(), "PNG")
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "a.png").write_bytes(stored[:-12] + chunk + stored[-12:])
    np.testing.assert_array_equal(only(tmp_path), checkered())


def transparent(mode):
    """8 x 8, left half opaque, right half transparent over black."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255) if mode != "LA" else (90, 90, 90, 255), (0, 0, 4, 8))
    if mode == "P":
        palette = Image.new("P", (8, 8), 1)
        palette.putpalette([255, 0, 0, 0, 0, 0])
        palette.paste(0, (0, 0, 4, 8))
        return palette
    return image.convert(mode)


@pytest.mark.parametrize(
    ("name", "mode", "left", "options"),
    [
        ("a.png", "RGBA", RED, {}),
        ("a.webp", "RGBA", RED, {"lossless": True}),
        ("a.tiff", "RGBA", RED, {}),
        ("a.png", "LA", (90, 90, 90), {}),
        ("a.png", "P", RED, {"transparency": 1}),
        ("a.png", "P", RED, {"transparency": b"\xff\x00"}),
        ("a.gif", "P", RED, {"transparency": 1}),
    ],
)
def test_transparent_becomes_white(tmp_path, name, mode, left, options):
    transparent(mode).save(tmp_path / name, **options)
    pixels = only(tmp_path)
    assert (pixels[:, :4] == left).all()
    assert (pixels[:, 4:] == WHITE).all()


@pytest.mark.parametrize(("mode", "key"), [("RGB", (255, 0, 0)), ("L", 76), ("1", 0)])
def test_transparent_colour_becomes_white(tmp_path, mode, key):
    image = Image.new(mode, (8, 8), key)
    image.save(tmp_path / "a.png", transparency=key)
    assert (only(tmp_path) == WHITE).all()


def test_half_transparent_is_blended(tmp_path):
    save(tmp_path, "a.png", Image.new("RGBA", (8, 8), (200, 100, 0, 128)))
    expected = np.array([200, 100, 0]) * (128 / 255) + 255 * (127 / 255)
    np.testing.assert_allclose(only(tmp_path), np.broadcast_to(expected, (8, 8, 3)), atol=1)


def test_opaque_alpha_changes_nothing(tmp_path):
    save(tmp_path, "a.png", Image.fromarray(photograph(16, 16)).convert("RGBA"))
    np.testing.assert_array_equal(only(tmp_path, 16), photograph(16, 16))


def test_palette_without_transparency(tmp_path):
    save(tmp_path, "a.png", Image.fromarray(checkered()).convert("P", palette=Image.Palette.ADAPTIVE))
    np.testing.assert_allclose(only(tmp_path).astype(int), checkered(), atol=4)


@pytest.mark.parametrize(("mode", "drawn", "seen"), [("L", 77, 77), ("1", 1, 255)])
def test_gray_and_bilevel(tmp_path, mode, drawn, seen):
    save(tmp_path, "a.png", Image.new(mode, (8, 8), drawn))
    assert (only(tmp_path) == seen).all()


def gray_ramp(highest, dtype):
    return np.linspace(0, highest, 64).reshape(8, 8).astype(dtype)


@pytest.mark.parametrize(
    ("name", "ramp"),
    [
        ("a.png", gray_ramp(65535, np.uint16)),
        ("a.tiff", gray_ramp(65535, np.uint16)),
        ("a.tiff", gray_ramp(65535, np.int32)),
        ("a.tiff", gray_ramp(2_000_000, np.int32)),
        ("a.tiff", gray_ramp(90_000, np.int32) - 20_000),
        ("a.tiff", gray_ramp(1, np.float32)),
        ("a.tiff", gray_ramp(255, np.float32)),
        ("a.tiff", gray_ramp(65535, np.float32)),
    ],
)
def test_wide_gray_is_scaled_not_clipped(tmp_path, name, ramp):
    save(tmp_path, name, ramp)
    low, high = min(int(ramp.min()), 0), float(ramp.max())
    expected = np.rint((ramp.astype(np.float64) - low) * 255 / (high - low))
    np.testing.assert_array_equal(only(tmp_path), np.repeat(expected[..., None], 3, axis=-1))


@pytest.mark.parametrize(("drawn", "seen"), [(257 * 12, 12), (256 * 12, 12), (0, 0)])
def test_dark_sixteen_bit_made_of_eight_stays_dark(tmp_path, drawn, seen):
    save(tmp_path, "a.png", np.full((8, 8), drawn, np.uint16))
    assert (only(tmp_path) == seen).all()


def test_turned_sixteen_bit(tmp_path):
    exif = Image.Exif()
    exif[274] = 3
    ramp = gray_ramp(65535, np.uint16)
    save(tmp_path, "a.png", np.ascontiguousarray(ramp[::-1, ::-1]), exif=exif)
    np.testing.assert_array_equal(only(tmp_path)[..., 0], np.rint(ramp / 257))


def test_not_finite_gray_is_an_error(tmp_path):
    save(tmp_path, "a.tiff", np.full((8, 8), np.nan, np.float32))
    with pytest.raises(DataError, match=r"a\.tiff.*not finite"):
        only(tmp_path)


@pytest.mark.parametrize("name", ["a.jpg", "a.tiff"])
def test_cmyk(tmp_path, name):
    options = {"quality": 100} if name == "a.jpg" else {}
    save(tmp_path, name, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), **options)
    np.testing.assert_allclose(only(tmp_path).astype(int), np.broadcast_to(RED, (8, 8, 3)), atol=3)


REFERENCE_FILTERS = {
    "linear": Image.Resampling.BILINEAR,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


@pytest.mark.parametrize("shape", [(37, 53), (53, 37), (54, 37), (40, 40), (9, 12)])
@pytest.mark.parametrize("center_crop", [False, True])
@pytest.mark.parametrize("interpolation", list(REFERENCE_FILTERS))
def test_crop_and_resize_equal_the_reference(tmp_path, shape, center_crop, interpolation):
    pixels = photograph(*shape)
    save(tmp_path, "a.png", pixels)
    loaded = load_images(tmp_path, resolution=24, center_crop=center_crop, interpolation=interpolation)
    if center_crop:
        (h, w), crop = shape, min(shape)
        pixels = pixels[(h - crop) // 2 : (h + crop) // 2, (w - crop) // 2 : (w + crop) // 2]
    expected = Image.fromarray(pixels).resize((24, 24), resample=REFERENCE_FILTERS[interpolation])
    np.testing.assert_array_equal(loaded.pixels[0], np.asarray(expected))
    assert loaded.pixels.dtype == np.uint8


def test_order_is_by_name_and_others_are_passed_over(tmp_path):
    for shade, name in enumerate(["b.png", "a.png", "C.png", "noise"], start=1):
        save(tmp_path, name, Image.new("RGB", (8, 8), (shade, 0, 0)), format="PNG")
    others = {
        ".DS_Store": b"\0\0\0\1Bud1",
        "._a.png": b"\0\5\x16\7 AppleDouble",
        ".hidden.png": (tmp_path / "a.png").read_bytes(),
        "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        "a.txt": b"BMW parked in front of a house",
        "b.txt": b"P1 8 8 also begins a portable bitmap",
        "c.h": b"#define a_width 8\n#define a_height 8\nstatic char a_bits[] = {\n0x00 };",
        "empty": b"",
        "metadata.csv": b"file_name,text\na.png,a cat\n",
        "metadata.jsonl": b'{"file_name": "a.png"}\n',
        "clip.mpg": b"\0\0\1\xb3" + bytes(64),
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "more").mkdir()
    save(tmp_path / "more", "d.png", Image.new("RGB", (8, 8)))
    (tmp_path / ".cache").mkdir()
    loaded = load_images(str(tmp_path), resolution=8)
    assert loaded.names == ("C.png", "a.png", "b.png", "noise", "more/d.png")
    assert loaded.pixels[:, 0, 0, 0].tolist() == [3, 2, 1, 4, 0]
    systems = {".DS_Store", "._a.png", "Thumbs.db"}
    assert sorted(loaded.passed_over) == sorted(set(others) - {"metadata.csv", "metadata.jsonl"} - systems)
    assert "passed over, as systems keep them for themselves: 3 files, such as .DS_Store" in loaded.notes


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tiff", "a.bmp", "a.avif"])
@pytest.mark.parametrize("kept", [0, 20, 0.6])
def test_broken_image_is_named(tmp_path, name, kept):
    save(tmp_path, "ok.png", checkered())
    save(tmp_path, name, photograph(200, 200))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    with pytest.raises(DataError, match=rf"{name}: found an image that cannot be decoded"):
        load_images(tmp_path, resolution=8)


def test_text_with_an_image_suffix_is_named(tmp_path):
    (tmp_path / "a.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"a\.jpg.*Git LFS pointer"):
        load_images(tmp_path, resolution=8)


def test_truncated_image_without_suffix_is_named(tmp_path):
    save(tmp_path, "picture", photograph(200, 200), format="PNG")
    whole = (tmp_path / "picture").read_bytes()
    (tmp_path / "picture").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="picture: found an image that cannot be decoded"):
        load_images(tmp_path, resolution=8)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.SVG", b"<svg/>"), ("a.svg", b"<svg/>"), ("a.cr2", "a TIFF with a thumbnail")],
)
def test_images_pillow_cannot_read_are_not_passed_over(tmp_path, name, content):
    save(tmp_path, "ok.png", checkered())
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        save(tmp_path, name, checkered(), format="TIFF")
    with pytest.raises(DataError, match=rf"{name}: found a format that is not read. Save it as PNG or JPEG"):
        load_images(tmp_path, resolution=8)


@pytest.mark.parametrize("limit", [40, 20])
@pytest.mark.parametrize("name", ["a.png", "no_suffix"])
def test_huge_image_is_named(tmp_path, monkeypatch, limit, name):
    save(tmp_path, name, checkered(), format="PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=rf"{name}: expected at most {limit} pixels"):
        load_images(tmp_path, resolution=8)


@pytest.mark.parametrize("name", ["a.png", "no_suffix"])
def test_pillow_warnings_are_not_shown(tmp_path, name):
    stored = encoded(checkered(), "PNG")
    # An animation of no frames right after the header, of which Pillow warns.
    (tmp_path / name).write_bytes(stored[:33] + png_chunk(b"acTL", bytes(8)) + stored[33:])
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(tmp_path / name).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(only(tmp_path), checkered())


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder or file. Set train_data_dir"):
        load_images(tmp_path / "none", resolution=8)


def test_folder_without_images(tmp_path):
    with pytest.raises(DataError, match="expected images, found none. Put three to five"):
        load_images(tmp_path, resolution=8)
    (tmp_path / "a.txt").write_text("a cat")
    with pytest.raises(DataError, match=r"found only other files \(1, such as a\.txt\)"):
        load_images(tmp_path, resolution=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"found only other files \(1, such as a\.txt\)"):
        load_images(tmp_path, resolution=8)


def test_unknown_interpolation(tmp_path):
    with pytest.raises(ConfigError, match="interpolation: expected linear, .*, found 'cubic'"):
        load_images(tmp_path, resolution=8, interpolation="cubic")


def test_same_without_datasets(tmp_path, monkeypatch):
    for name in ("b.png", "a.png"):
        save(tmp_path, name, photograph())
    with_datasets = load_images(tmp_path, resolution=8)
    monkeypatch.setitem(sys.modules, "datasets", None)
    without = load_images(tmp_path, resolution=8)
    assert without.names == with_datasets.names
    np.testing.assert_array_equal(without.pixels, with_datasets.pixels)


def test_nothing_is_written_or_shown(tmp_path, capfd):
    save(tmp_path, "a.png", checkered())
    load_images(tmp_path, resolution=8)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.png"]
    assert capfd.readouterr() == ("", "")


def test_content_hash_follows_pixels_and_shape(tmp_path):
    save(tmp_path, "a.png", photograph())
    one = load_images(tmp_path, resolution=8)
    assert one.content_hash() == load_images(tmp_path, resolution=8).content_hash()
    assert one.content_hash() != load_images(tmp_path, resolution=16).content_hash()
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    assert one.content_hash() == load_images(tmp_path, resolution=8).content_hash()
    save(tmp_path, "b.png", 255 - photograph())
    assert one.content_hash() != load_images(tmp_path, resolution=8).content_hash()
    [group] = one.groups
    reshaped = ImageGroup(np.arange(4), one.pixels.reshape(4, 4, 4, 3), group.time_ids)
    reshaped = TrainingImages((reshaped,), one.names)
    assert one.content_hash() != reshaped.content_hash()


def test_left_out_fields_say_the_same_of_all_images():
    images = TrainingImages(np.zeros((2, 8, 8, 3), np.uint8), ("a", "b"))
    assert (images.captions, images.weights, images.paths) == ((None, None), (1, 1), (None, None))


def test_repeats_of_sources_become_weights_of_images(tmp_path):
    for folder, names in (("one", ("a.png", "b.png")), ("two", ("a.png",))):
        (tmp_path / folder).mkdir()
        for shade, name in enumerate(names):
            save(tmp_path / folder, name, Image.new("RGB", (8, 8), (shade, 200, len(names))))
    sources = [str(tmp_path / "one"), tmp_path / "two", str(tmp_path / "one" / "b.png")]
    loaded = load_images(sources, resolution=8, repeats=(3, 1, 2))
    assert loaded.names == ("a.png", "b.png", "a.png", "b.png")
    assert loaded.weights == (3, 3, 1, 2)
    assert loaded.paths == tuple(
        f"{tmp_path}/{name}" for name in ("one/a.png", "one/b.png", "two/a.png", "one/b.png")
    )
    assert load_images(sources, resolution=8, repeats=(5,)).weights == (5, 5, 5, 5)


@pytest.mark.parametrize("name", ["image_column", "caption_column", "dataset_config_name", "dataset_split"])
def test_an_option_of_datasets_without_a_dataset_is_refused(tmp_path, name):
    save(tmp_path, "a.png", checkered())
    kind = "dataset or metadata file" if name.endswith("column") else "dataset"
    with pytest.raises(ConfigError, match=rf"^{name}: expected a {kind} in train_data_dir, found none"):
        load_images(tmp_path, resolution=8, table=TableOptions(**{name: "x"}))


def test_images_near_the_same_shape_are_grouped_in_order(tmp_path):
    for name, size in {"a.png": (60, 90), "b.png": (50, 50), "c.png": (30, 45), "d.png": (90, 60)}.items():
        save(tmp_path, name, photograph(*size))
    loaded = load_images(tmp_path, resolution=32, shapes=ShapeRules(reso_steps=8, max_shapes=2))
    assert loaded.names == ("a.png", "b.png", "c.png", "d.png")
    assert [group.indices.tolist() for group in loaded.groups] == [[1, 3], [0, 2]]
    assert [group.pixels.shape for group in loaded.groups] == [(2, 32, 32, 3), (2, 24, 40, 3)]
    with Image.open(tmp_path / "c.png") as image:
        expected = fit_to_shape(image, Shape(24, 40), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(loaded.groups[1].pixels[1], expected)
    assert loaded.shown(3, (32, 32)).shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(loaded.shown(3, (32, 32))[1], loaded.groups[0].pixels[0])
    into = load_images(tmp_path, resolution=32, into=[Shape(24, 40)])
    np.testing.assert_array_equal(into.pixels[[0, 2]], loaded.groups[1].pixels)


def test_squares_are_the_same_with_shapes_and_without(tmp_path):
    for name, side in {"a.png": 50, "b.png": 33}.items():
        save(tmp_path, name, photograph(side, side))
    plain = load_images(tmp_path, resolution=24)
    found = load_images(tmp_path, resolution=24, shapes=ShapeRules(reso_steps=8, max_shapes=4))
    assert found.content_hash() == plain.content_hash()
