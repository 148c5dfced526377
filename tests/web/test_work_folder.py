"""Which places the page may name, and how its folders are called."""

import os

import pytest
from web_pages import work_in

from ti_flax.errors import ConfigError
from ti_flax.web.work_folder import DEMO_IMAGES, DEMO_MODEL

OUTSIDE = ["/etc", "..", "../x", "images/../../x", "/etc/passwd", "~root/x", "a\0b", "link", "images/link/x"]


@pytest.fixture
def linked(work):
    for place in (work.root / "link", work.images / "link"):
        place.symlink_to("/etc")
    return work


@pytest.mark.parametrize("text", OUTSIDE)
def test_nothing_outside_of_the_folder_is_reached(linked, text):
    for reached in (linked.model, linked.image_folder, lambda text: linked.readable(text, "mask_dir")):
        try:
            found = reached(text)
        except ConfigError as error:
            assert "\n" not in str(error)
        else:  # a literal name in the folder itself
            assert text.startswith("~") and str(found).startswith(str(linked.root))


def test_a_model_is_the_demos_a_place_in_the_folder_or_a_repository(work, tmp_path):
    (work.root / "models" / "mine.safetensors").touch()
    (work.root / "owner" / "name").mkdir(parents=True)
    assert work.model(DEMO_MODEL) == str(work.demo_model)
    assert work.model("models/mine.safetensors") == str(work.root / "models" / "mine.safetensors")
    assert work.model("owner/name") == str(work.root / "owner" / "name")
    assert work.model(" owner/other ") == "owner/other"
    assert work.models_here() == ["models/mine.safetensors"]
    with pytest.raises(ConfigError, match="expected a base model, found none"):
        work.model(" ")


def test_folders_that_the_operator_allows_may_be_read(tmp_path):
    other = tmp_path / "other"
    (other / "cats").mkdir(parents=True)
    (other / "sd15").mkdir()
    (other / "sd15" / "model_index.json").touch()
    work = work_in(tmp_path / "work", [other])
    assert work.image_folder(str(other / "cats")) == other / "cats"
    assert work.models_here() == [str(other / "sd15")]
    with pytest.raises(ConfigError, match="in a folder that the page was given with --allow"):
        work.image_folder(str(tmp_path))


def test_images_are_a_folder(work):
    assert work.image_folder(DEMO_IMAGES) == work.demo_images
    assert work.image_sets() == ["images/set"]
    for text in (None, "", "images/set/concept.png", "images/none"):
        with pytest.raises(ConfigError, match="train_data_dir: expected "):
            work.image_folder(text)


@pytest.mark.parametrize(
    ("word", "name"),
    [("<my-cat>", "my-cat"), ("../../x", "x"), ("<b>", "b"), ("", "word"), ("nul", "word-nul")],
)
def test_runs_are_named_by_their_word_and_numbered(work, word, name):
    assert [work.new_run(word).name for _ in range(3)] == [name, f"{name}-2", f"{name}-3"]
    assert work.run(name) == work.runs / name


def test_a_run_is_one_of_the_folder_and_nothing_else(work):
    (work.runs / "one").mkdir()
    (work.runs / "link").symlink_to("/etc")
    (work.runs / ".hidden").mkdir()
    assert work.run_names() == ["one"]
    for name in ("link", ".hidden", "..", "one/..", "", None, 7, ["one"]):
        assert work.run(name) is None


def test_the_newest_comes_first(work):
    for age, name in enumerate(("new", "old")):
        (work.runs / name).mkdir()
        os.utime(work.runs / name, (1000 - age, 1000 - age))
    assert work.run_names() == ["new", "old"]
