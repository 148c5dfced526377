"""Files for SDXL as they are written, read by this project and by the programs that they are for."""

import json
import os
import re
import struct
from pathlib import Path

import embedding_consumers as consumers
import numpy as np
import pytest
from clip_tokenizer import write_tokenizer
from sdxl_rows import FIRST, SECOND, same, sdxl_rows, write_pair

from ti_flax.embedding.contents import read_file
from ti_flax.embedding.formats import FORMS, Embedding, embedding_files, write_embedding
from ti_flax.embedding.learned_embeds import (
    add_learned_embeds,
    learned_embeds_files,
    save_learned_embeds,
    write_learned_embeds,
)
from ti_flax.embedding.read import load_embedding
from ti_flax.errors import OutputError, TokenError

ROWS = sdxl_rows()
EVERY = [
    (form, suffix)
    for form, suffixes in FORMS.items()
    for suffix in suffixes
    if form != "rinongal" and suffix != ".png"
]
PROGRAMS = {
    "the Web UI": consumers.webui_sdxl,
    "ComfyUI": consumers.comfy_sdxl,
    "kohya": lambda path: [consumers.kohya_sdxl(path), consumers.kohya_sdxl_images(path)][0],
    "InvokeAI": consumers.invoke_sdxl,
    "OneTrainer": consumers.onetrainer_sdxl,
}


def write(folder, form, suffix, rows, dtype="float32", **more):
    rows = {name: values.astype(dtype) for name, values in rows.items()}
    made = Embedding(**({"token": "<my-cat>", "name": "<my-cat>", "rows": rows, "sdxl": True} | more))
    path = folder / f"{form}{suffix}"
    write_embedding(embedding_files(made, form, path), overwrite=False)
    return path


@pytest.mark.parametrize(("form", "suffix"), EVERY)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("vectors", [1, 4])
def test_every_form_comes_back_with_its_bits(tmp_path, form, suffix, dtype, vectors):
    rows = sdxl_rows(vectors)
    path = write(tmp_path, form, suffix, rows, dtype)
    found = load_embedding(path)
    assert same(found.rows, {name: values.astype(dtype) for name, values in rows.items()})
    assert (found.kind, found.dtype) == ("diffusers" if form == "diffusers" else "sdxl", dtype)
    names = [path.name] + ([f"{form}_2{suffix}"] if form == "diffusers" else [])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("encoder", [FIRST, SECOND])
def test_one_text_encoder_stays_one(tmp_path, encoder):
    rows = {encoder: ROWS[encoder]}
    for form, suffix in EVERY:
        found = load_embedding(write(tmp_path, form, suffix, rows))
        assert same(found.rows, rows)
        assert found.is_sdxl == (form != "diffusers" or encoder == SECOND)
    assert same(consumers.comfy_sdxl(tmp_path / "kohya.safetensors"), rows)


def test_what_the_header_says_is_kohyas(tmp_path):
    path = write(tmp_path, "kohya", ".safetensors", ROWS, details={"modelspec.author": "me"})
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert json.loads(content[8 : 8 + length])["__metadata__"] == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/textual-inversion",
        "modelspec.resolution": "1024x1024",
        "modelspec.title": "<my-cat>",
        "modelspec.trigger_phrase": "<my-cat>",
        "modelspec.author": "me",
    }


@pytest.mark.parametrize(("form", "suffix", "readers"), list(consumers.named_in_the_docs("form for SDXL")))
def test_who_reads_a_form_is_as_the_docs_say(tmp_path, form, suffix, readers):
    pytest.importorskip("torch")
    path = write(tmp_path, form, suffix, ROWS)
    assert {*readers} <= {*PROGRAMS, "Forge", "diffusers"}
    for program, read in PROGRAMS.items():
        if program in readers:
            assert same(read(path), ROWS), program
        else:
            with pytest.raises(Exception):  # noqa: B017, PT011  # each refuses in its own way
                assert same(read(path), ROWS)


def test_every_form_is_in_the_docs():
    assert {(form, suffix) for form, suffix, _ in consumers.named_in_the_docs("form for SDXL")} == {*EVERY}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_the_pair_is_what_diffusers_script_writes(tmp_path, suffix):
    torch = pytest.importorskip("torch")
    theirs = tmp_path / "theirs" / f"learned_embeds{suffix}"
    theirs.parent.mkdir()
    write_pair(theirs, "<cat>", ROWS)
    ours = tmp_path / "ours" / f"learned_embeds{suffix}"
    save_learned_embeds(ours, "<cat>", ROWS)
    assert sorted(os.listdir(ours.parent)) == sorted(os.listdir(theirs.parent))
    for name in os.listdir(theirs.parent):
        if suffix == ".safetensors":
            assert (ours.parent / name).read_bytes() == (theirs.parent / name).read_bytes()
        else:
            one, other = (torch.load(each.parent / name, weights_only=True) for each in (ours, theirs))
            assert [*one] == [*other] == ["<cat>"] and torch.equal(one["<cat>"], other["<cat>"])


@pytest.mark.parametrize("token", ["<my-cat>", "<learned_embeds>"])
def test_a_folder_gets_every_file_and_the_mark_of_a_finished_run_last(tmp_path, monkeypatch, token):
    replaced, replace = [], os.replace

    def noted(source, target):
        replace(source, target)
        replaced.append(Path(target).name)

    monkeypatch.setattr("os.replace", noted)
    write_learned_embeds(tmp_path, {token: ROWS})
    assert tuple(replaced) == learned_embeds_files([token], sdxl=True)
    assert len({*replaced}) == 5 and replaced[-1] == "learned_embeds.safetensors"
    assert sorted(os.listdir(tmp_path)) == sorted(replaced)
    for name in replaced:
        found = load_embedding(tmp_path / name)
        assert same(found.rows, ROWS) and found.token == token
    word = tmp_path / replaced[2]
    assert word.stem == {"<my-cat>": "my-cat"}.get(token, "word-learned_embeds")
    pytest.importorskip("torch")
    for program, read in PROGRAMS.items():
        assert same(read(word), ROWS), program


def test_what_a_run_says_of_its_rows_is_in_every_file_that_has_room_for_it(tmp_path):
    said = {"step": "9", "validation_loss": "0.1"}
    write_learned_embeds(tmp_path, {"<cat>": ROWS}, details=said)
    for name in learned_embeds_files(["<cat>"], sdxl=True):
        details = read_file(tmp_path / name)[0].details
        expected = said if name.endswith(".safetensors") else {}
        assert {key: details[key] for key in said if key in details} == expected, name


def test_a_folder_for_one_text_encoder_is_as_it_was(tmp_path):
    for number, rows in enumerate((ROWS[FIRST], {FIRST: ROWS[FIRST]})):
        folder = tmp_path / str(number)
        write_learned_embeds(folder, {"<my-cat>": rows})
        assert sorted(os.listdir(folder)) == [*learned_embeds_files(["<my-cat>"], sdxl=False)]
        assert same(load_embedding(folder).rows, {FIRST: ROWS[FIRST]})


@pytest.mark.parametrize("after", range(5))
def test_a_full_disk_leaves_whole_files_alone(tmp_path, monkeypatch, after):
    names, replace = learned_embeds_files(["<cat>"], sdxl=True), os.replace

    def full(source, target):
        if Path(target).name == names[after]:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match=f"{re.escape(names[after])}: expected a place to write to"):
        write_learned_embeds(tmp_path, {"<cat>": ROWS})
    assert sorted(os.listdir(tmp_path)) == sorted(names[:after])
    monkeypatch.undo()
    write_learned_embeds(tmp_path, {"<cat>": ROWS})
    assert all(same(load_embedding(tmp_path / name).rows, ROWS) for name in names)


def test_neither_half_is_written_where_one_is_there(tmp_path):
    (tmp_path / "diffusers_2.bin").write_bytes(b"mine")
    with pytest.raises(OutputError, match="diffusers_2.bin: expected a new file"):
        write(tmp_path, "diffusers", ".bin", ROWS)
    assert os.listdir(tmp_path) == ["diffusers_2.bin"]


def tiny_pipeline(folder):
    """StableDiffusionXLPipeline with text encoders of random numbers, and no part that draws."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    vocabulary = write_tokenizer(folder, words="cat dog", pad_token="!")
    shape = {"vocab_size": len(vocabulary), "num_hidden_layers": 2, "num_attention_heads": 4}
    first = CLIPTextConfig(**shape, hidden_size=32, intermediate_size=64)
    second = CLIPTextConfig(**shape, hidden_size=48, intermediate_size=64, projection_dim=48)
    return StableDiffusionXLPipeline(
        vae=None,
        unet=None,
        text_encoder=CLIPTextModel(first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=CLIPTokenizer.from_pretrained(folder),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder),
        scheduler=EulerDiscreteScheduler(),
    )


@pytest.mark.parametrize("vectors", [1, 4])
def test_diffusers_loads_both_files(tmp_path, vectors):
    torch = pytest.importorskip("torch")
    pipeline = tiny_pipeline(tmp_path / "tokenizer")
    for suffix in (".safetensors", ".bin"):
        rows, token = sdxl_rows(vectors, (32, 48), seed=len(suffix)), f"<cat-{len(suffix)}>"
        write_learned_embeds(tmp_path, {token: rows})
        for name, encoder, tokenizer in (
            ("learned_embeds", pipeline.text_encoder, pipeline.tokenizer),
            ("learned_embeds_2", pipeline.text_encoder_2, pipeline.tokenizer_2),
        ):
            pipeline.load_textual_inversion(
                str(tmp_path), weight_name=f"{name}{suffix}", text_encoder=encoder, tokenizer=tokenizer
            )
        names = [token, *(f"{token}_{place}" for place in range(1, vectors))]
        for encoder, tokenizer, expected in (
            (pipeline.text_encoder, pipeline.tokenizer, rows[FIRST]),
            (pipeline.text_encoder_2, pipeline.tokenizer_2, rows[SECOND]),
        ):
            ids = tokenizer.convert_tokens_to_ids(names)
            assert tokenizer.unk_token_id not in ids
            found = encoder.get_input_embeddings().weight[torch.tensor(ids)]
            assert found.detach().numpy().tobytes() == expected.tobytes()


def test_words_and_rows_of_both_text_encoders_are_added(tmp_path, capsys):
    pytest.importorskip("transformers")
    from transformers import CLIPTokenizer

    write_tokenizer(tmp_path / "tokenizer", words="cat dog", pad_token="!")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    before = len(tokenizer)
    write_learned_embeds(tmp_path, {"<cat>": ROWS})
    widths = {FIRST: 768, SECOND: 1280}
    assert same(add_learned_embeds(tokenizer, tmp_path, widths=widths), ROWS)
    ids = tokenizer.convert_tokens_to_ids(["<cat>", "<cat>_1", "<cat>_2"])
    assert ids == [before, before + 1, before + 2]
    with pytest.raises(TokenError, match="'<cat>' to be new to the tokenizer"):
        add_learned_embeds(tokenizer, tmp_path, widths=widths)
    alone = write(tmp_path, "kohya", ".safetensors", {SECOND: ROWS[SECOND]}, token="<dog>")
    rows = add_learned_embeds(tokenizer, alone, widths=widths)
    assert same(rows, {FIRST: np.zeros((3, 768), np.float32), SECOND: ROWS[SECOND]})
    assert "the first reads nothing in the place of the word" in "".join(capsys.readouterr())
