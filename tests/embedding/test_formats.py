"""Embedding files as they are written: read back to the same bits, by this project and by their programs."""

import io
import json

import embedding_consumers as consumers
import numpy as np
import pytest
from PIL import Image
from tiny_folder import write_folder

from ti_flax.embedding.formats import (
    FORMS,
    Embedding,
    check_new,
    embedding_bytes,
    embedding_files,
    form_of,
    write_embedding,
)
from ti_flax.embedding.read import load_embedding
from ti_flax.embedding.torch_archive import torch_bytes
from ti_flax.errors import ConfigError, OutputError
from ti_flax.export.embedding_card import captioned, plain_card

EVERY = [(form, suffix) for form, suffixes in FORMS.items() for suffix in suffixes]
# What a form's files are taken for, where that is not the form's own name.
READ_AS = {"invoke": "kohya", ("automatic1111", ".safetensors"): "kohya"}
WITHOUT_TOKEN = {"invoke", "onetrainer", "rinongal", ("kohya", ".pt")}


def random_rows(vectors, width=768, seed=0):
    rows = np.random.default_rng(seed).normal(size=(vectors, width)).astype(np.float32)
    # Numbers whose decimal form is long, or that a careless writer loses.
    rows[0, :4] = [-0.0, 1e-38, np.nextafter(np.float32(1), np.float32(2)), 16777217.0]
    return rows


def write(folder, form, suffix, rows, **more):
    rows = rows if isinstance(rows, dict) else {"text_encoder": rows}
    made = Embedding(**({"token": "<my-cat>", "name": "<my-cat>", "rows": rows} | more))
    path = folder / f"{form}{suffix}"
    card = plain_card(made.name, "card") if suffix == ".png" else None
    write_embedding(embedding_files(made, form, path, image=card), overwrite=False)
    return path


def test_what_goes_behind_the_text_encoder_is_in_onetrainers_form(tmp_path):
    before, behind = random_rows(2), random_rows(2, seed=1)
    more = {"behind": {"text_encoder": behind}}
    path = write(tmp_path, "onetrainer", ".safetensors", before, **more)
    assert consumers.onetrainer(path).tobytes() == before.tobytes()
    assert consumers.onetrainer_output(path).tobytes() == behind.tobytes()
    found = load_embedding(path)
    assert found.rows["text_encoder"].tobytes() == before.tobytes()
    assert found.behind["text_encoder"].tobytes() == behind.tobytes()
    assert not load_embedding(write(tmp_path, "kohya", ".safetensors", before, **more)).behind


@pytest.mark.parametrize(("form", "suffix"), EVERY)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("vectors", [1, 5])
def test_every_form_comes_back_with_its_bits(tmp_path, form, suffix, dtype, vectors):
    rows = random_rows(vectors).clip(-6e4, 6e4).astype(dtype)
    path = write(tmp_path, form, suffix, rows)
    found = load_embedding(path)
    assert found.kind == READ_AS.get((form, suffix), READ_AS.get(form, form))
    assert found.rows["text_encoder"].tobytes() == rows.astype(np.float32).tobytes()
    nameless = bool(WITHOUT_TOKEN & {form, (form, suffix)})
    assert found.token == (None if nameless else "<my-cat>")
    # JSON has no dtype, so what an image holds is float32 again.
    assert found.dtype == ("float32" if suffix == ".png" else dtype)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_details_of_the_web_ui_are_kept(tmp_path):
    details = {"step": "1500", "sd_checkpoint": "e02601f3", "sd_checkpoint_name": "v1-5", "format": "pt"}
    for suffix in (".pt", ".png"):
        path = write(tmp_path, "automatic1111", suffix, random_rows(1), details=details)
        assert load_embedding(path).details == {k: v for k, v in details.items() if k != "format"}
    path = write(tmp_path, "kohya", ".safetensors", random_rows(1), details={"modelspec.author": "me"})
    found = load_embedding(path).details
    assert found["modelspec.author"] == "me"
    assert found["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"


@pytest.mark.parametrize("vectors", [1, 4])
def test_the_web_ui_reads_its_forms(tmp_path, vectors):
    pytest.importorskip("torch")
    rows = random_rows(vectors)
    for suffix in FORMS["automatic1111"]:
        name, found = consumers.webui(write(tmp_path, "automatic1111", suffix, rows))
        assert name == ("<my-cat>" if suffix == ".png" else "automatic1111")
        assert found.tobytes() == rows.tobytes()
    for form in ("diffusers", "invoke", "kohya"):
        _, found = consumers.webui(write(tmp_path, form, ".safetensors", rows))
        assert found.tobytes() == rows.tobytes()


def test_the_web_ui_finds_the_embedding_in_the_pixels_alone(tmp_path):
    rows = random_rows(75, 1024)
    path = write(tmp_path, "automatic1111", ".png", rows)
    Image.open(path).save(tmp_path / "bare.png")
    assert "sd-ti-embedding" not in Image.open(tmp_path / "bare.png").text
    tree = consumers.webui_pixels(tmp_path / "bare.png")
    assert tree["name"] == "<my-cat>" and tree["string_to_token"] == {"*": 265}
    assert tree["string_to_param"]["*"].astype(np.float32).tobytes() == rows.tobytes()
    assert load_embedding(tmp_path / "bare.png").rows["text_encoder"].tobytes() == rows.tobytes()
    Image.open(path).save(tmp_path / "bare.webp", lossless=True)
    assert load_embedding(tmp_path / "bare.webp").rows["text_encoder"].tobytes() == rows.tobytes()


@pytest.mark.parametrize("shade", [0, 1, 255])
@pytest.mark.parametrize("height", [1, 17, 300])
def test_images_of_any_colour_and_height_carry_it(tmp_path, shade, height):
    rows, image = random_rows(1, 32), Image.new("RGB", (64, height), (shade, shade, shade))
    content = embedding_bytes(
        Embedding("<c>", "<c>", {"text_encoder": rows}), "automatic1111", ".png", image=image
    )
    Image.open(io.BytesIO(content)).save(tmp_path / "bare.png")
    found = consumers.webui_pixels(tmp_path / "bare.png")["string_to_param"]["*"]
    assert found.astype(np.float32).tobytes() == rows.tobytes()
    assert load_embedding(tmp_path / "bare.png").rows["text_encoder"].tobytes() == rows.tobytes()


@pytest.mark.parametrize(
    ("program", "forms"),
    [
        (consumers.comfy, [(f, s) for f, s in EVERY if s != ".png" and f != "rinongal"]),
        (consumers.kohya, [("kohya", s) for s in FORMS["kohya"]] + [("automatic1111", ".pt")]),
        (consumers.invoke, [("invoke", ".safetensors"), ("automatic1111", ".pt"), ("kohya", ".pt")]),
        (consumers.onetrainer, [("onetrainer", ".safetensors")]),
    ],
)
def test_other_programs_read_theirs(tmp_path, program, forms):
    pytest.importorskip("torch")
    rows = random_rows(3)
    for form, suffix in forms:
        found = program(write(tmp_path, form, suffix, rows))
        assert found.shape == rows.shape and found.tobytes() == rows.tobytes(), (form, suffix)


@pytest.mark.parametrize(("form", "suffix", "readers"), list(consumers.named_in_the_docs("form")))
def test_who_reads_a_form_is_as_the_docs_say(tmp_path, form, suffix, readers):
    pytest.importorskip("torch")
    rows = random_rows(3)
    path = write(tmp_path, form, suffix, rows)
    programs = {
        "the Web UI": lambda: consumers.webui(path)[1],
        "the Web UI from 1.7": lambda: consumers.webui(path, before_1_7=False)[1],
        "ComfyUI": lambda: consumers.comfy(path),
        "kohya": lambda: consumers.kohya(path),
        "InvokeAI": lambda: consumers.invoke(path),
        "OneTrainer": lambda: consumers.onetrainer(path),
        "diffusers": lambda: dict([consumers.diffusers(path)])["<my-cat>"],
        "diffusers with `token=`": lambda: dict([consumers.diffusers(path, token="<a>")])["<a>"],
        "the original repository": lambda: consumers.rinongal(path)[1],
    }
    assert {*readers} <= {*programs, "invoke-training"}
    for program, read in programs.items():
        if program in readers:
            assert read().tobytes() == rows.tobytes(), program
        elif program in ("InvokeAI", "OneTrainer", "diffusers"):
            with pytest.raises(Exception):  # noqa: B017, PT011  # each refuses in its own way
                read()


def test_every_form_is_in_the_docs():
    assert {(form, suffix) for form, suffix, _ in consumers.named_in_the_docs("form")} == {*EVERY}


def test_the_original_repository_trains_on(tmp_path):
    pytest.importorskip("torch")
    rows = random_rows(2)
    word, found = consumers.rinongal(write(tmp_path, "rinongal", ".pt", rows))
    assert word == "*" and found.tobytes() == rows.tobytes()


@pytest.mark.parametrize("vectors", [1, 3])
def test_diffusers_loads_what_it_can_load(tmp_path, vectors):
    torch = pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(write_folder(tmp_path / "base"))
    forms = [("diffusers", ".safetensors"), ("diffusers", ".bin"), ("automatic1111", ".pt")]
    for number, (form, suffix) in enumerate(forms):
        rows, token = random_rows(vectors, 32, seed=number), f"<thing-{number}>"
        path = write(tmp_path, form, suffix, rows, token=token, name=token)
        pipeline.load_textual_inversion(str(tmp_path), weight_name=path.name)
        names = [token, *(f"{token}_{place}" for place in range(1, vectors))]
        ids = pipeline.tokenizer.convert_tokens_to_ids(names)
        assert pipeline.tokenizer.unk_token_id not in ids
        found = pipeline.text_encoder.get_input_embeddings().weight[torch.tensor(ids)]
        assert found.detach().numpy().tobytes() == rows.tobytes()


def test_torch_reads_every_kind_of_node(tmp_path):
    torch = pytest.importorskip("torch")
    tree = {"a": None, "b": -7, "c": {"ä": np.arange(6, dtype=np.float16).reshape(2, 3)}, "d": {}}
    path = tmp_path / "a.pt"
    path.write_bytes(torch_bytes(tree | {"e": np.array(3, np.int64)}))
    found = torch.load(path, weights_only=True)
    assert found.pop("e") == 3 and found["c"]["ä"].dtype == torch.float16
    assert (found.pop("c")["ä"].numpy() == tree.pop("c")["ä"]).all() and found == tree
    with pytest.raises(TypeError, match="set"):
        torch_bytes({"a": set()})


def test_the_pickle_is_the_one_torch_itself_writes(tmp_path):
    """The same names are called as in a file that torch made, and no other."""
    torch = pytest.importorskip("torch")
    import pickletools
    import zipfile

    def names(path):
        with zipfile.ZipFile(path) as archive:
            content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        return {argument for opcode, argument, _ in pickletools.genops(content) if opcode.name == "GLOBAL"}

    weight = torch.nn.Parameter(torch.ones(1, 4))
    theirs = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": torch.nn.ParameterDict()}
    theirs["string_to_param"]["*"] = weight
    torch.save(theirs, tmp_path / "theirs.pt")
    ours = write(tmp_path, "rinongal", ".pt", np.ones((1, 4), np.float32))
    assert names(ours) <= names(tmp_path / "theirs.pt")


@pytest.mark.parametrize(
    ("name", "asked", "sdxl", "form"),
    [
        ("a.safetensors", None, False, "diffusers"),
        ("a.BIN", None, False, "diffusers"),
        ("a.pt", None, False, "automatic1111"),
        ("a.png", None, False, "automatic1111"),
        ("a.safetensors", None, True, "kohya"),
        ("a.pt", None, True, "kohya"),
        ("a.bin", None, True, "diffusers"),
        ("a.safetensors", "diffusers", True, "diffusers"),
        ("a.pt", "rinongal", False, "rinongal"),
        ("a.safetensors", "onetrainer", True, "onetrainer"),
    ],
)
def test_the_suffix_means_a_form(tmp_path, name, asked, sdxl, form):
    assert form_of(tmp_path / name, asked, sdxl=sdxl) == form


@pytest.mark.parametrize(
    ("name", "asked", "sdxl", "words"),
    [
        ("a.ckpt", None, False, r"ends in .bin, .png, .pt, .safetensors, found '.ckpt'"),
        ("a", None, False, "found ''"),
        ("a.pt", "diffusers", False, r"ends in .safetensors or .bin for diffusers, found '.pt'"),
        ("a.png", "kohya", False, r"ends in .safetensors or .pt for kohya"),
        ("a.png", None, True, "one text encoder.*found those for SDXL.*--to kohya"),
        ("a.pt", "rinongal", True, "one text encoder"),
    ],
)
def test_names_that_fit_no_form(tmp_path, name, asked, sdxl, words):
    with pytest.raises(ConfigError, match=words):
        form_of(tmp_path / name, asked, sdxl=sdxl)


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.pt"
    write_embedding({path: b"one"}, overwrite=False)
    with pytest.raises(OutputError, match="expected a new file.*--overwrite"):
        write_embedding({path: b"two"}, overwrite=False)
    with pytest.raises(OutputError, match="new file"):
        check_new(path, overwrite=False)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OutputError, match="No space left"):
        write_embedding({path: b"two"}, overwrite=True)
    assert path.read_bytes() == b"one" and [entry.name for entry in path.parent.iterdir()] == ["a.pt"]
    monkeypatch.undo()
    write_embedding({path: b"two"}, overwrite=True)
    assert path.read_bytes() == b"two"
    with pytest.raises(OutputError, match="a file that can be written"):
        write_embedding({path / "below": b""}, overwrite=False)


def test_a_caption_leaves_the_middle_of_the_image(tmp_path):
    image = Image.effect_noise((300, 400), 50).convert("RGB")
    made = captioned(image, "a very long title " * 9, "footer")
    assert made.size == image.size
    same = (np.asarray(made) == np.asarray(image)).all(axis=(1, 2))
    assert same[40:-40].all() and not same[:20].any() and not same[-20:].any()
    small = captioned(Image.new("RGB", (64, 64), "red"), "<ruby>", "1 vector")
    assert small.size == (256, 256)


def test_json_of_images_is_what_the_web_ui_writes(tmp_path):
    path = write(tmp_path, "automatic1111", ".png", random_rows(2, 8))
    tree = consumers.webui_text(path)
    assert list(tree) == [
        *("string_to_token", "string_to_param", "name", "step", "sd_checkpoint", "sd_checkpoint_name")
    ]
    assert json.dumps(tree["step"]) == "null" and tree["string_to_param"]["*"].dtype == np.float64
