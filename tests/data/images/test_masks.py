"""Masks: which file belongs to which image, and what it makes each place of the latents count."""

import numpy as np
import pytest
from PIL import Image

from ti_flax.data.images.buckets import ShapeRules
from ti_flax.data.images.load import load_images
from ti_flax.data.images.masks import MaskFolder, MaskRules, loss_weights, same_aspect, split_masks
from ti_flax.errors import DataError


def gray(folder, name, values):
    folder.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(folder / name)
    return folder / name


def half(height=8, width=8, *, side="left"):
    """White on one side, black on the other."""
    values = np.zeros((height, width), np.uint8)
    values[:, : width // 2] = 255
    return values if side == "left" else values[:, ::-1]


def rgba(folder, name, alpha):
    values = np.full((*np.shape(alpha), 4), 100, np.uint8)
    values[..., 3] = alpha
    return gray(folder, name, values)


# Weights


def test_a_cell_counts_as_much_as_the_mask_covers_of_it_and_the_mean_is_1():
    mask = np.zeros((1, 8, 12), np.uint8)
    mask[0, :4, :4] = 255  # all of the first cell
    mask[0, 4:, 4:6] = 255  # half of a cell in the second row
    [[weights, mirrored]] = loss_weights(mask, factor=4)
    expected = np.array([[1, 0, 0], [0, 0.5, 0]]) / 0.25
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    np.testing.assert_array_equal(mirrored, weights[:, ::-1])
    assert weights.dtype == np.float32 and weights.mean() == pytest.approx(1)


def test_every_image_is_normalised_by_itself():
    masks = np.stack([half(), np.full((8, 8), 255, np.uint8)])
    masks[0, 4:] = 0
    weights = loss_weights(masks, factor=4)
    np.testing.assert_allclose(weights.mean(axis=(2, 3)), 1, rtol=1e-6)
    assert weights[0, 0].tolist() == [[4, 0], [0, 0]] and (weights[1] == 1).all()


def test_unmasked_weight_is_what_black_counts_beside_white():
    [[weights, _]] = loss_weights(half()[None], factor=4, unmasked_weight=0.25)
    np.testing.assert_allclose(weights[:, 1] / weights[:, 0], 0.25)
    assert weights.mean() == pytest.approx(1)
    assert loss_weights(half()[None], factor=4, unmasked_weight=1.0) is None


@pytest.mark.parametrize("level", [255, 100, 29, 1])
def test_masks_that_are_the_same_all_over_change_nothing(level):
    assert loss_weights(np.full((3, 24, 24), level, np.uint8), factor=8) is None


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.5])
def test_a_mask_that_leaves_nothing_is_named(unmasked_weight):
    masks = np.stack([half(), np.zeros((8, 8), np.uint8)])
    with pytest.raises(DataError, match=r"^b: expected a mask with something white.*only black.*invert"):
        loss_weights(masks, factor=4, unmasked_weight=unmasked_weight, names=["a", "b"])


# Files


def test_masks_are_found_by_name_in_the_same_sub_folder_first(tmp_path):
    for name in ("1.png", "2-masklabel.png", "cats/1.png", "cats/.hidden.png", "1.txt", "3.png", "3.jpg"):
        gray(tmp_path / "masks" / name.rpartition("/")[0], "x.png", half())
        (tmp_path / "masks" / name).write_bytes(b"")
    masks = MaskFolder(tmp_path / "masks", {".png", ".jpg"}, [tmp_path / "pictures"])
    images, where = tmp_path / "pictures", (tmp_path / "masks").resolve()
    assert masks.find(images / "1.jpg") == where / "1.png"
    assert masks.find(images / "2.webp") == where / "2-masklabel.png"
    assert masks.find(images / "cats" / "1.jpg") == where / "cats" / "1.png"
    assert masks.find(images / "dogs" / "1.jpg") == where / "1.png"
    assert masks.find("1.png") == where / "1.png"
    assert masks.find(images / "4.jpg") is None
    with pytest.raises(DataError, match=r"one mask for 3\.webp, found 3\.jpg, 3\.png"):
        masks.find(images / "3.webp")


def test_beside_the_images_only_the_long_name_is_a_mask(tmp_path):
    for name in ("1.png", "1-masklabel.png", "2.png", "2.jpg"):
        gray(tmp_path, name, half())
    masks = MaskFolder(tmp_path, {".png", ".jpg"}, [tmp_path])
    assert masks.find(tmp_path / "1.png") == tmp_path.resolve() / "1-masklabel.png"
    assert masks.find(tmp_path / "2.jpg") is None
    paths = sorted(tmp_path.iterdir())
    images, found = split_masks(paths)
    assert [path.name for path in images] == ["1.png", "2.jpg", "2.png"]
    assert [path.name for path in found] == ["1-masklabel.png"]


def test_masks_beside_images_are_not_learned_from(tmp_path):
    gray(tmp_path, "1.png", half())
    gray(tmp_path, "1-masklabel.png", half())
    loaded = load_images(tmp_path, resolution=8)
    assert loaded.names == ("1.png",) and loaded.passed_over == ("1-masklabel.png",)
    assert loaded.groups[0].masks is None
    [mask] = load_images(tmp_path, resolution=8, masks=MaskRules(folder=tmp_path)).groups[0].masks
    np.testing.assert_array_equal(mask, half())


@pytest.mark.parametrize("found", ["no such folder", "a file"])
def test_a_mask_dir_that_is_no_folder(tmp_path, found):
    gray(tmp_path / "pictures", "1.png", half())
    folder = tmp_path / "pictures" / ("1.png" if found == "a file" else "x")
    with pytest.raises(DataError, match=f"^mask_dir .*: expected a folder, found {found}"):
        load_images(tmp_path / "pictures", resolution=8, masks=MaskRules(folder=folder))


def test_no_mask_at_all_is_an_error_and_a_missing_one_is_named(tmp_path):
    for name in ("1.png", "2.png"):
        gray(tmp_path / "pictures", name, half())
    rules = MaskRules(folder=tmp_path / "masks")
    gray(tmp_path / "masks", "other.png", half())
    with pytest.raises(DataError, match=r"masks named as the images are, such as 1\.png or 1-mask.*none for"):
        load_images(tmp_path / "pictures", resolution=8, masks=rules)
    gray(tmp_path / "masks", "2.png", half())
    loaded = load_images(tmp_path / "pictures", resolution=8, masks=rules)
    assert loaded.without_mask == ("1.png",)
    assert (loaded.groups[0].masks[0] == 255).all()
    np.testing.assert_array_equal(loaded.groups[0].masks[1], half())


def test_a_mask_of_another_size_is_resized_and_one_of_another_shape_refused(tmp_path):
    gray(tmp_path / "pictures", "1.png", half(30, 40))
    rules = MaskRules(folder=tmp_path / "masks")
    gray(tmp_path / "masks", "1.png", half(60, 80))
    [mask] = load_images(tmp_path / "pictures", resolution=8, masks=rules).groups[0].masks
    np.testing.assert_array_equal(mask, half())
    gray(tmp_path / "masks", "1.png", half(40, 30))
    with pytest.raises(
        DataError, match=r"1\.png: expected a mask of the shape of 1\.png, 40 x 30.*found 30 x 40"
    ):
        load_images(tmp_path / "pictures", resolution=8, masks=rules)


def test_a_mask_that_is_no_image(tmp_path):
    gray(tmp_path / "pictures", "1.png", half())
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "1.png").write_text("x")
    with pytest.raises(DataError, match=r"masks/1\.png: found an image that cannot be decoded"):
        load_images(tmp_path / "pictures", resolution=8, masks=MaskRules(folder=tmp_path / "masks"))


@pytest.mark.parametrize(
    ("size", "other", "same"),
    [
        ((40, 30), (80, 60), True),
        ((4000, 3000), (333, 250), True),
        ((41, 31), (83, 62), True),
        ((40, 30), (30, 40), False),
        ((40, 40), (40, 20), False),
        ((1000, 500), (1000, 510), False),
    ],
)
def test_same_aspect(size, other, same):
    assert same_aspect(size, other) is same and same_aspect(other, size) is same


def test_masks_in_a_sub_folder_of_the_images_are_not_learned_from(tmp_path):
    gray(tmp_path / "pictures", "1.png", half())
    gray(tmp_path / "pictures" / "masks", "1.png", half(side="right"))
    rules = MaskRules(folder=tmp_path / "pictures" / "masks")
    loaded = load_images(tmp_path / "pictures", resolution=8, masks=rules)
    assert loaded.names == ("1.png",)
    np.testing.assert_array_equal(loaded.groups[0].masks, [half(side="right")])
    (tmp_path / "pictures" / "1.png").unlink()
    with pytest.raises(DataError, match="^mask_dir .*: expected masks, found all the images"):
        load_images(tmp_path / "pictures", resolution=8, masks=rules)


# Geometry


def square_image(mask):
    """The image that a mask was drawn on: its green is the mask."""
    return np.stack([np.full_like(mask, 9), mask, np.full_like(mask, 200)], axis=-1)


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 48), (70, 97)])
@pytest.mark.parametrize("how", ["squeezed", "center_crop", "shapes"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_masks_go_the_way_of_their_images(tmp_path, size, how, orientation):
    values = np.zeros(size, np.uint8)
    values[size[0] // 4 : size[0] // 2, size[1] // 3 : size[1] // 2] = 255
    (tmp_path / "pictures").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.rot90(values) if orientation == 6 else values  # 6: turned by 90 degrees when shown
    image = Image.fromarray(square_image(stored))
    image.save(tmp_path / "pictures" / "1.png", exif=exif)
    gray(tmp_path / "masks", "1.png", values)
    options = {
        "squeezed": {},
        "center_crop": {"center_crop": True},
        "shapes": {"shapes": ShapeRules(reso_steps=8, max_shapes=4)},
    }[how]
    loaded = load_images(
        tmp_path / "pictures", resolution=32, masks=MaskRules(folder=tmp_path / "masks"), **options
    )
    [group] = loaded.groups
    green, mask = group.pixels[0, ..., 1].astype(int), group.masks[0].astype(int)
    assert mask.shape == group.pixels.shape[1:3] and 0 < mask.mean() < 255
    if how == "shapes":  # the upright image's
        assert np.sign(mask.shape[1] - mask.shape[0]) == np.sign(size[1] - size[0])
    # Bicubic and box differ along edges alone.
    assert ((green > 127) != (mask > 127)).mean() < 0.03
    weights = loss_weights(group.masks, factor=4)[0, 0]
    cells = mask.reshape(mask.shape[0] // 4, 4, mask.shape[1] // 4, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(weights, cells / cells.mean(), rtol=1e-5)


def test_what_a_mask_leaves_can_be_cropped_away(tmp_path):
    values = np.zeros((30, 90), np.uint8)
    values[:, :20] = 255
    gray(tmp_path / "pictures", "1.png", square_image(values))
    gray(tmp_path / "masks", "1.png", values)
    rules = MaskRules(folder=tmp_path / "masks")
    masks = load_images(tmp_path / "pictures", resolution=8, center_crop=True, masks=rules).groups[0].masks
    with pytest.raises(DataError, match=r"1\.png: expected a mask with"):
        loss_weights(masks, factor=4, names=["1.png"])


# Alpha


def test_alpha_is_the_mask_and_what_is_transparent_is_white(tmp_path):
    rgba(tmp_path, "1.png", half())
    gray(tmp_path, "2.png", square_image(half()))
    plain = load_images(tmp_path, resolution=8)
    loaded = load_images(tmp_path, resolution=8, masks=MaskRules(alpha=True))
    np.testing.assert_array_equal(loaded.pixels, plain.pixels)
    assert (loaded.pixels[0, :, 4:] == 255).all()
    np.testing.assert_array_equal(loaded.groups[0].masks, [half(), np.full((8, 8), 255)])
    assert plain.groups[0].masks is None and loaded.without_mask == ()


def test_images_without_transparency_have_no_masks(tmp_path):
    gray(tmp_path, "1.png", square_image(half()))
    assert load_images(tmp_path, resolution=8, masks=MaskRules(alpha=True)).groups[0].masks is None


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1", "P", "I;16"])
def test_masks_of_any_mode(tmp_path, mode):
    gray(tmp_path / "pictures", "1.png", square_image(half()))
    (tmp_path / "masks").mkdir()
    values = half()
    if mode == "I;16":
        mask = Image.fromarray(values.astype(np.uint16) * 257)
    elif mode in ("LA", "RGBA"):  # white all over, and transparent where it does not count
        mask = Image.fromarray(np.full_like(values, 255)).convert(mode)
        mask.putalpha(Image.fromarray(values))
    else:
        mask = Image.fromarray(values).convert(mode)
    mask.save(tmp_path / "masks" / "1.png")
    loaded = load_images(tmp_path / "pictures", resolution=8, masks=MaskRules(folder=tmp_path / "masks"))
    np.testing.assert_array_equal(loaded.groups[0].masks[0], half())
