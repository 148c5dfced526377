"""Which base an embedding is for, and what is said of one for another base."""

import numpy as np
import pytest
from sdxl_rows import FIRST, SECOND, same, sdxl_rows, write_safetensors

from ti_flax.embedding.bases import base_of, checked_rows, rows_to_draw_with
from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.embedding.read import load_embedding
from ti_flax.errors import WeightsError

SD1, SD2, SDXL = {FIRST: 768}, {FIRST: 1024}, {FIRST: 768, SECOND: 1280}
ROWS = sdxl_rows()


def embedding(folder, kind):
    """An embedding for a base, its path, and what the base is called."""
    path = folder / f"{kind}.safetensors"
    if kind == "sdxl":
        write_safetensors(path, clip_l=ROWS[FIRST], clip_g=ROWS[SECOND])
    elif kind == "clip_l":
        write_safetensors(path, clip_l=ROWS[FIRST])
    elif kind == "clip_g":
        write_safetensors(path, clip_g=ROWS[SECOND])
    else:
        save_learned_embeds(
            path, "<a>", np.ones((2, {"sd1": 768, "sd2": 1024, "tiny": 32}[kind]), np.float32)
        )
    return load_embedding(path), path


BASES = {
    "sd1": "Stable Diffusion 1.x (768 wide)",
    "sd2": "Stable Diffusion 2.x (1024 wide)",
    "sdxl": "SDXL (768 and 1280 wide)",
    "clip_l": "the first text encoder of SDXL alone (768 wide)",
    "clip_g": "the second text encoder of SDXL alone (1280 wide)",
    "tiny": "an unknown base (32 wide)",
}


@pytest.mark.parametrize("kind", BASES)
def test_the_base_of_a_file(tmp_path, kind):
    assert base_of(embedding(tmp_path, kind)[0]) == BASES[kind]


@pytest.mark.parametrize(
    ("kind", "widths"),
    [("sd1", SD1), ("sd2", SD2), ("sdxl", SDXL), ("tiny", {FIRST: 32})],
)
def test_rows_for_their_base(tmp_path, kind, widths):
    file, path = embedding(tmp_path, kind)
    assert checked_rows(file, path, widths) == file.rows
    assert rows_to_draw_with(file, path, widths) == file.rows


@pytest.mark.parametrize(
    ("kind", "widths", "model"),
    [(kind, SD1, "sd1") for kind in BASES if kind != "sd1"]
    + [(kind, SD2, "sd2") for kind in BASES if kind != "sd2"]
    + [(kind, SDXL, "sdxl") for kind in ("sd1", "sd2", "tiny")],
)
def test_another_bases_embedding_is_refused_in_a_line(tmp_path, kind, widths, model):
    file, path = embedding(tmp_path, kind)
    for check in (checked_rows, rows_to_draw_with):
        with pytest.raises(WeightsError) as caught:
            check(file, path, widths)
        remedy = "Use one that was trained on the same base."
        if (kind, model) == ("sd1", "sdxl"):
            remedy = "If it is half of a pair for SDXL, put sd1_2.safetensors beside it."
        expected = f"{path}: expected an embedding for {BASES[model]}, found one for {BASES[kind]}. {remedy}"
        assert str(caught.value) == expected


def test_a_model_of_other_widths(tmp_path):
    file, path = embedding(tmp_path, "sdxl")
    with pytest.raises(WeightsError, match=r"for this model \(32 wide\), found one for SDXL \(768 and 1280"):
        checked_rows(file, path, {FIRST: 32})
    with pytest.raises(WeightsError, match=r"for SDXL \(32 and 48 wide\), found one for SDXL \(768 and 1280"):
        checked_rows(file, path, {FIRST: 32, SECOND: 48})
    for widths in ({FIRST: 768, SECOND: 48}, {FIRST: 32, SECOND: 1280}):
        with pytest.raises(WeightsError, match=r"found one for SDXL \(768 and 1280"):
            checked_rows(file, path, widths)


@pytest.mark.parametrize(
    ("kind", "there", "other"), [("clip_l", "first", "second"), ("clip_g", "second", "first")]
)
def test_one_text_encoder_alone_does_for_images_but_not_for_training(tmp_path, capsys, kind, there, other):
    file, path = embedding(tmp_path, kind)
    with pytest.raises(
        WeightsError, match=f"vectors for both text encoders of SDXL, found those of the {there} alone. Use a"
    ):
        checked_rows(file, path, SDXL)
    assert same(checked_rows(file, path, SDXL, partial=True), file.rows)
    empty = {name: np.zeros((3, width), np.float32) for name, width in SDXL.items()}
    assert same(rows_to_draw_with(file, path, SDXL), empty | file.rows)
    assert f"note: {path} has vectors for the {there} text encoder alone: the {other} reads" in (
        "".join(capsys.readouterr())
    )


def test_a_second_half_alone_names_the_first(tmp_path):
    save_learned_embeds(tmp_path / "learned_embeds.safetensors", "<a>", ROWS)
    (tmp_path / "learned_embeds.safetensors").unlink()
    path = tmp_path / "learned_embeds_2.safetensors"
    with pytest.raises(WeightsError, match="put learned_embeds.safetensors beside it"):
        checked_rows(load_embedding(path), path, SDXL)


def test_a_folder_with_half_of_a_pair_names_the_other_half(tmp_path):
    save_learned_embeds(tmp_path / "learned_embeds.bin", "<a>", ROWS[FIRST])
    with pytest.raises(WeightsError, match="put learned_embeds_2.bin beside it"):
        checked_rows(load_embedding(tmp_path), tmp_path, SDXL)
