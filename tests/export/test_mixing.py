"""The word between two embedding files, in every form, and what has no word between it."""

import numpy as np
import pytest
from sdxl_rows import FIRST, SECOND, same, sdxl_rows, write_safetensors

from ti_flax.commands import convert as convert_embeds
from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.embedding.mixing import slerp
from ti_flax.embedding.read import load_embedding
from ti_flax.errors import TiFlaxError

CAT, DOG = (np.random.default_rng(seed).normal(size=(2, 768)).astype(np.float32) for seed in (0, 1))
DOG *= 3
XL_CAT, XL_DOG = sdxl_rows(2, seed=2), sdxl_rows(2, seed=3)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_learned_embeds(tmp_path / "cat.safetensors", "<cat>", CAT)
    save_learned_embeds(tmp_path / "dog.bin", "<dog>", DOG)
    write_safetensors(tmp_path / "xl-cat.safetensors", clip_l=XL_CAT[FIRST], clip_g=XL_CAT[SECOND])
    save_learned_embeds(tmp_path / "learned_embeds.bin", "<xl>", XL_DOG[FIRST])
    save_learned_embeds(tmp_path / "learned_embeds_2.bin", "<xl>", XL_DOG[SECOND])
    return tmp_path


def run(capsys, *arguments):
    convert_embeds.run(convert_embeds.parse_arguments([str(argument) for argument in arguments]))
    return capsys.readouterr().out.strip()


def between(one, other, weight):
    """By angles: of the plane of two rows, turned from the first by a share of the angle between them."""
    found = []
    for a, b in zip(one.astype(np.float64), other.astype(np.float64), strict=True):
        u, v = a / np.linalg.norm(a), b / np.linalg.norm(b)
        across = v - (u @ v) * u
        across /= np.linalg.norm(across)
        turned = weight * np.arccos(u @ v)
        norm = (1 - weight) * np.linalg.norm(a) + weight * np.linalg.norm(b)
        found.append(norm * (np.cos(turned) * u + np.sin(turned) * across))
    return np.array(found)


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_rows_lie_on_the_great_circle_with_a_norm_between(weight):
    found = slerp(CAT, DOG, weight)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, between(CAT, DOG, weight), atol=1e-5)


def test_rows_of_one_direction_differ_in_norm_alone():
    near = CAT + np.float32(1e-6)
    np.testing.assert_allclose(slerp(CAT, 3 * CAT, 0.25), 1.5 * CAT, rtol=1e-6)
    np.testing.assert_allclose(slerp(CAT, near, 0.5), CAT, atol=2e-6)
    assert not slerp(0 * CAT, 0 * CAT, 0.5).any()


@pytest.mark.parametrize(
    "step",
    ["1.bin", "1.safetensors", "1.pt", "1.png", "1.pt --to rinongal", "1.pt --to kohya"]
    + [f"1.safetensors --to {form}" for form in ("automatic1111", "kohya", "invoke", "onetrainer")],
)
def test_every_form_holds_the_word_between_and_the_ends_keep_their_bits(place, capsys, step):
    target, *flags = step.split()
    for weight, rows in ((0, CAT), (0.3, slerp(CAT, DOG, 0.3)), (1, DOG)):
        run(capsys, "--mix", "cat.safetensors", "dog.bin", weight, target, *flags, "--overwrite")
        assert load_embedding(place / target).rows[FIRST].tobytes() == rows.tobytes()


@pytest.mark.parametrize(
    "step",
    ["xl/1.bin", "xl/1.safetensors --to diffusers", "1.safetensors", "1.pt", "1.pt --to automatic1111"]
    + [f"1.safetensors --to {form}" for form in ("automatic1111", "invoke", "onetrainer")],
)
def test_both_text_encoders_of_sdxl_are_mixed(place, capsys, step):
    """From one file and from diffusers' pair, of which either stands for both."""
    target, *flags = step.split()
    for weight, given in ((0, "learned_embeds.bin"), (0.7, "learned_embeds_2.bin"), (1, ".")):
        run(capsys, "--mix", "xl-cat.safetensors", given, weight, target, *flags, "--overwrite")
        rows = {encoder: slerp(XL_CAT[encoder], XL_DOG[encoder], weight) for encoder in XL_CAT}
        assert same(load_embedding(place / target).rows, rows)
    assert same(load_embedding(place / target).rows, XL_DOG)


def test_what_was_written_is_said_and_the_word_is_the_one_given_or_the_files_name(place, capsys):
    mixed = ("--mix", "cat.safetensors", "dog.bin", "0.50")
    said = run(capsys, *mixed, "mule.safetensors", "--token", "<mule>")
    assert said == (
        "mule.safetensors: diffusers form, token <mule>, 2 vectors of 768 numbers in float32, 0.5 of the way "
        "from cat.safetensors to dog.bin. The word in prompts is <mule>."
    )
    said = run(capsys, "hinny.bin", *mixed, "--dtype", "float16")
    assert said.startswith("hinny.bin: diffusers form, token hinny (the file's name, as no --token is given)")
    assert load_embedding(place / "hinny.bin").token == "hinny"


def test_what_both_files_say_is_kept_but_not_what_is_true_of_one_alone(place, capsys):
    for name, author, rows in (("a", "me", CAT), ("b", "you", DOG)):
        said = {"modelspec.author": author, "modelspec.license": "mit", "step": "500"}
        write_safetensors(place / f"{name}.safetensors", said, emb_params=rows)
    run(capsys, "--mix", "a.safetensors", "b.safetensors", 0.5, "c.safetensors", "--to", "kohya")
    details = load_embedding(place / "c.safetensors").details
    assert details["modelspec.license"] == "mit" and details["modelspec.trigger_phrase"] == "c"
    assert "modelspec.author" not in details and "step" not in details


def test_vectors_behind_the_text_encoder_are_mixed_where_both_have_them(place, capsys):
    write_safetensors(place / "one.safetensors", emp_params=CAT, emp_params_out=DOG)
    write_safetensors(place / "two.safetensors", emp_params=DOG, emp_params_out=CAT)
    pair = ("--mix", "one.safetensors", "two.safetensors", 0.25)
    run(capsys, *pair, "mixed.safetensors", "--to", "onetrainer")
    found = load_embedding(place / "mixed.safetensors")
    np.testing.assert_array_equal(found.rows[FIRST], slerp(CAT, DOG, 0.25))
    np.testing.assert_array_equal(found.behind[FIRST], slerp(DOG, CAT, 0.25))
    assert "without those that go behind the text encoder, 0.25 of the way" in run(capsys, *pair, "a.bin")


def test_vectors_behind_the_text_encoder_of_one_alone_are_refused_between_the_two(place, capsys):
    write_safetensors(place / "one.safetensors", emp_params=DOG, emp_params_out=DOG)
    for pair in (("cat.safetensors", "one.safetensors"), ("one.safetensors", "cat.safetensors")):
        with pytest.raises(
            TiFlaxError, match="^cat.safetensors: expected vectors that go behind the text enc"
        ):
            run(capsys, "--mix", *pair, 0.5, "a.bin")
    run(capsys, "--mix", "cat.safetensors", "one.safetensors", 1, "b.safetensors", "--to", "onetrainer")
    assert load_embedding(place / "b.safetensors").behind[FIRST].tobytes() == DOG.tobytes()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["cat.safetensors", "dog.bin", "1.5", "a.bin"], "--mix: expected a weight from 0 .*, found 1.5"),
        (["cat.safetensors", "dog.bin", "-0.5", "a.bin"], "--mix: expected a weight from 0 .*, found -0.5"),
        (["cat.safetensors", "dog.bin", "nan", "a.bin"], "--mix: expected a weight from 0 .*, found nan"),
        (["cat.safetensors", "dog.bin", "half", "a.bin"], "--mix: expected a weight .*, found 'half'"),
        (["cat.safetensors", "dog.bin", "0.5"], "expected A, B, WEIGHT and one file to write, found none"),
        (["cat.safetensors", "dog.bin", "0.5", "a.bin", "b.bin"], "one file to write, found two files"),
        (["cat.safetensors", "none.bin", "0.5", "a.bin"], "none.bin: expected an embedding file"),
        (["cat.safetensors", "dog.bin", "0.5", "cat.safetensors"], "cat.safetensors: expected a new file"),
        (["cat.safetensors", "one.bin", "0", "a.bin"], r"one.bin: expected as many .* \(2\), found 1"),
        (["cat.safetensors", "wide.bin", "1", "a.bin"], r"wide.bin: .*1.x \(768 wide\), as cat.* 2.x \(1024"),
        (["cat.safetensors", ".", "0.5", "a.bin"], r"expected an embedding for .*1.x .*, found one for SDXL"),
        (["xl-cat.safetensors", "half.safetensors", "0.5", "a.pt"], "the first text encoder of SDXL alone"),
        (
            ["cat.safetensors", "opposite.bin", "0.5", "a.bin"],
            "cat.safetensors and opposite.bin: expected vectors with a direction between them, found "
            "opposite directions at vector 2 of text_encoder. Weights 0 and 1 give the words themselves.",
        ),
        (["zero.bin", "cat.safetensors", "0.5", "a.bin"], "found one of zeros in zero.bin at vector 2"),
        (["xl-cat.safetensors", ".", "0.5", "a.png"], "which is all this form holds, found those for SDXL"),
        (["two.safetensors", "dog.bin", "0.5", "a.bin"], "two.safetensors: expected one token, found 2"),
        (["cat.safetensors", "dog.bin", "0.5", "a.bin", "--variant", "x"], "to be given with --inspect"),
        (["cat.safetensors", "dog.bin", "0.5", "--inspect", "dog.bin"], "--mix: .* given without --inspect"),
    ],
)
def test_mistakes_are_one_line(place, capsys, flags, words):
    save_learned_embeds(place / "one.bin", "<x>", CAT[:1])
    save_learned_embeds(place / "wide.bin", "<x>", np.ones((2, 1024), np.float32))
    save_learned_embeds(place / "opposite.bin", "<x>", CAT * np.float32([[2], [-3]]))
    save_learned_embeds(place / "zero.bin", "<x>", CAT * np.float32([[1], [0]]))
    write_safetensors(place / "half.safetensors", clip_l=CAT)
    write_safetensors(place / "two.safetensors", **{"<a>": CAT, "<b>": DOG})
    with pytest.raises(TiFlaxError, match=words) as caught:
        run(capsys, "--mix", *flags)
    assert "\n" not in str(caught.value) and not (place / "a.bin").exists()
    assert convert_embeds.main(["--mix", *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_opposite_words_have_ends_all_the_same_to_the_sign_of_a_zero(place, capsys):
    opposite = -CAT
    opposite[0, 0] = -0.0
    save_learned_embeds(place / "opposite.bin", "<x>", opposite)
    run(capsys, "--mix", "cat.safetensors", "opposite.bin", 1, "a.bin")
    assert load_embedding(place / "a.bin").rows[FIRST].tobytes() == opposite.tobytes()
