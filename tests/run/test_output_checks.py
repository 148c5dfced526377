"""Which output folders a run refuses, before it writes anything."""

import os

import pytest

from ti_flax.config import RunConfig
from ti_flax.errors import OutputError
from ti_flax.files.written_files import LIST, only_run, record, record_text
from ti_flax.run.output_checks import refuse_output


def config(output, **changes):
    options = {
        "pretrained_model_name_or_path": "owner/name",
        "train_data_dir": "owner/images",
        "placeholder_token": "<thing>",
        "initializer_token": "toy",
        "output_dir": str(output),
    }
    if "concepts" in changes:
        del options["placeholder_token"]
    return RunConfig.from_dict(options | changes)


def check(output, **changes):
    refuse_output(config(output, **changes), output)


def refused(output, **changes):
    before = {path: path.lstat().st_mtime_ns for path in output.parent.rglob("*")}
    with pytest.raises(OutputError) as caught:
        check(output, **changes)
    assert before == {path: path.lstat().st_mtime_ns for path in output.parent.rglob("*")}
    return str(caught.value)


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"the user's {name}")
    return folder


def run_in(folder, *names):
    """Makes a folder as a run leaves it that wrote these files."""
    folder.mkdir(exist_ok=True)
    with only_run(folder):
        record(folder, *names)
    return fill(folder, *names)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "cwd" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd" / "deep")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.mark.parametrize(
    "names",
    [(), (".DS_Store",), ("train.log", "lost+found/x"), (LIST,)],
    ids=["empty", "hidden", "log", "list"],
)
def test_a_new_or_empty_folder_is_fine(tmp_path, names):
    output = fill(tmp_path / "out", *names)
    if LIST in names:
        (output / LIST).write_text("")  # a run was killed as it began
    output.mkdir(exist_ok=True)
    check(output)
    check(tmp_path / "new" / "deeper")


def test_a_folder_of_other_things_is_refused_unless_told_otherwise(tmp_path):
    output = fill(tmp_path / "project", "main.py", "notes.md", "a.txt", "b.txt", "unet.py")
    assert refused(output) == (
        f"output_dir {output}: expected a new or empty folder, or one with a run in it, found a.txt, "
        "b.txt, main.py and 2 more in it, and no run. Choose another, or give overwrite_output_dir to write "
        "beside what is there, which stays."
    )
    assert "in it, and no run" in refused(output, resume_from_checkpoint="auto")
    check(output, overwrite_output_dir=True)


@pytest.mark.parametrize("name, found", [("/", "a folder that"), ("home", "your home folder")])
@pytest.mark.parametrize("resume", [None, "auto"])
def test_the_root_and_the_home_folder_are_refused(tmp_path, name, found, resume):
    output = tmp_path / name
    with pytest.raises(OutputError, match=f"found {found}"):
        check(output, resume_from_checkpoint=resume)


@pytest.mark.parametrize("name", [".", "..", "../.", "../../cwd/deep", "../deep/../.."])
def test_the_current_folder_and_those_it_is_in_are_refused(tmp_path, name):
    from pathlib import Path

    with pytest.raises(OutputError, match="found (the current folder|a folder that the current one is in)"):
        check(Path(name))


def test_a_link_to_the_current_folder_is_the_current_folder(tmp_path):
    (tmp_path / "link").symlink_to(".")
    with pytest.raises(OutputError, match="that the current one is in"):
        check(tmp_path / "link")
    run_in(tmp_path)
    check(tmp_path / "link")  # a run is in it


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "learned_embeds.bin",
        "learned_embeds-steps-100.safetensors",
        "metrics.csv",
        "run.json",
        "validation/step-10.png",
        "concept_images/0.jpeg",
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "tokenizer/notes/mine.txt",
    ],
)
def test_files_that_would_be_written_over_are_refused_also_if_told_otherwise(tmp_path, name):
    output = run_in(tmp_path / "out", "contact_sheet.png")
    fill(output, name)
    message = refused(output, overwrite_output_dir=True)
    assert f"found {name}, which no run wrote" in message and "Move them away" in message
    assert f"found {name}" in refused(output)
    record(output, name)
    check(output, overwrite_output_dir=True)


def test_files_of_a_pipeline_are_not_in_the_way_of_a_run_that_writes_none(tmp_path):
    output = fill(tmp_path / "model", "model_index.json", "unet/config.json")
    check(output, overwrite_output_dir=True, only_save_embeds=True)
    assert "model_index.json, unet/config.json" in refused(output, overwrite_output_dir=True)


@pytest.mark.parametrize("name", ["index.html", "concepts.json"])
def test_files_of_many_concepts_are_in_the_way_of_a_run_that_writes_them(tmp_path, name):
    output = run_in(tmp_path / "out", "contact_sheet.png")
    fill(output, name)
    many = {"concepts": str(tmp_path / "list.yaml")}
    message = f"found {name}, which no run wrote or somebody has edited since. Move them away"
    assert message in refused(output, overwrite_output_dir=True, **many)
    assert message in refused(output, resume_from_checkpoint="auto", **many)
    check(output, overwrite_output_dir=True)
    record(output, name)
    check(output, **many)


@pytest.mark.parametrize("name", ["validation", "concept_images", "unet"])
def test_a_link_in_the_place_of_a_folder_is_in_the_way(tmp_path, name):
    output = run_in(tmp_path / "out", "metrics.csv")
    (tmp_path / "elsewhere").mkdir()
    (output / name).symlink_to(tmp_path / "elsewhere")
    assert f"found {name}, which no run wrote" in refused(output, overwrite_output_dir=True)


def test_an_edited_card_is_the_users(tmp_path):
    output = run_in(tmp_path / "out")
    assert record_text(output, "README.md", "made")
    (output / "README.md").write_text("made")
    check(output, overwrite_output_dir=True)
    (output / "README.md").write_text("edited")
    assert "README.md, which no run wrote or somebody has edited" in refused(
        output, overwrite_output_dir=True
    )
    check(output, resume_from_checkpoint="auto")  # goes on, and leaves it alone
    assert not record_text(output, "README.md", "made again")


@pytest.mark.parametrize("content", ["mine\n", "# Files that somebody else wrote\n"])
def test_another_programs_list_is_no_list(tmp_path, content):
    output = fill(tmp_path / "out", LIST)
    (output / LIST).write_text(content)
    assert LIST in refused(output) and LIST in refused(output, overwrite_output_dir=True)


def test_a_folder_of_diffusers_checkpoints_is_not_ours(tmp_path):
    output = fill(tmp_path / "out", "checkpoint-500/optimizer.bin", "learned_embeds.bin")
    assert "in it, and no run" in refused(output)
    message = refused(output, overwrite_output_dir=True, only_save_embeds=True)
    assert "learned_embeds.bin, checkpoint-500" in message


def test_a_run_that_was_stopped_early_is_in_the_way_only_with_something_to_lose(tmp_path):
    check(run_in(tmp_path / "out", "metrics.csv", "run.json"))
    names = ("learned_embeds-steps-900.safetensors", "learned_embeds-steps-1000.safetensors")
    output = run_in(tmp_path / "out", *names)
    expected = f"found an unfinished run, {names[1]}. Give overwrite_output_dir to start again"
    assert expected in refused(output)
    check(output, resume_from_checkpoint="auto")  # begins anew, as a loop that starts it does


def test_a_run_is_refused_and_going_on_is_not(tmp_path):
    output = run_in(tmp_path / "out", "learned_embeds.safetensors")
    assert "found a finished run. Give overwrite_output_dir" in refused(output)
    assert "found a finished run" in refused(output, resume_from_checkpoint="auto")
    check(output, overwrite_output_dir=True)
    (output / "checkpoint-5").mkdir()
    check(output, resume_from_checkpoint="auto")


@pytest.mark.parametrize("option", ["train_data_dir", "class_data_dir", "mask_dir"])
@pytest.mark.parametrize("inside", ["", "out", "a/b/out"])
def test_an_output_folder_in_a_folder_of_images_is_refused(tmp_path, option, inside):
    images = fill(tmp_path / "images", "1.png")
    output = images / inside
    changes = {option: str(images), "overwrite_output_dir": True}
    changes |= {"class_prompt": "a <thing>"} if option == "class_data_dir" else {}
    message = refused(output, **changes)
    assert f"expected a folder outside of {option} {images}" in message
    assert not output.exists() or not inside
    (tmp_path / "link").symlink_to(images)
    assert "expected a folder outside" in refused(tmp_path / "link" / inside, **changes)
    check(tmp_path / "images-out", **changes)


@pytest.mark.parametrize(
    "option, name",
    [
        ("pretrained_model_name_or_path", "."),
        ("pretrained_vae_model_name_or_path", "vae"),
        ("tokenizer_name", "tokenizer"),
        ("train_data_dir", "concept_images"),
        ("train_data_dir", "validation/step-1.png"),
        ("init_embeds", "learned_embeds.safetensors"),
        ("extra_embeds", "<word>=learned_embeds-best.safetensors"),
    ],
)
def test_an_input_that_would_be_written_over_is_refused(tmp_path, option, name):
    names = ("learned_embeds.safetensors", "learned_embeds-best.safetensors", "validation/step-1.png")
    output = run_in(
        tmp_path / "out", *names, "vae/config.json", "tokenizer/vocab.json", "concept_images/0.jpeg"
    )
    token, separator, file = name.rpartition("=")
    changes = {option: f"{token}{separator}{output / file}", "overwrite_output_dir": True}
    if option == "init_embeds":
        changes["initializer_token"] = None
    assert f"found {option}" in refused(output, **changes)
    check(tmp_path / "other", **changes)


@pytest.mark.parametrize(
    "make, found",
    [
        (lambda path: path.write_text(""), "found a file"),
        (lambda path: path.symlink_to("gone"), "found a link to gone, which does not exist"),
        (os.mkfifo, "found something that is no folder"),
    ],
)
def test_what_is_no_folder_is_said(tmp_path, make, found):
    make(tmp_path / "out")
    assert found in refused(tmp_path / "out")
    assert f"{found} at {tmp_path / 'out'}" in refused(tmp_path / "out" / "deeper")
