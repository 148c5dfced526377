"""Symbolic links that leave a folder take no other file into a result, a caption or an upload."""

import json

import pytest
from hub_run import ROWS, TOKEN, options
from PIL import Image
from sdxl_rows import sdxl_rows
from tiny_folder import write_folder, write_images
from tiny_run import configure

from ti_flax.commands import convert_pipeline as convert_to_torch
from ti_flax.commands import push as push_to_hub
from ti_flax.data.images.load import load_images
from ti_flax.data.prompts.captions import CaptionedImage, captions_beside
from ti_flax.data.sources.table_options import ALL_AS_FOUND
from ti_flax.data.sources.tables import hub_images
from ti_flax.embedding.learned_embeds import (
    learned_embeds_files,
    save_learned_embeds,
    write_learned_embeds,
)
from ti_flax.errors import DataError, OutputError, WeightsError
from ti_flax.export.hub import RefusedError
from ti_flax.export.hub import upload as upload_here
from ti_flax.export.hub_files import checkpoint_files, pipeline_files, result_files
from ti_flax.export.pipeline import carried_parts, save_pipeline
from ti_flax.export.upload import ShareCheckpoints, linked, upload
from ti_flax.files.atomic_folders import atomic_folder
from ti_flax.files.folder_files import LeavingLinkError
from ti_flax.files.written_files import only_run, record
from ti_flax.hosts import group as hosts
from ti_flax.models.base_model import base_tokenizers
from ti_flax.models.tokenizer import load_tokenizer
from ti_flax.models.weights.model_source import ModelSource
from ti_flax.run import inputs as inputs
from ti_flax.run import train as run
from ti_flax.training.loop import Hook

SECRET = '{"password": "open sesame"}'


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "config.json").write_text(SECRET)
    return tmp_path / "private" / "config.json"


@pytest.fixture
def model(tmp_path):
    """A model with two parts that go along."""
    model = write_folder(tmp_path / "model")
    index = json.loads((model / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (model / "model_index.json").write_text(json.dumps(index))
    for name in ("safety_checker", "feature_extractor"):
        (model / name).mkdir()
        (model / name / "config.json").write_text("{}")
    return model


def exported(model, output):
    tokenizers = base_tokenizers(ModelSource(model))
    save_pipeline(model, output, tokenizers=tokenizers, rows={}, first_added_id=len(tokenizers.tokenizer))
    return output


def everything_in(folder):
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


# Models


@pytest.mark.parametrize(
    "name",
    ["safety_checker/x", "feature_extractor/preprocessor_config.json", "scheduler/scheduler_config.json"]
    + ["text_encoder/config.json", "model_index.json", "tokenizer/chat_template.jinja"]
    + ["tokenizer/additional_chat_templates/x.jinja", "tokenizer/special_tokens_map.json"],
)
def test_no_file_of_this_machine_gets_into_a_result(model, secret, tmp_path, name):
    (model / name).unlink(missing_ok=True)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).symlink_to(secret)
    with pytest.raises(Exception, match="a link that leaves the") as caught:
        exported(model, tmp_path / "out")
    assert "Replace the link by the file itself." in str(caught.value)
    assert "sesame" not in str(caught.value) + everything_in(tmp_path / "out")


def test_a_part_is_no_link_to_another_folder(model, secret):
    (model / "safety_checker" / "config.json").unlink()
    (model / "safety_checker").rmdir()
    (model / "safety_checker").symlink_to(secret.parent)
    with pytest.raises(
        WeightsError, match=r"found a link that leaves the model's folder \(safety_checker -> "
    ):
        carried_parts(model)


def test_links_of_users_still_work(model, tmp_path):
    """A model folder that is a link, components and weights that lie elsewhere, and the Hub's cache."""
    (tmp_path / "data").mkdir()
    (model / "unet").rename(tmp_path / "data" / "unet")
    (model / "unet").symlink_to(tmp_path / "data" / "unet")
    (model / "vae" / "diffusion_pytorch_model.safetensors").rename(tmp_path / "data" / "vae.safetensors")
    (model / "vae" / "diffusion_pytorch_model.safetensors").symlink_to(tmp_path / "data" / "vae.safetensors")
    (tmp_path / "link").symlink_to(model)
    out = exported(tmp_path / "link", tmp_path / "out")
    assert (out / "safety_checker" / "config.json").read_text() == "{}"

    repository = tmp_path / "hub" / "models--me--model"
    (repository / "blobs").mkdir(parents=True)
    snapshot = write_folder(repository / "snapshots" / "1234").parent / "1234"
    for name in ("safety_checker", "feature_extractor"):
        (snapshot / name).mkdir()
        (snapshot / name / "config.json").write_text("{}")
    (snapshot / "model_index.json").write_text((model / "model_index.json").read_text())
    for number, path in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        path.rename(repository / "blobs" / str(number))
        path.symlink_to(repository / "blobs" / str(number))
    out = exported(snapshot, tmp_path / "again")
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert (out / "feature_extractor" / "config.json").read_text() == "{}"


@pytest.mark.parametrize(
    "entry", [["a", "b", "c"], 5, ["a", 5], [5, "a"], "a", {"a": "b"}, ["os.path", "x"], ["", "x"]]
)
def test_an_index_that_names_no_class_is_refused_before_the_training_and_by_the_converter(
    model, tmp_path, entry
):
    index = json.loads((model / "model_index.json").read_text()) | {"safety_checker": entry}
    (model / "model_index.json").write_text(json.dumps(index))
    line = r"model_index.json: safety_checker: expected a library and a class, such as \["
    config = configure(tmp_path, tmp_path / "out", only_save_embeds=False)
    with pytest.raises(WeightsError, match=line):
        inputs.read_model(config)
    inputs.read_model(config.replace(only_save_embeds=True))
    with pytest.raises(WeightsError, match=line):
        convert_to_torch.run(convert_to_torch.parse_arguments([str(model), str(tmp_path / "torch")]))
    assert not (tmp_path / "torch").exists()


@pytest.mark.parametrize("entry", [None, [], [None, None], ["diffusers", None]])
def test_parts_that_are_switched_off(model, entry):
    index = json.loads((model / "model_index.json").read_text()) | {"safety_checker": entry}
    (model / "model_index.json").write_text(json.dumps(index))
    assert carried_parts(model) == {"feature_extractor": ("transformers", "CLIPImageProcessor")}


def test_only_the_first_host_looks(model, tmp_path, monkeypatch):
    (model / "safety_checker" / "x").symlink_to("/dev/zero")
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    inputs.read_model(configure(tmp_path, tmp_path / "out", only_save_embeds=False))


def test_a_tokenizer_takes_its_words_from_no_other_file(model, tmp_path):
    (tmp_path / "docker.json").write_text('{"sesame": 0, "a": 1}')
    (tmp_path / "hosts").write_text("#version: 0.2\n")
    file, words = model / "tokenizer" / "tokenizer_config.json", len(load_tokenizer(model))
    named = {"vocab": str(tmp_path / "docker.json"), "merges": str(tmp_path / "hosts")}
    file.write_text(json.dumps(json.loads(file.read_text()) | named))
    assert len(load_tokenizer(model)) == words
    exported(model, tmp_path / "out")
    assert "sesame" not in (tmp_path / "out" / "tokenizer" / "vocab.json").read_text()


# What a run writes


def test_nothing_is_written_where_links_in_the_output_folder_lead_to(tmp_path):
    """A run refuses links that are there before it begins, and replaces those that come later."""
    write_folder(tmp_path / "model")
    write_images(tmp_path / "pictures")
    (tmp_path / "mine" / "concept_images").mkdir(parents=True)
    names = ["token_identifier.txt", "type_of_concept.txt", "learned_embeds.bin"]
    names += ["validation/step-1.png", "contact_sheet.png", "README.md"]
    for name in (*names, "concept_images/0.jpeg"):
        (tmp_path / "mine" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_text("mine")

    class Plant(Hook):
        def on_start(self, step, state):
            for name in (*names, "concept_images"):
                (tmp_path / "out" / name).parent.mkdir(
                    exist_ok=True
                )  # of the first previews, which come later
                (tmp_path / "out" / name).unlink(missing_ok=True)
                (tmp_path / "out" / name).symlink_to(tmp_path / "mine" / name)

    changes = {"max_train_steps": 1, "validation_prompt": ["a <thing>"]}
    run.train(configure(tmp_path, tmp_path / "out", **changes), hooks=[Plant()])
    for name in (*names, "concept_images/0.jpeg"):
        assert (tmp_path / "mine" / name).read_text() == "mine", name
    for name in (*names[:-1], "concept_images"):
        assert not (tmp_path / "out" / name).is_symlink(), name
    with pytest.raises(OutputError, match="found README.md, which no run wrote"):
        run.train(configure(tmp_path, tmp_path / "out", **changes, overwrite_output_dir=True))


# Uploads


@pytest.fixture
def finished(tmp_path):
    folder = tmp_path / "finished"
    (folder / "validation").mkdir(parents=True)
    (folder / "checkpoint-2").mkdir()
    save_learned_embeds(folder / "learned_embeds.safetensors", "<thing>", ROWS)
    (folder / "README.md").write_text("---\nlibrary_name: diffusers\n---\n")
    return folder


PLANTED = ["learned_embeds.bin", "validation/x.png", "metrics.csv", "checkpoint-2/x", "tokenizer/vocab.json"]


@pytest.mark.parametrize("name", [*PLANTED, "validation", "checkpoint-5", "unet"])
def test_no_link_out_of_a_run_is_uploaded(finished, secret, hub, capsys, name):
    folder = name in ("validation", "checkpoint-5", "unet")
    if name == "validation":
        (finished / name).rmdir()
        (secret.parent / "x.png").write_text(SECRET)
    (finished / name).parent.mkdir(exist_ok=True)
    (finished / name).symlink_to(secret.parent if folder else secret)
    wanted = options(hub_whole_pipeline=True, hub_strategy="all_checkpoints")
    failure = upload(wanted, finished)
    assert failure is not None and failure.found.startswith("a link that leaves the run's folder (")
    assert hub.seen == []
    assert "Replace the link by the file itself. Nothing is uploaded." in capsys.readouterr().err
    (finished / "model_index.json").write_text("{}")
    given = [
        str(finished),
        "--hub_model_id",
        "me/x",
        "--hub_whole_pipeline",
        "--hub_strategy",
        "all_checkpoints",
    ]
    with pytest.raises(
        OutputError, match="expected files of its own, found a link that leaves the run's folder"
    ):
        push_to_hub.run(push_to_hub.parse_arguments([*given, "--hub_token", TOKEN]))
    assert hub.seen == []


def test_a_link_that_is_made_after_the_look_is_not_uploaded_either(finished, secret, tmp_path):
    class Hub:
        def create_repo(self, *_, **__):
            return type("Made", (), {"repo_id": "me/x"})

        def repo_info(self, *_):
            return type("Found", (), {"siblings": [], "private": False, "sha": "0"})

    (finished / "learned_embeds.bin").symlink_to(secret)
    staging = linked(finished, {"learned_embeds.bin": "learned_embeds.bin"})
    request = {"repo_id": "me/x", "private": False, "folder": str(staging), "root": str(finished)}
    request |= {"message": "", "replaced": []}
    with pytest.raises(RefusedError, match="a link that leaves the run's folder"):
        upload_here(request, Hub())


def test_links_within_the_run_are_uploaded(finished):
    (finished / "learned_embeds.bin").symlink_to("learned_embeds.safetensors")
    assert "learned_embeds.bin" in result_files(finished)
    (finished / "checkpoint-2" / "x").symlink_to("/dev/null")
    result_files(finished), pipeline_files(finished)
    with pytest.raises(LeavingLinkError):
        checkpoint_files(finished)


def test_a_checkpoint_is_copied_without_what_links_lead_to(finished, secret, capsys):
    (finished / "checkpoint-2" / "x").symlink_to(secret)
    filled = []

    def fill(folder, step, state):
        filled.append(folder)

    sharing = ShareCheckpoints(options(hub_strategy="checkpoint"), finished, every=2, last_step=9, fill=fill)
    sharing.on_step(2, None)  # pyright: ignore[reportArgumentType]
    assert "no copy to upload (a link that leaves the folder (checkpoint-2/x -> " in capsys.readouterr().err
    assert not filled[0].exists()


# Images and captions


def test_copies_of_images_behind_links_are_not_uploaded(tmp_path, capsys):
    write_folder(tmp_path / "model")
    write_images(tmp_path / "pictures")
    (tmp_path / "private").mkdir()
    (tmp_path / "pictures" / "0.png").rename(tmp_path / "private" / "me.png")
    (tmp_path / "pictures" / "cat.png").symlink_to(tmp_path / "private" / "me.png")
    config = configure(tmp_path, tmp_path / "out")
    images = load_images(str(tmp_path / "pictures"), resolution=32)
    assert images.leaving == ("cat.png",)
    assert images.notes == ("images that are links out of the folder: 1, such as cat.png",)
    shared = config.replace(push_to_hub=True, hub_model_id="me/x")
    with pytest.raises(DataError) as caught:
        inputs.load_inputs(shared)
    assert str(caught.value) == (
        "train_data_dir: expected images in the folder itself, as push_to_hub uploads copies of them, "
        "found links out of it (1, such as cat.png). Replace the links by the files, or set "
        "hub_concept_images to false."
    )
    inputs.refuse_uploads_through_links(config.hub, images)
    inputs.refuse_uploads_through_links(shared.replace(hub_concept_images=False).hub, images)
    run.train(config.replace(max_train_steps=1))


def test_a_caption_lies_beside_its_image_or_beside_what_that_is_a_link_to(tmp_path, secret):
    write_images(tmp_path / "pictures", 2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "pictures" / "0.png").rename(tmp_path / "mine" / "0.png")
    (tmp_path / "mine" / "0.txt").write_text("a cat")
    for name in ("0.png", "0.txt"):
        (tmp_path / "pictures" / name).symlink_to(tmp_path / "mine" / name)
    (tmp_path / "pictures" / "1.txt").write_text("a dog")
    images = [CaptionedImage(name, str(tmp_path / "pictures" / name)) for name in ("0.png", "1.png")]
    assert captions_beside(images) == ("a cat", "a dog")
    (tmp_path / "pictures" / "1.txt").unlink()
    (tmp_path / "pictures" / "1.txt").symlink_to(secret)
    with pytest.raises(
        DataError, match=r"expected a file beside its image, found a link .* \(1.txt -> "
    ) as caught:
        captions_beside(images)
    assert "sesame" not in str(caught.value)


# Data sets


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


@pytest.mark.parametrize("named", ["/private/a.csv", "../a.csv", "http://127.0.0.1/a.csv", "zip://x::/a.zip"])
def test_a_readme_on_the_hub_names_no_files_of_this_machine(datasets, monkeypatch, named):
    described = type("Config", (), {"data_files": {"train": ["hf://datasets/a/b@1/x.csv", named]}})
    monkeypatch.setattr(
        datasets, "load_dataset_builder", lambda *_, **__: type("Builder", (), {"config": described})
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(DataError) as caught:
        hub_images("a/b", ALL_AS_FOUND)
    assert str(caught.value) == (
        f"train_data_dir a/b: expected data files of its own, found {named}, which its README.md names. "
        "Take that line out, or name the file as train_data_dir."
    )


def row_of_hub(datasets, monkeypatch, path):
    rows = datasets.Dataset.from_dict({"image": [str(path)]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": rows})
    return hub_images("a/b", ALL_AS_FOUND)


def test_rows_of_a_data_set_on_the_hub_name_files_of_its_own(datasets, monkeypatch, tmp_path):
    from huggingface_hub import constants

    hub_cache, unpacked = tmp_path / "hub", tmp_path / "extracted"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub_cache))
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", unpacked)
    own = hub_cache / "datasets--a--b" / "snapshots" / "1" / "a.png"
    for path in (own, unpacked / "1" / "a.png", hub_cache / "datasets--a--c" / "a.png", tmp_path / "a.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    for path in (own, unpacked / "1" / "a.png"):
        (image,) = row_of_hub(datasets, monkeypatch, path)
        assert image.path == str(path)
    (unpacked / "1" / "b.png").symlink_to(tmp_path / "a.png")
    strange = [
        hub_cache / "datasets--a--c" / "a.png",
        tmp_path / "a.png",
        unpacked / "1" / "b.png",
    ]
    for path in (*strange, f"{own.parent}/../../../../a.png"):
        with pytest.raises(
            DataError, match="expected an image in the dataset's folder, found a path out of it"
        ):
            row_of_hub(datasets, monkeypatch, path)


def test_every_file_of_an_embedding_for_sdxl_is_uploaded_and_no_other(finished, secret):
    token, more = "<my-cat>", ("cat.safetensors", "learned_embeds_3.safetensors")
    write_learned_embeds(finished, {token: sdxl_rows()})
    (finished / "token_identifier.txt").write_text(token)
    for name in more:
        (finished / name).write_text("mine")
    whole = {*learned_embeds_files([token], sdxl=True), "token_identifier.txt", "README.md"}
    assert len(whole) == 7 and set(result_files(finished)) == whole
    (finished / "token_identifier.txt").unlink()
    assert set(result_files(finished)) == whole - {"token_identifier.txt", "my-cat.safetensors"}
    (finished / "token_identifier.txt").write_text(token)
    (finished / "my-cat.safetensors").unlink()
    (finished / "my-cat.safetensors").symlink_to(secret)
    with pytest.raises(LeavingLinkError):
        result_files(finished)
    (finished / "learned_embeds_2.safetensors").unlink()  # then it is no run for SDXL
    assert "my-cat.safetensors" not in result_files(finished)


def test_what_the_user_put_beside_the_result_is_not_uploaded(finished):
    result = {"learned_embeds.safetensors", "concept_images/0.jpeg"}
    pipeline = {
        "model_index.json",
        "unet/config.json",
        "text_encoder_2/config.json",
        "tokenizer_2/vocab.json",
    }
    checkpoint = finished / "checkpoint-3"
    with only_run(finished):
        record(finished, *result, *pipeline)
    with atomic_folder(checkpoint) as unfinished:
        (unfinished / "state").write_text("made")
    for name in (*result, *pipeline, "concept_images/mine.jpeg", "validation/private.png", "unet/notes.txt"):
        (finished / name).parent.mkdir(exist_ok=True)
        (finished / name).write_text(name)
    (checkpoint / "notes.txt").write_text("mine")
    assert set(result_files(finished)) == result | {"README.md"}  # a card may have been edited
    assert set(pipeline_files(finished)) == pipeline
    assert set(checkpoint_files(finished)) == {"checkpoint-3/state", "checkpoint-3/sha256sums.txt"}
