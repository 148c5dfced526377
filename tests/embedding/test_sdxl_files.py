"""Files of an embedding for SDXL, as each trainer writes them, read back to the same bits."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sdxl_rows import FIRST, SECOND, same, sdxl_rows, write_pair, write_safetensors

from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.embedding.read import load_embedding, read_embeddings
from ti_flax.errors import WeightsError

ROWS = sdxl_rows()
ONE_FILE = [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")]


@pytest.mark.parametrize("names", ONE_FILE)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_both_text_encoders_in_one_file(tmp_path, names, dtype):
    tensors = {key: rows.astype(dtype) for key, rows in zip(names, ROWS.values(), strict=True)}
    for order in (1, -1):
        path = write_safetensors(tmp_path / f"{order}.safetensors", **dict([*tensors.items()][::order]))
        found = load_embedding(path)
        assert (found.kind, found.token, found.vectors, found.dtype) == ("sdxl", None, 3, dtype)
        assert found.is_sdxl and found.files == (path,)
        assert same(found.rows, {name: rows.astype(dtype) for name, rows in ROWS.items()})


@pytest.mark.parametrize("names", ONE_FILE)
@pytest.mark.parametrize("encoder", [FIRST, SECOND])
def test_one_text_encoder_alone(tmp_path, names, encoder):
    key = names[encoder == SECOND]
    found = load_embedding(write_safetensors(tmp_path / "a.safetensors", **{key: ROWS[encoder]}))
    assert found.kind == "sdxl" and found.is_sdxl and same(found.rows, {encoder: ROWS[encoder]})


def test_a_width_that_only_the_second_has_says_that_it_is_it(tmp_path):
    for key in ("emb_params", "<cat>"):
        found = load_embedding(write_safetensors(tmp_path / "a.safetensors", **{key: ROWS[SECOND]}))
        assert same(found.rows, {SECOND: ROWS[SECOND]}) and found.is_sdxl
    assert not load_embedding(write_safetensors(tmp_path / "b.safetensors", emb_params=ROWS[FIRST])).is_sdxl


def test_kohyas_file_says_its_word(tmp_path):
    said = {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/textual-inversion",
        "modelspec.trigger_phrase": "<cat>",
    }
    both = {"clip_l": ROWS[FIRST], "clip_g": ROWS[SECOND]}
    found = load_embedding(write_safetensors(tmp_path / "a.safetensors", said, **both))
    assert (found.token, found.details) == ("<cat>", said)


def test_onetrainers_file_with_vectors_behind_the_encoders(tmp_path):
    both = {"clip_l": ROWS[FIRST], "clip_g": ROWS[SECOND]}
    behind = {f"{key}_out": -rows for key, rows in both.items()}
    found = load_embedding(write_safetensors(tmp_path / "a.safetensors", **both, **behind))
    assert same(found.rows, ROWS) and found.details == {}
    assert same(found.behind, {encoder: -rows for encoder, rows in ROWS.items()})
    found = load_embedding(write_safetensors(tmp_path / "b.safetensors", clip_g_out=ROWS[SECOND], **both))
    assert same(found.rows, ROWS) and same(found.behind, {SECOND: ROWS[SECOND]})
    said = {
        "mine_out": "x",
        "emp_params_out": "y",
    }  # texts of a header are no vectors, whatever they are called
    found = load_embedding(write_safetensors(tmp_path / "c.safetensors", {"mine_out": "x"}, **both))
    assert found.behind == {} and found.details == {"mine_out": said["mine_out"]}


def test_what_is_of_another_model_or_uneven_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    flux = {"clip_l": ROWS[FIRST], "t5": np.ones((3, 4096), np.float32)}
    with pytest.raises(WeightsError, match="2.x or SDXL, found clip_l with t5, of another model"):
        load_embedding(write_safetensors(path, **flux))
    with pytest.raises(
        WeightsError, match="as many vectors for each text encoder, found clip_l of 3 and clip_g of 2. Take"
    ):
        load_embedding(write_safetensors(path, clip_l=ROWS[FIRST], clip_g=ROWS[SECOND][:2]))


WRITE = """
import sys
from pathlib import Path
from sdxl_rows import sdxl_rows
from ti_flax.embedding.learned_embeds import write_learned_embeds
details = {"step": "9", "validation_loss": "0.1"}
write_learned_embeds(Path(sys.argv[1]), {"<cat>": sdxl_rows()}, details=details)
"""


def test_processes_write_the_same_bytes(tmp_path):
    for name in "01":
        paths = os.pathsep.join(sys.path)
        environment = os.environ | {"PYTHONHASHSEED": name, "PYTHONPATH": paths}
        subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / name)], check=True, env=environment)
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "01")
    assert len(one) == 5 and one == other


NAMES = [
    ("learned_embeds.safetensors", "learned_embeds_2.safetensors"),
    ("learned_embeds.bin", "learned_embeds_2.bin"),
    ("learned_embeds-steps-500.safetensors", "learned_embeds_2-steps-500.safetensors"),
]


@pytest.mark.parametrize(("first", "second"), NAMES)
@pytest.mark.parametrize("vectors", [1, 4])
def test_diffusers_pair_is_one_embedding(tmp_path, first, second, vectors):
    pytest.importorskip("torch")
    rows = sdxl_rows(vectors)
    assert write_pair(tmp_path / first, "<cat>", rows).name == second
    for given in (first, second):
        (found,) = read_embeddings(tmp_path / given)
        assert (found.kind, found.token, found.vectors) == ("diffusers", "<cat>", vectors)
        assert same(found.rows, rows) and found.files == (tmp_path / first, tmp_path / second)


@pytest.mark.parametrize(("first", "second"), NAMES[:2])
def test_a_folder_stands_for_its_learned_embeds(tmp_path, first, second):
    pytest.importorskip("torch")
    write_pair(tmp_path / first, "<cat>", ROWS)
    assert load_embedding(tmp_path).files == (tmp_path / first, tmp_path / second)
    (tmp_path / second).unlink()
    assert same(load_embedding(tmp_path).rows, {FIRST: ROWS[FIRST]})
    (tmp_path / first).unlink()
    with pytest.raises(WeightsError, match="an embedding file, found Is a directory"):
        load_embedding(tmp_path)


def test_halves_alone_are_embeddings_of_one_text_encoder(tmp_path):
    save_learned_embeds(tmp_path / "learned_embeds.bin", "<cat>", ROWS)
    (tmp_path / "learned_embeds.bin").rename(tmp_path / "a.bin")
    assert same(load_embedding(tmp_path / "a.bin").rows, {FIRST: ROWS[FIRST]})
    assert same(load_embedding(tmp_path / "learned_embeds_2.bin").rows, {SECOND: ROWS[SECOND]})


@pytest.mark.parametrize("widths", [(32, 48), (48, 32)])
def test_widths_that_nobody_released_are_joined_by_name(tmp_path, widths):
    rows = sdxl_rows(2, widths)
    save_learned_embeds(tmp_path / "my-cat.safetensors", "<cat>", rows)
    for name in ("my-cat.safetensors", "my-cat_2.safetensors"):
        assert same(load_embedding(tmp_path / name).rows, rows)


@pytest.mark.parametrize(
    ("first", "second"), [(768, 768), (1024, 1280), (1024, 1024), (768, 1024), (768, 48), (32, 1280)]
)
def test_files_of_other_models_side_by_side_are_two(tmp_path, first, second):
    """An SD 1.x user's learned_embeds.safetensors and learned_embeds_2.safetensors go on being two."""
    for name, token, width in (("learned_embeds", "<a>", first), ("learned_embeds_2", "<b>", second)):
        rows = np.full((1, width), 1 + width, np.float32)
        save_learned_embeds(tmp_path / f"{name}.safetensors", token, rows)
    for name, token, width in (("learned_embeds", "<a>", first), ("learned_embeds_2", "<b>", second)):
        found = load_embedding(tmp_path / f"{name}.safetensors")
        ((encoder, rows),) = found.rows.items()
        assert (found.token, rows.shape[1]) == (token, width)
        assert encoder == (SECOND if width == 1280 else FIRST)


def test_halves_of_two_runs_are_refused(tmp_path):
    pytest.importorskip("torch")
    first = tmp_path / "learned_embeds.safetensors"
    second = write_pair(first, "<cat>", ROWS, "<dog>")
    for given in (first, second):
        with pytest.raises(
            WeightsError,
            match="learned_embeds_2.safetensors: expected the second half of learned_embeds.safetensors, the "
            "word <cat> with 3 vectors, found the word <dog> with 3 vectors. Put two halves of one run",
        ):
            load_embedding(given)
    write_pair(first, "<cat>", {FIRST: ROWS[FIRST], SECOND: ROWS[SECOND][:1]})
    with pytest.raises(WeightsError, match="<cat> with 3 vectors, found the word <cat> with 1 vector. "):
        load_embedding(first)


def test_halves_of_two_steps_are_refused(tmp_path):
    path = tmp_path / "learned_embeds-best.safetensors"
    save_learned_embeds(path, "<cat>", ROWS, details={"step": "500"})
    assert load_embedding(path).details["step"] == "500"
    newer = tmp_path / "newer" / path.name
    save_learned_embeds(newer, "<cat>", ROWS, details={"step": "600"})
    second = "learned_embeds_2-best.safetensors"
    (newer.parent / second).replace(tmp_path / second)
    with pytest.raises(WeightsError, match="3 vectors of step 500, found .* of step 600"):
        load_embedding(path)


def test_a_damaged_half_is_told_and_another_file_of_its_name_is_not(tmp_path):
    for name in ("learned_embeds", "cat"):
        save_learned_embeds(tmp_path / f"{name}.safetensors", "<cat>", ROWS)
        (tmp_path / f"{name}_2.safetensors").write_bytes(b"no embedding")
    with pytest.raises(WeightsError, match="learned_embeds_2.safetensors: expected an embedding"):
        load_embedding(tmp_path / "learned_embeds.safetensors")
    assert same(load_embedding(tmp_path / "cat.safetensors").rows, {FIRST: ROWS[FIRST]})


def test_several_tokens_or_none_are_no_half(tmp_path):
    pytest.importorskip("torch")
    import torch

    first = tmp_path / "learned_embeds.bin"
    write_pair(first, "<cat>", ROWS)
    torch.save({"<a>": torch.ones(1, 768), "<b>": torch.ones(1, 768)}, first)
    assert [found.token for found in read_embeddings(first)] == ["<a>", "<b>"]
    torch.save(torch.tensor(ROWS[FIRST]), first)
    (found,) = read_embeddings(first)
    assert found.token is None and same(found.rows, {FIRST: ROWS[FIRST]})
