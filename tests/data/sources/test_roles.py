"""No image of a folder is learned from where another option names it, or a run wrote it."""

import pytest
from PIL import Image

from ti_flax.config import RunConfig
from ti_flax.data.images.load import load_images
from ti_flax.data.training_images import read_class_images, read_images
from ti_flax.errors import DataError
from ti_flax.files.written_files import only_run, record
from ti_flax.run.named_paths import other_roles


def put(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((16, 16), 50 + shade).convert("RGB").save(path)
    return path


def options(folder, **changes):
    required = {
        "pretrained_model_name_or_path": "owner/name",
        "placeholder_token": "<thing>",
        "initializer_token": "toy",
        "output_dir": str(folder / "elsewhere"),
        "train_data_dir": str(folder),
        "resolution": 8,
    }
    return RunConfig.from_dict(required | changes)


def read(config):
    images = read_images(config.images, "none", other_roles(config, "train_data_dir"))
    classes = read_class_images(
        config.loss.class_data_dir, config.images, images, other_roles(config, "class_data_dir")
    )
    return images, classes


@pytest.mark.parametrize(
    ("option", "value", "inside"),
    [
        ("class_data_dir", "sub", "sub/a.png"),
        ("pretrained_model_name_or_path", "sub", "sub/assets/a.png"),
        ("pretrained_vae_model_name_or_path", "sub", "sub/sample.jpg"),
        ("init_embeds", "sub/word.png", "sub/word.png"),
        ("extra_embeds", "<other>=word.webp", "word.webp"),
        ("latents_cache_dir", "sub", "sub/a.png"),
        ("profile", "sub", "sub/trace.png"),
        ("resume_from_checkpoint", "sub", "sub/a.png"),
    ],
)
def test_what_another_option_names_is_left_out(tmp_path, capsys, option, value, inside):
    put(tmp_path / "cat.png")
    put(tmp_path / inside)
    token, _, path = value.rpartition("=")
    value = f"{token}={tmp_path / path}" if token else str(tmp_path / path)
    changes = {option: value}
    if option == "init_embeds":
        changes["initializer_token"] = None
    images, _ = read(options(tmp_path, **changes))
    assert images.names == ("cat.png",)
    assert f"note: left out of train_data_dir: {inside}, an image of {option}" in capsys.readouterr().err


def test_links_to_a_folder_of_another_role_are_left_out_too(tmp_path):
    put(tmp_path / "images" / "cat.png")
    put(tmp_path / "class" / "a.png", 1)
    (tmp_path / "images" / "more").symlink_to(tmp_path / "class")
    images, classes = read(options(tmp_path / "images", class_data_dir=str(tmp_path / "class")))
    # A folder outside may lie behind a link inside: what is read decides, not how it is called.
    assert images.names == ("cat.png",) and classes.names == ("a.png",)


def test_training_images_are_no_class_images(tmp_path, capsys):
    put(tmp_path / "dogs" / "a.png")
    put(tmp_path / "dogs" / "mine" / "b.png", 1)
    config = options(tmp_path / "dogs" / "mine", class_data_dir=str(tmp_path / "dogs"))
    images, classes = read(config)
    assert images.names == ("b.png",) and classes.names == ("a.png",)
    said = capsys.readouterr().err
    assert "note: left out of class_data_dir: mine/b.png, an image of train_data_dir" in said


def test_what_runs_wrote_is_left_out_and_images_beside_it_are_not(tmp_path, capsys):
    put(tmp_path / "cat.png")
    for name in ("validation/step-0.png", "contact_sheet.png", "concept_images/1.jpeg", "mine.png"):
        put(tmp_path / "old" / "run" / name, len(name))
    with only_run(tmp_path / "old" / "run"):
        record(tmp_path / "old" / "run", "validation/step-0.png", "contact_sheet.png")
        record(tmp_path / "old" / "run", "concept_images/1.jpeg")
    images, _ = read(options(tmp_path))
    assert images.names == ("cat.png", "old/run/mine.png")
    said = capsys.readouterr().err
    assert "3 images, such as old/run/contact_sheet.png, that a run wrote in run" in said


def test_a_folder_of_a_run_itself_has_none(tmp_path):
    put(tmp_path / "contact_sheet.png")
    with only_run(tmp_path):
        record(tmp_path, "contact_sheet.png")
    with pytest.raises(DataError, match="found only images that a run wrote in"):
        load_images(tmp_path, resolution=8)


def test_one_folder_for_two_roles_is_refused(tmp_path):
    put(tmp_path / "a.png")
    with pytest.raises(DataError) as caught:
        read(options(tmp_path, class_data_dir=str(tmp_path / ".")))
    assert str(caught.value) == (
        f"train_data_dir {tmp_path}: expected a folder of images to learn from, found the folder that "
        "class_data_dir names. Give each a folder of its own."
    )


def test_masks_may_lie_beside_the_images(tmp_path):
    put(tmp_path / "a.png")
    put(tmp_path / "a-masklabel.png", 1)
    images, _ = read(options(tmp_path, mask_dir=str(tmp_path)))
    assert images.names == ("a.png",)


def test_nothing_is_left(tmp_path):
    put(tmp_path / "class" / "a.png")
    with pytest.raises(DataError, match="found only images of class_data_dir"):
        read(options(tmp_path, class_data_dir=str(tmp_path / "class")))
