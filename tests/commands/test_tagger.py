"""Tags of a tiny tagger in ONNX: what it is given, which tags count, and what is said of bad ones."""

import builtins
import sys

import numpy as np
import pytest
from PIL import Image

from ti_flax.commands import caption as caption_images
from ti_flax.data.images.tagger import model_input, read_tags
from ti_flax.errors import ConfigError, WeightsError

SIDE = 8
ROWS = [("general", 9), ("explicit", 9), ("blue_sky", 0), ("^_^", 0), ("red_hair", 0), ("alice_(wonder)", 4)]


def write_tagger(folder, rows=ROWS, batch="N", outputs=None):
    """A tagger whose scores are shares of blue, of 1 - blue, of blue, green and red, and of red."""
    from onnx import TensorProto, helper, numpy_helper, save

    folder.mkdir(exist_ok=True)
    lines = ["tag_id,name,category,count", *(f"{n},{name},{kind},9" for n, (name, kind) in enumerate(rows))]
    (folder / "selected_tags.csv").write_text("\n".join(lines) + "\n")
    weights = np.array([[1, -1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1]], np.float32) / 255
    constants = {
        "axes": np.array([1, 2], np.int64),
        "weights": weights,
        "bias": np.array([0, 1, 0, 0, 0, 0], np.float32),
    }
    count = len(ROWS) if outputs is None else outputs
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["input", "axes"], ["colour"], keepdims=0),
            helper.make_node("MatMul", ["colour", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["output"]),
        ],
        "tagger",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, count])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    save(model, str(folder / "model.onnx"))
    return folder


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    return write_tagger(tmp_path_factory.mktemp("taggers") / "tagger")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in {"a": (230, 80, 0), "b": (0, 130, 200)}.items():
        Image.new("RGB", (12, 12), colour).save(folder / f"{name}.png")
    return folder


def run(folder, tagger, *flags):
    caption_images.run(caption_images.parse_arguments([str(folder), "--tagger", str(tagger), *flags]))
    return [(folder / f"{name}.txt").read_text().strip() for name in "ab"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ["alice (wonder), red hair", "blue sky, ^_^"]),
        (["--tag_threshold", "0.3"], ["alice (wonder), red hair, ^_^", "blue sky, ^_^"]),
        (
            ["--character_threshold", "0.95", "--keep_rating"],
            ["red hair, explicit", "blue sky, ^_^, general"],
        ),
        (["--exclude_tags", "red hair, ^_^"], ["alice (wonder)", "blue sky"]),
        (
            ["--prefix", "<x>,", "--replace", "red hair=hair"],
            ["<x>, alice (wonder), hair", "<x>, blue sky, ^_^"],
        ),
    ],
)
def test_tags_are_those_above_the_thresholds_the_likeliest_first(pictures, tagger, flags, expected):
    assert run(pictures, tagger, *flags) == expected


def test_a_model_of_one_image_at_a_time_tags_the_same(pictures, tmp_path):
    assert run(pictures, write_tagger(tmp_path / "one", batch=1)) == [
        "alice (wonder), red hair",
        "blue sky, ^_^",
    ]


def test_captions_that_are_there_stay(pictures, tagger):
    (pictures / "a.txt").write_text("mine")
    assert run(pictures, tagger) == ["mine", "blue sky, ^_^"]
    assert run(pictures, tagger, "--overwrite")[0] == "alice (wonder), red hair"


def test_an_image_is_whole_in_a_white_square_with_blue_first():
    given = model_input(Image.new("RGB", (32, 16), (200, 100, 50)), SIDE)
    assert given.shape == (SIDE, SIDE, 3) and given.dtype == np.float32
    assert (given[0] == 255).all() and (given[-1] == 255).all()
    np.testing.assert_allclose(given[4, :], np.tile([50, 100, 200], (SIDE, 1)), atol=4)  # of the filter


def test_underscores_stay_in_faces_alone(tmp_path):
    names = ["long_hair", "^_^", "(o)_(o)", "o_o", "+_-", "cat_ears_(fake)"]
    write_tagger(tmp_path / "t", [(name, 0) for name in names])
    found = [tag.name for tag in read_tags(tmp_path / "t" / "selected_tags.csv")]
    assert found == ["long hair", "^_^", "(o)_(o)", "o_o", "+_-", "cat ears (fake)"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "model.onnx").write_bytes(b"no model"),
            "model.onnx: expected a tagger in ONNX, found .*[.] Download it again: it may be another file, ",
        ),
        (
            lambda folder: (folder / "model.onnx").unlink(),
            r"^tagger \S*: expected a tagger with model.onnx and selected_tags.csv, found no model.onnx. Put "
            "model.onnx and selected_tags.csv into one folder, as they are in SmilingWolf/wd-vit-tagger-v3",
        ),
        (
            lambda folder: (folder / "selected_tags.csv").unlink(),
            "found no selected_tags.csv. Put model.onnx",
        ),
        (
            lambda folder: (folder / "selected_tags.csv").write_text("a,b\n1,2\n"),
            "the columns name and category",
        ),
        (
            lambda folder: (folder / "selected_tags.csv").write_text("name,category\ncat,zero\n"),
            "csv:2: expected a name, and a category in digits, found 'cat' and 'zero'",
        ),
        (
            lambda folder: (folder / "selected_tags.csv").write_text("name,category\ncat,0\n"),
            "a number for each of the 1 tags of selected_tags.csv",
        ),
    ],
)
def test_a_bad_tagger_is_answered_in_a_line(pictures, tmp_path, spoil, message):
    spoil(write_tagger(tmp_path / "bad"))
    with pytest.raises(WeightsError, match=message) as caught:
        run(pictures, tmp_path / "bad")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tag_threshold", "0.5"], "--tag_threshold requires --tagger"),
        (["--keep_rating"], "--keep_rating requires --tagger"),
        (
            ["--tagger", "any", "--tag_threshold", "35"],
            "--tag_threshold: expected a probability, 0 to 1, found 35",
        ),
    ],
)
def test_mistakes_in_flags_of_tags(pictures, flags, message):
    with pytest.raises(ConfigError, match=message):
        caption_images.run(caption_images.parse_arguments([str(pictures), *flags]))


def test_without_onnxruntime_it_says_what_to_install(pictures, tagger, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *arguments, **named)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    for name in (tagger, "somebody/tagger"):  # which is not downloaded for nothing
        with pytest.raises(
            ConfigError, match="found No module named 'onnxruntime'. Run `pip install onnxruntime`"
        ):
            run(pictures, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "{}/model.onnx",
            "model.onnx: expected a folder with model.onnx and selected_tags.csv, found a file. Give",
        ),
        (
            "taggers/model.onnx",
            "tagger taggers/model.onnx: expected a folder with .*, found no such file. Check",
        ),
        (
            "wd-vit",
            "tagger wd-vit: expected a folder with .* or a Hub repository owner/name, found no such folder",
        ),
        (
            "somebody/tagger",
            "^tagger somebody/tagger: expected the Hugging Face Hub or a downloaded copy, found no .* "
            "Check the network, or give a folder with model.onnx and selected_tags.csv.$",
        ),
    ],
)
def test_a_tagger_that_is_not_there_is_answered_in_a_line(pictures, tagger, name, message):
    with pytest.raises(WeightsError, match=message):
        run(pictures, name.format(tagger))
