"""Embedding files of every trainer: each written as its trainer writes it, read back to the same bits."""

import base64
import json
import os
import pickle
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.embedding.read import load_embedding, read_embeddings
from ti_flax.errors import WeightsError

ROWS = np.random.default_rng(0).normal(size=(3, 768)).astype(np.float32)


def safetensors(path, metadata=None, **tensors):
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata=metadata)
    return path


def webui_tree(values):
    """AUTOMATIC1111's dictionary."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": values},
        "name": "old-cat",
        "step": 1500,
        "sd_checkpoint": "e02601f3",
        "sd_checkpoint_name": "v1-5",
    }


def test_diffusers_files(tmp_path):
    for name in ("learned_embeds.safetensors", "learned_embeds.bin"):
        save_learned_embeds(tmp_path / name, "<cat>", ROWS)
        found = load_embedding(tmp_path / name)
        assert (found.kind, found.token) == ("diffusers", "<cat>")
        assert (
            found.rows["text_encoder"].dtype == np.float32
            and found.rows["text_encoder"].tobytes() == ROWS.tobytes()
        )
    flat = load_embedding(safetensors(tmp_path / "flat.safetensors", **{"<cat>": ROWS[0]}))
    assert flat.rows["text_encoder"].shape == (1, 768)


@pytest.mark.parametrize(("key", "kind"), [("emb_params", "kohya"), ("emp_params", "onetrainer")])
def test_files_that_do_not_hold_their_token(tmp_path, key, kind):
    path = safetensors(tmp_path / "a.safetensors", {"modelspec.title": "cat"}, **{key: ROWS})
    found = load_embedding(path)
    assert (found.kind, found.token, found.details) == (kind, None, {"modelspec.title": "cat"})
    assert found.rows["text_encoder"].tobytes() == ROWS.tobytes()


def test_half_precision_becomes_float32(tmp_path):
    found = load_embedding(safetensors(tmp_path / "a.safetensors", emb_params=ROWS.astype(np.float16)))
    np.testing.assert_array_equal(found.rows["text_encoder"], ROWS.astype(np.float16).astype(np.float32))


def test_onetrainers_output_embedding(tmp_path):
    """Its files hold zeros for what the text encoder reads; without them that is what it reads."""
    nothing, path = np.zeros_like(ROWS), tmp_path / "a.safetensors"
    for tensors in ({"emp_params": nothing}, {}):
        found = load_embedding(safetensors(path, emp_params_out=ROWS, **tensors))
        assert (found.kind, found.details) == ("onetrainer", {})
        assert found.rows["text_encoder"].tobytes() == nothing.tobytes()
        assert found.behind["text_encoder"].tobytes() == ROWS.tobytes()
    with pytest.raises(WeightsError, match="as many vectors behind a text encoder as before it, found emp"):
        load_embedding(safetensors(path, emp_params=ROWS, emp_params_out=ROWS[:2]))


def test_torch_files_of_other_trainers(tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.tensor(ROWS))
    torch.save(webui_tree(weight), tmp_path / "webui.pt")
    found = load_embedding(tmp_path / "webui.pt")
    assert (found.kind, found.token) == ("automatic1111", "old-cat")
    assert found.details == {"step": "1500", "sd_checkpoint": "e02601f3", "sd_checkpoint_name": "v1-5"}
    assert found.rows["text_encoder"].tobytes() == ROWS.tobytes()
    tree = {"string_to_token": {"*": torch.tensor(265)}}
    torch.save(tree | {"string_to_param": torch.nn.ParameterDict({"*": weight})}, tmp_path / "first.pt")
    found = load_embedding(tmp_path / "first.pt")
    assert (found.kind, found.token) == ("rinongal", None)
    assert found.rows["text_encoder"].tobytes() == ROWS.tobytes()
    torch.save({"<cat>": torch.tensor(ROWS.T).T}, tmp_path / "strided.bin")
    found = load_embedding(tmp_path / "strided.bin")
    assert (found.kind, found.token) == ("diffusers", "<cat>") and found.rows[
        "text_encoder"
    ].tobytes() == ROWS.tobytes()


def test_a_image_with_the_embedding_as_text(tmp_path):
    tree = webui_tree({"TORCHTENSOR": ROWS.tolist()})
    text = PngImagePlugin.PngInfo()
    text.add_text("sd-ti-embedding", base64.b64encode(json.dumps(tree).encode()).decode())
    Image.new("RGB", (64, 64), "red").save(tmp_path / "cat.png", pnginfo=text)
    found = load_embedding(tmp_path / "cat.png")
    assert (found.kind, found.token, found.details["step"]) == ("automatic1111", "old-cat", "1500")
    np.testing.assert_array_equal(found.rows["text_encoder"], ROWS)


def pattern(count):
    """The Web UI's numbers: s = 1664525 s + 1013904223 mod 2^32 from 0, and of each s % 255 the low half."""
    state, made = np.uint64(0), []
    for _ in range(count):
        state = (np.uint64(1664525) * state + np.uint64(1013904223)) % np.uint64(2**32)
        made.append(int(state % np.uint64(255)) & 15)
    return np.array(made, np.uint8)


def hidden_in_pixels(content, side=96):
    """An image with bytes beside it, as FIELD's description of the format has it."""
    packed = np.frombuffer(zlib.compress(content, 9), np.uint8)
    blocks = []
    for nibbles in (packed & 15, packed >> 4):
        length = len(nibbles) + side - len(nibbles) % side
        length += 3 * side - length % (3 * side)
        block = np.resize(nibbles, length) ^ pattern(length)
        high = (
            np.random.default_rng(0).integers(1, 16, length).astype(np.uint8) << 4
        )  # what is seen: anything
        blocks.append((block | high).reshape(side, -1, 3))
    wall = np.zeros((side, 1, 3), np.uint8)
    middle = np.full((side, side, 3), 0x77, np.uint8)
    whole = np.concatenate([blocks[0], wall, middle, wall, blocks[1]], axis=1)
    return np.pad(whole, ((4, 2), (3, 5), (0, 0)))  # a black border, as some pages add


def test_a_image_with_the_embedding_in_its_pixels(tmp_path):
    tree = webui_tree({"TORCHTENSOR": ROWS[:2].tolist()})
    Image.fromarray(hidden_in_pixels(json.dumps(tree).encode())).save(tmp_path / "cat.png")
    found = load_embedding(tmp_path / "cat.png")
    assert (found.kind, found.token) == ("automatic1111", "old-cat")
    np.testing.assert_array_equal(found.rows["text_encoder"], ROWS[:2])


class Dangerous:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("way", ["zip", "old", "npy", "npy of an older NumPy"])
def test_code_in_any_container_is_refused_unrun(tmp_path, way):
    torch = pytest.importorskip("torch")
    marker, path = tmp_path / "run", tmp_path / "evil.thing"

    class Touches:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    for content in ({"<cat>": Touches()}, {"<cat>": [ROWS, Touches()]}, Touches()):
        if way.startswith("npy"):
            pickled_array(path, content, 2 if "older" in way else 4)
        else:
            torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
        with pytest.raises(WeightsError, match="would call (posix|os).system. Nothing of it was run"):
            load_embedding(path)
    assert not marker.exists()
    if way.startswith("npy"):  # the file does what it says where it is let
        np.load(path, allow_pickle=True)
        assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_in_a_file_is_executed(tmp_path, protocol, capsys):
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"<cat>": Dangerous()}, protocol=protocol))
    with pytest.raises(WeightsError, match="evil.pt: expected"):
        load_embedding(path)
    torch = pytest.importorskip("torch")
    torch.save({"<cat>": Dangerous()}, path)
    with pytest.raises(WeightsError, match="would call (builtins|__builtin__).print.*Nothing of it was run"):
        load_embedding(path)
    assert "executed" not in capsys.readouterr().out


def saved_array(path, content):
    with open(path, "wb") as file:
        np.save(file, content, allow_pickle=True)
    return path


def pickled_array(path, content, protocol):
    """A .npy file as NumPy of other years wrote it, by the pickle protocol of its time."""
    with open(path, "wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(np.array(content, object), file, protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_the_file_of_the_first_flax_script(tmp_path, protocol, dtype):
    values = ROWS[0].astype(dtype)
    path = pickled_array(tmp_path / "learned_embeds.npy", {"<cat>": values}, protocol)
    # As NumPy 1 names it.
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    found = load_embedding(path)
    assert (found.kind, found.token, found.rows["text_encoder"].shape) == ("flax", "<cat>", (1, 768))
    assert found.rows["text_encoder"].tobytes() == values.astype(np.float32).tobytes()


def test_bare_vectors(tmp_path):
    found = load_embedding(saved_array(tmp_path / "rows.npy", ROWS))
    assert (found.kind, found.token) == ("flax", None) and found.rows[
        "text_encoder"
    ].tobytes() == ROWS.tobytes()
    torch = pytest.importorskip("torch")
    torch.save(torch.tensor(ROWS), tmp_path / "rows.pt")
    found = load_embedding(tmp_path / "rows.pt")
    assert (found.kind, found.token) == ("diffusers", None) and found.rows[
        "text_encoder"
    ].tobytes() == ROWS.tobytes()


def test_one_of_several_tokens(tmp_path):
    torch = pytest.importorskip("torch")
    tokens = {f"<{name}>": torch.tensor(ROWS + place) for place, name in enumerate("abcde")}
    torch.save(tokens, tmp_path / "diffusers.bin")
    ids = {token: torch.tensor(place) for place, token in enumerate(tokens)}
    torch.save({"string_to_token": ids, "string_to_param": tokens}, tmp_path / "merged.pt")
    for name in ("diffusers.bin", "merged.pt"):
        assert [found.token for found in read_embeddings(tmp_path / name)] == list(tokens)
        assert load_embedding(tmp_path / name, "<c>").rows["text_encoder"].tobytes() == (ROWS + 2).tobytes()
        with pytest.raises(
            WeightsError, match="one token, found 5, <a>, <b>, <c>, <d> and 1 more. Take one out"
        ):
            load_embedding(tmp_path / name)
        with pytest.raises(WeightsError, match="the token <z>, found 5"):
            load_embedding(tmp_path / name, "<z>")


def test_the_word_of_a_trigger_phrase(tmp_path):
    for phrase, token in [("<cat>", "<cat>"), ("a cat, sitting", None), ("", None)]:
        path = safetensors(tmp_path / "a.safetensors", {"modelspec.trigger_phrase": phrase}, emb_params=ROWS)
        assert load_embedding(path).token == token


def test_what_was_in_the_file_before_it_was_widened(tmp_path):
    for dtype in ("float16", "float32", "float64"):
        path = safetensors(tmp_path / "a.safetensors", emb_params=ROWS.astype(dtype))
        assert load_embedding(path).dtype == dtype


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path, "expected an embedding file, found No such file"),
        (lambda path: write(path, b""), "found an empty file"),
        (lambda path: write(path, b"version https://git-lfs"), "a file that begins with b'version '"),
        (lambda path: safetensors(path, **{"a.weight": ROWS, "b": ROWS}), "found 2 tensors, a.weight, b"),
        (lambda path: safetensors(path, emp_params_out=ROWS, a=ROWS), "found tensors a, emp_params_out"),
        (lambda path: saved_array(path, np.ones((2, 3), np.int64)), r"the array of shape \[2, 3\] int64"),
        (lambda path: saved_array(path, {"<a>": "text"}), "found <a> that is no tensor"),
        (lambda path: saved_array(path, ["a"]), r"found the array of shape \[1\] <U1"),
        (lambda path: saved_array(path, {}), "found a dict"),
        (lambda path: write(path, b"\x93NUMPY\x01\x00 broken"), "a NumPy file"),
        (lambda path: safetensors(path, a=ROWS[None]), r"found a of shape \[1, 3, 768\] float32"),
        (lambda path: safetensors(path, a=np.ones((2, 4), np.int32)), r"found a of shape \[2, 4\] int32"),
        (lambda path: safetensors(path, a=np.float32([[np.nan]])), "a with numbers that are not finite"),
        (lambda path: safetensors(path, a=np.ones((50000, 8), np.float32)), r"of shape \[50000, 8\]"),
        (lambda path: write(path, safetensors(path, a=ROWS).read_bytes()[:99]), "a safetensors file"),
        (
            lambda path: (Image.new("RGB", (32, 32), "red").save(path, "PNG"), path)[1],
            "an image that carries",
        ),
        (lambda path: (Image.new("RGB", (32, 32)).save(path, "PNG"), path)[1], "an image that carries none"),
        (lambda path: write(path, b"\x89PNG\r\n\x1a\n broken"), "an image that carries none"),
    ],
)
def test_what_is_no_embedding_is_one_line(tmp_path, make, words):
    path = make(tmp_path / "x.thing")
    with pytest.raises(WeightsError, match=words) as caught:
        load_embedding(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
