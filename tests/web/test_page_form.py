"""The command that the fields make, what is refused in them, and where a message stands."""

from types import SimpleNamespace

import pytest
from web_pages import form

from ti_flax.config.parse import parse_with_notes
from ti_flax.config.presets import PRESETS
from ti_flax.config.run_config import OPTIONS
from ti_flax.errors import ConfigError
from ti_flax.web.events import _FORM, Events, form_of
from ti_flax.web.faults import PLACES, place_of
from ti_flax.web.form import resumed, shown, split_flags
from ti_flax.web.image_sets import images_of
from ti_flax.web.page import NO_CAPTIONS, SETTINGS, Fields, default_text
from ti_flax.web.work_folder import DEMO_IMAGES, DEMO_MODEL


def test_fields_become_flags_and_empty_ones_none(work):
    output = work.runs / "ruby" / "output"
    filled = form(
        options={"learning_rate": "", "max_train_steps": " 30 ", "seed": None, "placeholder_token": "-x -y"},
        previews="a {}\n\n two {} \n",
        captions=True,
        further="--flip_p 0 --caption_prefix 'a b'",
    )
    assert filled.arguments(work, output) == [
        "train",
        f"--pretrained_model_name_or_path={work.demo_model}",
        f"--train_data_dir={work.images / 'set'}",
        "--placeholder_token=-x -y",
        "--initializer_token=ring",
        "--preset=quick",
        "--max_train_steps=30",
        "--validation_prompt=a {}",
        "--validation_prompt=two {}",
        "--captions=files",
        "--only_save_embeds",
        f"--output_dir={output}",
        "--flip_p",
        "0",
        "--caption_prefix",
        "a b",
    ]


def test_empty_fields_suit_the_model_and_say_so():
    """The demo's model learns with the size and batch of its configuration; filled fields count."""
    names = ("placeholder_token", "num_vectors", "initializer_token", "learnable_property", "preset")
    empty = dict.fromkeys((*_FORM, *names)) | {"model": DEMO_MODEL, "preset": "quick"}
    of_demo = form_of(empty).options
    assert (of_demo["resolution"], of_demo["train_batch_size"]) == ("64", "8")
    assert form_of(empty | {"train_batch_size": " 2 "}).options["train_batch_size"] == "2"
    other = form_of(empty | {"model": "somebody/model"}).options
    assert other["resolution"] is None and other["train_batch_size"] is None
    for name in ("resolution", "train_batch_size"):
        assert default_text(name, "quick", DEMO_MODEL) == of_demo[name]
        assert default_text(name, "quick", "somebody/model") == OPTIONS[name].default_text
    assert default_text("max_train_steps", "quick", DEMO_MODEL) == str(PRESETS["quick"]["max_train_steps"])


def test_mirror_images_are_learned_unless_they_show_another_thing(work):
    values = dict.fromkeys(_FORM) | {"model": DEMO_MODEL, "preset": "quick", "num_vectors": "1"}
    assert "flip_p" not in form_of(values | {"mirror": True}).options
    assert form_of(values | {"mirror": False}).options["flip_p"] == "0"
    # The demo's stripes lean to one side; of other images, what somebody has ticked stays.
    look = Events(work, Fields({}), SimpleNamespace())._show_images
    assert look(DEMO_IMAGES)["mirror"] is False and "mirror" not in look("images/set")


def test_captions_are_ticked_once_every_image_has_one(work):
    def tick():
        return Events(work, Fields({}), SimpleNamespace())._show_images("images/set")["use_captions"]

    images = images_of(work.images / "set")
    assert (tick()["value"], tick()["info"]) == (False, NO_CAPTIONS)
    images[0].with_suffix(".txt").write_text("one")
    assert (tick()["value"], tick()["info"].split(";")[0]) == (False, f"1 of {len(images)} images have one")
    for image in images[1:]:
        image.with_suffix(".txt").write_text("another")
    assert (tick()["value"], tick()["info"]) == (True, NO_CAPTIONS)


def test_the_command_is_one_that_the_program_takes(work):
    arguments = form(previews="a {}", whole_model=True).arguments(work, work.runs / "a" / "output")
    config, _ = parse_with_notes(arguments[1:])
    assert config.concept.words == ("<ruby>",)
    assert not config.output.only_save_embeds and config.training.preset == "quick"
    assert shown(["train", "--placeholder_token=<a b>"]) == "ti-flax train '--placeholder_token=<a b>'"
    again = resumed(resumed(arguments))
    assert again[:-1] == arguments and again[-1] == "--resume_from_checkpoint=auto"


@pytest.mark.parametrize(
    "flags",
    [
        "--config /etc/passwd",
        "--output_dir /tmp/x",
        "--overwrite_output_dir",
        "--resume_from_checkpoint=auto",
        "--dry_run",
        "--push_to_hub",
        "--hub_token x",
        "--multi_host",
        "--allow_private_links",
        "--print_config",
        "--version",
        "--help",
        "-h",
        "--help=all",
        "'open",
    ],
)
def test_what_the_page_decides_or_what_leaves_this_machine_is_no_further_flag(flags):
    with pytest.raises(ConfigError, match="^further flags") as caught:
        split_flags(flags)
    assert place_of(str(caught.value), SETTINGS) == "further"


@pytest.mark.parametrize(
    "flags",
    [
        "--train_data_dir /etc",
        "--mask_dir ../../x",
        "--tokenizer_name /etc",
        "--initializer_token null --init_embeds /etc/passwd",
        "--extra_embeds word=/etc/passwd",
        "--extra_embeds /etc/passwd",
        "--template_file /etc/passwd",
        "--caption_file ../x --captions caption_file",
        "--latents_cache_dir /tmp/x",
        "--profile /tmp/x",
        "--logging_dir ../../../../x",
        "--pretrained_vae_model_name_or_path /etc",
        "--class_data_dir /etc --class_prompt 'a {}'",
    ],
)
def test_no_flag_reaches_a_place_outside(work, flags):
    with pytest.raises(ConfigError, match="expected a place in the work folder"):
        form(further=flags).arguments(work, work.runs / "a" / "output")


def test_a_file_that_may_name_other_places_is_no_folder_of_images(work):
    (work.images / "set" / "001.txt").write_text("/etc/passwd")
    for option in ("train_data_dir", "mask_dir"):
        with pytest.raises(ConfigError, match=f"{option}: expected a folder"):
            form(further=f"--{option} images/set/001.txt").arguments(work, work.runs / "a" / "output")


def test_places_inside_repositories_and_links_may_be_named(work):
    flags = "--mask_dir images/set --pretrained_vae_model_name_or_path owner/vae --logging_dir logs"
    assert form(further=flags).arguments(work, work.runs / "a" / "output")


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("pretrained_model_name_or_path: expected a base model, found none", "model"),
        ("model owner/none: expected a repository on the Hub, found none", "model"),
        ("train_data_dir: expected images, found none", "images"),
        ("images/set/001.png: found an image that cannot be decoded", "images"),
        ("/home/me/ti-flax-work/images/set/001.png: found an image", "images"),
        ("captions: expected the name of an image", "images"),
        ("missing: placeholder_token", "word"),
        ("placeholder_token 'cat': expected a new word", "word"),
        ("num_vectors: expected a whole number", "word"),
        ("initializer_token 'xyz': expected a known word", "start"),
        ("missing: initializer_token", "start"),
        ("--learning_rate: expected a number", "settings"),
        ("--max_train_steps: expected a whole number", "settings"),
        ("--flip_p: expected a number", "further"),
        ("snr_gamma: expected a number", "further"),
        ("unknown flag --learnig_rate. Did you mean --learning_rate?", "further"),
        ("'x' belongs to no flag. Options are written --name value", "further"),
        ("output_dir /x: expected a new or empty folder", "run"),
        ("run: expected no other at work, found cat", "run"),
        ("a device that JAX can use", "run"),
    ],
)
def test_a_message_stands_beside_its_field(message, place):
    assert place_of(message, SETTINGS) == place and place in PLACES
