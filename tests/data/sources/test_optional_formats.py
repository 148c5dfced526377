"""HEIC, JPEG XL and AVIF: read where Pillow or another package does, else a line that names the package."""

import io
import sys
import types

import colour_profiles as profiles
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ti_flax.commands import prepare
from ti_flax.data.images.load import load_images
from ti_flax.errors import DataError

HEADS = {
    "pillow_heif": b"\0\0\0\x1cftypheic\0\0\0\0mif1heic",
    "pillow_jxl": b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ",
    "pillow_avif": b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1",
}
FORMATS = {"pillow_heif": "HEIF", "pillow_jxl": "JXL", "pillow_avif": "AVIF"}


@pytest.fixture(autouse=True)
def without_readers(monkeypatch):
    """Pillow as it is where no such package was imported, and was built without libavif."""
    Image.init()
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in FORMATS.values()])
    kept = {name: reader for name, reader in Image.OPEN.items() if name not in FORMATS.values()}
    monkeypatch.setattr(Image, "OPEN", kept)
    for module in FORMATS:
        monkeypatch.setitem(sys.modules, module, None)


def wrapped(module):
    """An image of one colour in Display P3 that a stand-in for the package reads."""
    made = io.BytesIO()
    profile = profiles.rgb_profile(profiles.DISPLAY_P3)
    Image.new("RGB", (64, 64), (200, 60, 60)).save(made, "PNG", icc_profile=profile)
    return HEADS[module].ljust(64, b"\0") + made.getvalue()


def install(monkeypatch, module):
    def unwrapped(file, name):
        file.seek(64)
        return PngImagePlugin.PngImageFile(io.BytesIO(file.read()), name)

    def register():
        Image.register_open(FORMATS[module], unwrapped, lambda head: head[:8] == HEADS[module][:8])

    package = types.ModuleType(module)
    monkeypatch.setattr(package, "register_heif_opener", register, raising=False)
    monkeypatch.setitem(sys.modules, module, package)
    if module != "pillow_heif":  # which importing registers
        register()


@pytest.mark.parametrize("name", ["a.heic", "a.HIF", "a.jpg", "a"])
@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("pillow_heif", "expected the package pillow-heif, which reads HEIC, found none. Run `pip install "),
        ("pillow_jxl", "expected the package pillow-jxl-plugin, which reads JPEG XL, found none. Run `pip "),
        ("pillow_avif", "expected the package pillow-avif-plugin, which reads AVIF, found none. Run `pip in"),
    ],
)
def test_the_package_is_named(tmp_path, module, line, name):
    (tmp_path / name).write_bytes(wrapped(module))
    with pytest.raises(DataError) as caught:
        load_images(tmp_path, resolution=8)
    assert f"{name}: {line}" in str(caught.value)


@pytest.mark.parametrize("module", FORMATS)
def test_an_installed_package_is_used(tmp_path, module, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.heic").write_bytes(wrapped(module))
    install(monkeypatch, module)
    loaded = load_images(tmp_path / "in", resolution=8)
    assert np.abs(loaded.pixels[0].astype(int) - (217, 42, 52)).max() <= 1
    arguments = [f"--train_data_dir={tmp_path / 'in'}", f"--output_dir={tmp_path / 'out'}", "--size=64"]
    prepare.run(prepare.parse_arguments(arguments))
    assert (load_images(tmp_path / "out", resolution=8).pixels == loaded.pixels).all()


def test_a_package_that_cannot_be_used_says_why(tmp_path, monkeypatch):
    package = types.ModuleType("pillow_heif")
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    (tmp_path / "a.heic").write_bytes(wrapped("pillow_heif"))
    with pytest.raises(DataError, match="found one that cannot be used .AttributeError: .*register_heif"):
        load_images(tmp_path, resolution=8)


def test_content_counts_and_not_the_suffix(tmp_path):
    Image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "a.heic", "PNG")
    assert (load_images(tmp_path, resolution=8).pixels == (10, 20, 30)).all()


def test_a_real_heic(tmp_path, monkeypatch):
    monkeypatch.undo()
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    profile = profiles.rgb_profile(profiles.DISPLAY_P3)
    exif = Image.Exif()
    exif[0x112] = 6
    image = Image.fromarray(np.uint8([[(200, 60, 60), (60, 200, 60)]]).repeat(32, 0).repeat(32, 1))
    image.save(tmp_path / "a.heic", "HEIF", quality=100, exif=exif.tobytes(), icc_profile=profile)
    found = load_images(tmp_path, resolution=32).pixels[0]
    wanted = profiles.in_srgb([(200, 60, 60), (60, 200, 60)], profiles.DISPLAY_P3)
    assert np.abs(found[[4, 28], 16].astype(int) - wanted).max() <= 4
