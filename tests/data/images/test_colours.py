"""Colours come out as sRGB, whatever profile an image brings, and stay as they are where it is sRGB."""

import io

import colour_profiles as profiles
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from ti_flax.commands import prepare
from ti_flax.data.images.decode import decode_image
from ti_flax.data.images.load import load_images
from ti_flax.data.images.masks import MaskRules

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
P3, ADOBE = profiles.rgb_profile(profiles.DISPLAY_P3), profiles.rgb_profile(profiles.ADOBE_RGB, 563 / 256)
AS_P3 = profiles.in_srgb(PIXELS, profiles.DISPLAY_P3)
# CIELAB of the 16 mixtures of inks, black the fastest; all with black are black.
INKS = [(100, 0, 0), (92, -4, 60), (55, 50, -5), (53, 50, 30), (60, -30, -40), (55, -45, 25), (35, 15, -35)]
NODES = [lab for ink in [*INKS, (25, 0, 0)] for lab in (ink, (0, 0, 0))]


def saved(image, kind="PNG", **options):
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


def decoded(image, kind="PNG", **options):
    return np.asarray(decode_image(saved(image, kind, **options), f"a.{kind.lower()}"))


def close(found, wanted, levels=2):
    difference = np.abs(found.astype(int) - np.asarray(wanted).astype(int)).max()
    return difference <= levels


@pytest.mark.parametrize(
    ("profile", "colour"), [(P3, (217, 42, 52)), (ADOBE, (231, 57, 57))], ids=["p3", "adobe"]
)
def test_colours_computed_by_hand(profile, colour):
    image = Image.new("RGB", (4, 4), (200, 60, 60))
    assert close(decoded(image, icc_profile=profile), np.full((4, 4, 3), colour), 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF", "JPEG"])
def test_every_format_that_carries_a_profile(kind):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"}
    image = Image.new("RGB", (16, 16), (200, 60, 60))
    found = decoded(image, kind, icc_profile=P3, **options)
    assert close(found, np.full((16, 16, 3), (217, 42, 52)), 4 if kind in ("AVIF", "JPEG") else 1)


def test_every_colour_of_a_matrix_profile():
    assert close(decoded(Image.fromarray(PIXELS), icc_profile=P3), AS_P3)
    wanted = profiles.in_srgb(PIXELS, profiles.ADOBE_RGB, 563 / 256)
    assert close(decoded(Image.fromarray(PIXELS), icc_profile=ADOBE), wanted)


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        profiles.rgb_profile(profiles.SRGB),
        None,
    ],
    ids=["pillow", "made", "none"],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_srgb_keeps_its_bits(profile, mode):
    image = Image.fromarray(PIXELS).convert(mode)
    np.testing.assert_array_equal(decoded(image, icc_profile=profile), image.convert("RGB"))


def test_transparency_stays_and_white_is_white():
    alpha = np.full((40, 30), 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 128
    image = Image.fromarray(np.dstack([PIXELS, alpha]))
    found = decoded(image, icc_profile=P3)
    assert (found[:10] == 255).all() and close(found[20:], AS_P3[20:])
    assert close(found[10:20], AS_P3[10:20] * (128 / 255) + 255 * (127 / 255), 3)


def test_alpha_masks_stay(tmp_path):
    alpha = np.random.default_rng(1).integers(0, 256, (32, 32)).astype(np.uint8)
    image = Image.merge("RGBA", [*Image.new("RGB", (32, 32), (200, 60, 60)).split(), Image.fromarray(alpha)])
    image.save(tmp_path / "a.png", icc_profile=P3)
    (group,) = load_images(tmp_path, resolution=32, masks=MaskRules(alpha=True)).groups
    assert group.masks is not None
    np.testing.assert_array_equal(group.masks[0], alpha)


def test_a_palette_and_gray_with_a_profile_of_colours():
    palette = Image.fromarray(PIXELS).quantize(16)
    wanted = profiles.in_srgb(np.asarray(palette.convert("RGB")), profiles.DISPLAY_P3)
    assert close(decoded(palette, icc_profile=P3), wanted)
    gray = Image.fromarray(PIXELS[..., 0])
    wanted = profiles.in_srgb(np.asarray(gray.convert("RGB")), profiles.ADOBE_RGB, 563 / 256)
    assert close(decoded(gray, icc_profile=ADOBE), wanted)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_gray_with_its_own_profile(mode):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    image = Image.fromarray(ramp).convert(mode) if mode != "I;16" else Image.fromarray(ramp * np.uint16(257))
    wanted = np.rint(255 * profiles.srgb_encoded((ramp / 255) ** 1.8))
    found = decoded(image, icc_profile=profiles.gray_profile(1.8))
    assert close(found, np.dstack([wanted] * 3), 1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_with_a_profile(kind):
    for node, (inks, lab) in enumerate(zip(np.ndindex(2, 2, 2), NODES[::2], strict=True)):
        image = Image.new("CMYK", (16, 16), tuple(255 * int(ink) for ink in (*inks, 0)))
        found = decoded(image, kind, icc_profile=profiles.cmyk_profile(NODES))
        assert close(found, np.full((16, 16, 3), profiles.lab_in_srgb(lab)), 4), node


def test_cielab_is_read():
    assert close(decoded(Image.new("LAB", (4, 4), (128, 128, 128)), "TIFF"), np.full((4, 4, 3), 119), 1)


def test_profiles_that_cannot_be_used_are_one_note(tmp_path, capsys):
    image = Image.fromarray(PIXELS)
    broken = {"a": b"no profile", "b": P3[:200], "c": profiles.gray_profile(1.8), "d": P3[:-60]}
    (tmp_path / "in").mkdir()
    for name, profile in broken.items():
        image.save(tmp_path / "in" / f"{name}.png", icc_profile=profile)
    image.rotate(90).save(tmp_path / "in" / "fine.png", icc_profile=P3)
    loaded = load_images(tmp_path / "in", resolution=32)
    line = "colours taken for sRGB, as the colour profile cannot be used: 4 images, such as a.png"
    assert line in loaded.notes
    assert sum("sRGB" in note for note in loaded.notes) == 1
    plain = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(loaded.pixels[0], plain)
    prepare.run(prepare.parse_arguments(_flags(tmp_path, "--dry_run")))
    assert capsys.readouterr().out.count(f"note: {line}\n") == 1


def test_a_profile_makes_other_training_images(tmp_path):
    """Latents are kept under the hash of the pixels, so those of the colours before are not used."""
    hashes = []
    for profile in (None, profiles.rgb_profile(profiles.SRGB), P3):
        Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=profile)
        hashes.append(load_images(tmp_path, resolution=32).content_hash())
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("space", "index", "noted"), [(0xFFFF, "R03", True), (2, "R98", True), (1, "R98", False)]
)
def test_adobe_rgb_that_only_exif_tells_is_noted(tmp_path, space, index, noted):
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.ColorSpace: space, 0xA005: {1: index}}
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    notes = load_images(tmp_path, resolution=32).notes
    words = (
        "colours taken for sRGB, though EXIF says Adobe RGB (embed its profile with an image editor): a.jpg"
    )
    assert notes == ((words,) if noted else ())


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_damaged_exif_costs_no_image(tmp_path, exif):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    assert load_images(tmp_path, resolution=32).notes == ()


def test_masks_are_data_and_keep_their_levels(tmp_path):
    levels = np.random.default_rng(1).integers(0, 256, (32, 32)).astype(np.uint8)
    for folder in ("in", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(PIXELS[:32, :30]).resize((32, 32)).save(tmp_path / "in" / "a.png")
    Image.fromarray(levels).save(tmp_path / "masks" / "a.png", icc_profile=profiles.gray_profile(1.8))
    masks = MaskRules(folder=tmp_path / "masks")
    (group,) = load_images(tmp_path / "in", resolution=32, masks=masks).groups
    assert group.masks is not None
    np.testing.assert_array_equal(group.masks[0], levels)


def _flags(folder, *more):
    return [f"--train_data_dir={folder / 'in'}", f"--output_dir={folder / 'out'}", "--size=64", *more]


@pytest.mark.parametrize("format", ["png", "jpg"])
def test_a_phones_image_through_prepare_training_and_the_sheet(tmp_path, format):
    """Four areas of colour in Display P3, kept lying on their side as phones keep them."""
    colours = np.array([[(200, 60, 60), (60, 200, 60)], [(60, 60, 200), (230, 180, 40)]], np.uint8)
    upright = colours.repeat(64, axis=0).repeat(64, axis=1)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    (tmp_path / "in").mkdir()
    lying = Image.fromarray(np.rot90(upright))
    lying.save(tmp_path / "in" / "a.jpg", quality=100, subsampling=0, exif=exif, icc_profile=P3)
    wanted = profiles.in_srgb(colours, profiles.DISPLAY_P3)

    def areas(pixels):
        side = pixels.shape[0] // 4
        return np.asarray(pixels)[side :: 2 * side, side :: 2 * side]

    loaded = load_images(tmp_path / "in", resolution=64)
    assert close(areas(loaded.pixels[0]), wanted) and close(areas(loaded.shown(1, (64, 64))[0]), wanted)
    prepare.run(prepare.parse_arguments(_flags(tmp_path, f"--format={format}")))
    with Image.open(tmp_path / "out" / f"a.{format}") as written:
        assert "icc_profile" not in written.info and close(areas(np.asarray(written.convert("RGB"))), wanted)
    assert close(areas(load_images(tmp_path / "out", resolution=64).pixels[0]), wanted)
    with Image.open(tmp_path / "out-sheet.png") as sheet:
        shown = np.asarray(sheet.convert("RGB").crop((8, 8 + 36, 8 + 240, 8 + 36 + 240)))
    assert close(areas(shown), wanted)
