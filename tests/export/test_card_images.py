"""Small copies of training images and of previews."""

import numpy as np
import pytest
from PIL import Image

from ti_flax.export.card_images import write_concept_images, write_example_images
from ti_flax.files.written_files import only_run
from ti_flax.generation.image_grid import image_grid_of


@pytest.fixture
def folder(tmp_path):
    """Of a run, with the list of what it has written."""
    with only_run(tmp_path):
        yield tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_concept_images_replace_earlier_ones_and_are_few(folder):
    images = [np.full((16, 24, 3), value, np.uint8) for value in range(30)]
    assert write_concept_images(folder, images) == 20
    assert write_concept_images(folder, images[:2]) == 2
    assert names(folder / "concept_images") == ["0.jpeg", "1.jpeg"]
    with Image.open(folder / "concept_images" / "1.jpeg") as image:
        assert (image.format, image.size, len(image.getexif())) == ("JPEG", (24, 16), 0)


def test_examples_are_the_first_image_of_each_prompt(folder):
    shades = np.repeat(np.arange(6, dtype=np.uint8) * 40, 16 * 16 * 3).reshape(6, 16, 16, 3)
    grid = folder / "grid.png"
    image_grid_of(shades, columns=3).save(grid)
    assert write_example_images(folder, grid, ["a", "b"], (16, 16)) == 2
    for index, shade in enumerate((0, 120)):
        with Image.open(folder / "example_images" / f"{index}.jpeg") as image:
            assert image.size == (16, 16)
            np.testing.assert_allclose(np.asarray(image), shade, atol=2)
    image_grid_of(shades[:4]).save(grid)
    assert write_example_images(folder, grid, ["a"], (16, 16)) == 1
    assert names(folder / "example_images") == ["0.jpeg"]


def test_another_grid_or_none_gives_no_examples(tmp_path):
    grid = tmp_path / "grid.png"
    assert write_example_images(tmp_path, grid, ["a"], (16, 16)) == 0
    Image.new("RGB", (40, 16)).save(grid)
    assert write_example_images(tmp_path, grid, ["a"], (16, 16)) == 0
    Image.new("RGB", (16, 48)).save(grid)
    assert write_example_images(tmp_path, grid, ["a", "b"], (16, 16)) == 0


def test_what_a_link_leads_to_stays(tmp_path):
    """A folder of the name may lead to a person's own images."""
    mine, shown = tmp_path / "mine", tmp_path / "run" / "concept_images"
    mine.mkdir()
    shown.parent.mkdir()
    for name in ("0.jpeg", "holiday.jpeg"):
        (mine / name).write_bytes(b"mine")
    shown.symlink_to(mine)
    assert write_concept_images(shown.parent, [np.zeros((8, 8, 3), np.uint8)]) == 1
    assert not shown.is_symlink() and names(shown) == ["0.jpeg"]
    (shown / "0.jpeg").unlink()
    (shown / "0.jpeg").symlink_to(mine / "0.jpeg")
    assert write_concept_images(shown.parent, [np.zeros((8, 8, 3), np.uint8)]) == 1
    assert {path.read_bytes() for path in mine.iterdir()} == {b"mine"} and len(names(mine)) == 2
