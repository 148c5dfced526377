"""A dry run: what it says, that it harms and compiles nothing, and that it finds what a run would find."""

import errno
import types

import huggingface_hub
import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_folder import write_folder, write_images
from tiny_run import compilations, configure

from ti_flax.commands import train as command
from ti_flax.config.run_config import OPTIONS
from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.errors import TiFlaxError
from ti_flax.files.written_files import only_run
from ti_flax.hosts import devices
from ti_flax.models.weights.tensor_files import StoredTensor
from ti_flax.run import train as run
from ti_flax.run.dry_run import sheet, show


def said(place, output, capsys, **changes):
    """What a dry run prints, and its sheet."""
    path = run.train(configure(place, output, dry_run=True, **changes))
    return " ".join(capsys.readouterr().out.split()), path


def files_below(folder):
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


def test_it_says_what_would_be_learned_and_needed(place, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    text, path = said(
        place,
        tmp_path / "out",
        capsys,
        initializer_token="red car",
        train_batch_size=2,
        max_train_steps=40,
        checkpointing_steps=15,
        save_steps=10,
        validation_prompt=["a {}", "two {}"],
        validation_steps=20,
        lr_num_cycles=3,
        only_save_embeds=False,
    )
    assert path == tmp_path / "out.dry_run.png"
    assert "word <thing>: 2 vectors, token" in text and "which is 2 tokens: red</w> (" in text
    assert "3 images: 32 x 32 pixels, squeezed into squares; mirrored with probability 0.5" in text
    assert f"as training sees them: {path}" in text
    assert "prompts 27 templates" in text and "tokens 'a photo of a <thing>'" in text
    assert "(the longest)" in text
    samples = 2 * 8  # of eight devices
    assert f"40 updates x {samples} samples = {40 * samples} samples" in text
    assert "3 checkpoints; 4 learned_embeds-steps files; 3 previews of 8 images, one every 20" in text
    assert "no effect lr_num_cycles does nothing without lr_scheduler cosine_with_restarts" in text
    assert "for the whole pipeline and" in text and "downloads nothing of the model, which is here" in text
    assert text.endswith("The same command without dry_run trains.")


def test_it_writes_the_sheet_alone_and_reads_no_weights(place, tmp_path, capsys, monkeypatch):
    def read(self):
        raise AssertionError("weights are read")

    monkeypatch.setattr(StoredTensor, "read", read)
    before = files_below(place)
    named = {"latents_cache_dir": str(tmp_path / "cache")}
    with compilations() as messages:
        said(place, tmp_path / "deep" / "out", capsys, **named)
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "out.dry_run.png"]
    assert files_below(place) == before
    assert not any("chunk" in line or "encode" in line for line in messages)


def test_the_sheet_replaces_its_own_kind_alone(place, tmp_path, capsys):
    (tmp_path / "out.dry_run.png").write_text("somebody's")
    (tmp_path / "out.dry_run-2.png").symlink_to(tmp_path / "elsewhere.png")
    paths = [said(place, tmp_path / "out", capsys)[1] for _ in range(2)]
    assert paths == [tmp_path / "out.dry_run-3.png"] * 2
    assert (tmp_path / "out.dry_run.png").read_text() == "somebody's"
    assert not (tmp_path / "elsewhere.png").exists()


def test_the_sheet_shows_shapes_and_tints_what_does_not_count(place, tmp_path, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(show, "write_sheet", lambda rows, output: shown.extend(rows) or output)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    half = Image.new("RGBA", (64, 32), (0, 200, 0, 0))
    half.paste((0, 200, 0, 255), (0, 0, 32, 32))
    half.save(pictures / "wide.png")
    Image.new("RGBA", (64, 64), (0, 200, 0, 255)).save(pictures / "square.png")
    options = {"enable_bucket": True, "alpha_mask": True, "resolution": 64, "bucket_reso_steps": 8}
    text, _ = said(place, tmp_path / "out", capsys, train_data_dir=str(pictures), **options)
    assert "2 images: 1 of 64 x 64, 1 of 80 x 48 pixels, whole shapes cropped" in text
    assert "masked" in text
    square, wide = (images[0].astype(int) for _, images in shown)
    counts = [square[80, 80], wide[80, 40]]
    assert all(np.abs(pixel - [0, 200, 0]).max() < 5 for pixel in counts)
    assert wide[80, 120][0] > 150 and wide[80, 120][1] < 120
    assert [label.split(": ")[1].split(" pixels")[0] for label, _ in shown] == [
        "1 of 64 x 64",
        "1 of 80 x 48",
    ]


def test_many_images_are_shown_in_a_few_rows(tmp_path):
    from ti_flax.data.images.load import load_images

    images = load_images(write_images(tmp_path / "many", count=30), resolution=32)
    rows = sheet.rows_of("cat", images, 2)
    assert [len(shown) for _, shown in rows] == [8, 8]
    assert rows[0][0] == "cat: 30 of 32 x 32 pixels" and rows[1][0].endswith("14 more are not shown")


def test_prompts_that_are_cut_off_are_named(place, tmp_path, capsys):
    pictures = write_images(tmp_path / "pictures", count=2)
    (pictures / "0.txt").write_text("red " * 90)
    (pictures / "1.txt").write_text("a blue table")
    options = {"captions": "files", "prompt_template": ["{}, [filewords]"], "train_data_dir": str(pictures)}
    text, _ = said(place, tmp_path / "out", capsys, **options)
    assert "cut off 1 of 2 prompts are longer, and lose their ends: " in text
    assert "of 0.png" in text


CONCEPTS = [{"name": "cat", "num_vectors": 1}, {"name": "dog", "max_train_steps": 9}]


def many(place, tmp_path, concepts, **changes):
    options = configure(place, tmp_path / "many", dry_run=True, **changes).to_dict()
    del options["placeholder_token"]
    path = tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump({**options, "concepts": concepts}))
    return ["--config", str(path)]


def test_many_concepts_have_a_line_each_and_one_sheet(place, tmp_path, capsys):
    assert command.main(many(place, tmp_path, CONCEPTS)) == 0
    out = capsys.readouterr().out
    text = " ".join(out.split())
    assert "cat: <cat>, 1 vector from toy; 3 images; 27 prompts of up to " in text
    assert "; 6 updates x 1 samples dog: <dog>, 2 vectors from toy;" in text and "; 9 updates x" in text
    assert "at once as many as the compiler finds room for" in text
    assert {path.name for path in tmp_path.iterdir()} == {"many.yaml", "many.dry_run.png"}


def test_the_faults_of_all_concepts_are_told(place, tmp_path, capsys):
    bad = [{"name": "a", "prompt_template": "red " * 90 + "{}"}, {"name": "b", "captions": "files"}]
    assert command.main(many(place, tmp_path, [*CONCEPTS, *bad])) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: concept ") for line in lines)
    assert "concept a " in lines[0] and "concept b " in lines[1]


def test_concepts_that_share_no_program_are_refused(place, tmp_path, capsys):
    rows = np.ones((1, 32), np.float32)
    save_learned_embeds(tmp_path / "other.safetensors", "<other>", rows)
    extra = {"extra_embeds": str(tmp_path / "other.safetensors")}
    assert command.main(many(place, tmp_path, CONCEPTS, **extra)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "concept cat " in line and "extra_embeds: expected 2 vectors for every concept" in line


def test_what_is_to_be_downloaded_has_a_size(place, tmp_path, capsys, monkeypatch):
    folder = write_folder(tmp_path / "snapshot")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = [types.SimpleNamespace(rfilename=name, size=3 * 2**20) for name in names]
    for name in names:
        if name.startswith("unet/") and name.endswith(".safetensors"):
            (folder / name).unlink()
    info = types.SimpleNamespace(siblings=files)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, *_, **__: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    text, _ = said(place, tmp_path / "out", capsys, pretrained_model_name_or_path="me/model")
    assert "downloads 3.0 MiB of me/model into " in text
    assert ", 1 file: unet/diffusion_pytorch_model.safetensors" in text


def test_without_a_connection_what_is_not_here_is_refused_as_by_a_run(place, tmp_path, capsys, monkeypatch):
    folder = write_folder(tmp_path / "snapshot")

    def unreachable(self, *_, **__):
        raise OSError(errno.ENETUNREACH, "no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    name = {"pretrained_model_name_or_path": "me/model"}
    text, _ = said(place, tmp_path / "out", capsys, **name)
    assert "downloads nothing of me/model, which is here whole" in text
    for path in (folder / "unet").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(TiFlaxError, match="no connection .* and no copy"):
        said(place, tmp_path / "out", capsys, **name)


def other_weights(place, tmp_path):
    """A model whose UNet has the weights of a wider one."""
    folder = write_folder(tmp_path / "model")
    wide = write_folder(tmp_path / "wide", wide=True)
    name = "unet/diffusion_pytorch_model.safetensors"
    (folder / name).write_bytes((wide / name).read_bytes())
    return {"pretrained_model_name_or_path": str(folder)}


def full_folder(place, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    return {}


def under_a_file(place, tmp_path):
    (tmp_path / "file").write_text("")
    return {"output_dir": str(tmp_path / "file" / "out")}


def no_word(place, tmp_path):
    (tmp_path / "vectors.safetensors").write_bytes(b"none")
    return {"initializer_token": None, "init_embeds": str(tmp_path / "vectors.safetensors")}


# What is wrong, as options or as what makes them.
FAULTS = {
    "images": {"train_data_dir": "nothing-here"},
    "captions": {"captions": "files"},
    "word cut off": {"prompt_template": ["red " * 90 + "{}"]},
    "word known": {"placeholder_token": "toy"},
    "start": {"initializer_token": "red blue table", "num_vectors": 1},
    "embedding": no_word,
    "class images": {"class_data_dir": "nothing-here"},
    "masks": {"mask_dir": "nothing-here"},
    "encoder": {"learned_text_encoders": "second"},
    "optimizer": {"optimizer_args": ["colour=1"]},
    "tracker": {"report_to": "swanlab"},
    "clip_skip": {"clip_skip": 50},
    "attention": {"attention": "flash"},
    "checkpoint": {"resume_from_checkpoint": "checkpoint-7"},
    "weights": other_weights,
    "output": full_folder,
    "place": under_a_file,
    "name": {"output_dir": "x" * 300},
    "epochs": {"max_train_steps": None, "num_train_epochs": 2**31 - 1},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_as_a_run_tells_it(fault, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = FAULTS[fault]
    options = {"output_dir": str(tmp_path / "out")} | (made(place, tmp_path) if callable(made) else made)
    told = []
    for dry in (True, False):
        config = configure(place, options["output_dir"], dry_run=dry, **options)
        with pytest.raises(TiFlaxError) as caught:
            run.train(config)
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert not list(tmp_path.glob("*.png"))


def test_a_folder_at_work_is_refused_and_left_alone(place, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with only_run(tmp_path / "out"):
        before = files_below(tmp_path)
        with pytest.raises(TiFlaxError, match="no other run at work in it"):
            said(place, tmp_path / "out", capsys)
        assert files_below(tmp_path) == before


def test_the_checkpoint_of_another_concept_is_refused(place, tmp_path, capsys):
    run.train(configure(place, tmp_path / "out"))
    auto = {"resume_from_checkpoint": "auto"}
    text, _ = said(place, tmp_path / "out", capsys, **auto)
    assert "nothing to do:" in text
    text, _ = said(place, tmp_path / "out", capsys, max_train_steps=9, learning_rate=0.5, **auto)
    assert "goes on from step 6" in text and "learning_rate was 0.01 in checkpoint-6 and is now 0.5" in text
    for other in ({"initializer_token": "dog"}, {"prompt_template": ["my {}"]}, {"optimizer": "lion"}):
        with pytest.raises(TiFlaxError, match="checkpoint-6: expected "):
            said(place, tmp_path / "out", capsys, max_train_steps=9, **auto, **other)


def test_the_command_prints_notes_with_the_rest_and_none_before(place, tmp_path, capsys, monkeypatch):
    kept = {name: value for name, value in configure(place, tmp_path / "out").to_dict().items() if value}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(kept))
    assert command.main(["--config", str(path), "--dry_run", "--lr_warmup_steps=500", "--allow_tf32"]) == 0
    out, err = capsys.readouterr()
    assert "note:" not in err and "lr_warmup_steps does nothing with lr_scheduler constant" in out
    assert "allow_tf32 does nothing here" in out


def test_devices_are_counted_without_starting_any(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_DEVICES", {"gpu": (("json",), ("nvidia[0-9]*",))})
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "_DEV", tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    assert devices.expected_devices() == ("gpu", 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert devices.expected_devices() == ("gpu", 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.expected_devices().platform == "cpu"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert devices.expected_devices() == ("cpu", devices.usable_cores())


def test_it_is_an_option_like_others():
    option = OPTIONS["dry_run"]
    assert option.kind is bool and option.default is False and option.rule.brief


def test_variants_are_said_and_shown(place, tmp_path, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(show, "write_sheet", lambda rows, output: shown.extend(rows) or output)
    jitter = {"crop_jitter": 0.3, "color_jitter": [0.2, 0, 0, 0.1], "augmentations_per_image": 10}
    text, _ = said(place, tmp_path / "out", capsys, **jitter)
    assert (
        "10 variants of each, the image as it is and 9 with crops by up to 0.3 of a side and "
        "brightness by up to 0.2, hue by up to 0.1" in text
    )
    [_, (label, images)] = shown
    assert label.endswith(": 0.png and its variants, 8 of 10")
    assert len({each.tobytes() for each in images}) == 8
    np.testing.assert_array_equal(images[0], shown[0][1][0])
