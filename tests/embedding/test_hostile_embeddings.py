"""Embedding files of every form that are wrong or mean harm."""

import base64
import contextlib
import io
import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from fuzzed_readers import ROWS, in_archive
from hostile_cases import Case, check, train, written
from made_images import png as png_of_size
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from ti_flax.commands import convert as convert_embeds
from ti_flax.console.program import exit_code
from ti_flax.embedding import contents
from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.embedding.png import hide_bytes
from ti_flax.embedding.read import read_embeddings
from ti_flax.errors import WeightsError


def shown(content, name="a.pt"):
    """What `scripts/convert_embeds.py --inspect` says of a file, or of what a function makes."""

    def run(folder):
        file = folder / name
        content(file) if callable(content) else written(file, content)
        return lambda: exit_code(
            lambda: convert_embeds.run(convert_embeds.parse_arguments(["--inspect", str(file)]))
        )

    return run


def used(*instructions):
    """What is read from a file of torch.save with a pickle of given instructions."""

    def run(folder):
        file = written(folder / "a.pt", in_archive(b"\x80\x02" + b"".join(instructions) + b"."))

        def read():
            (found,) = read_embeddings(file)
            shape = list(found.rows["text_encoder"].shape)
            return f"read: {found.token}, vectors {shape}, details {list(found.details)}"

        return read

    return run


def pickled(*instructions):
    """A file of torch.save with a pickle of given instructions."""
    return shown(in_archive(b"\x80\x02" + b"".join(instructions) + b"."))


def text(word):
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def mapping(*pairs):
    return b"}" + b"".join(text(name) + value + b"s" for name, value in pairs)


def tensor(shape=(2, 32), dtype="Float", key="0"):
    sizes = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in shape) + b"t"
    steps = (
        b"("
        + b"".join(b"J" + struct.pack("<i", int(np.prod(shape[at + 1 :]))) for at in range(len(shape)))
        + b"t"
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + text("storage")
        + f"ctorch\n{dtype}Storage\n".encode()
        + text(key)
        + text("cpu")
        + b"K@tQK\x00"
        + sizes
        + steps
        + b"\x89)tR"
    )


def laughs(depth=60):
    """A tuple of which each is twice in the next."""
    return b"K\x00K\x00\x86" + b"2\x86" * depth


def array(header, data=b""):
    made = f"{header}\n".encode()
    return shown(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(made)) + made + data, "a.npy")


def saved(values):
    made = io.BytesIO()
    np.save(made, values, allow_pickle=True)
    return shown(made.getvalue(), "a.npy")


class Calls:
    def __reduce__(self):
        return os.system, ("touch owned",)


def nested_object(depth=40):
    made = [1.0]
    for _ in range(depth):
        made = [made, made]
    return np.array({"<cat>": made}, dtype=object)


def safetensors(header, data=b""):
    made = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    made += b" " * (-len(made) % 8)
    return shown(struct.pack("<Q", len(made)) + made + data, "a.safetensors")


def tensors(**shapes):
    """A safetensors file of zeros."""
    header, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        size = int(np.prod(shape)) * {"F32": 4, "F64": 8, "I64": 8}[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    return safetensors(header, bytes(end))


def rows_of(number, dtype="F32"):
    values = np.full((1, 8), number, {"F32": "<f4", "F64": "<f8"}[dtype])
    header = {"<cat>": {"dtype": dtype, "shape": [1, 8], "data_offsets": [0, values.nbytes]}}
    return safetensors(header, values.tobytes())


def png(pixels, **texts):
    chunk, made = PngImagePlugin.PngInfo(), io.BytesIO()
    for name, said in texts.items():
        chunk.add_text(name.replace("_", "-"), said)
    Image.fromarray(pixels).save(made, "PNG", pnginfo=chunk)
    return shown(made.getvalue(), "a.png")


CARD = np.full((32, 32, 3), 80, np.uint8)


def told(content):
    """An image of the Web UI with an embedding as text."""
    return png(CARD, sd_ti_embedding=base64.b64encode(content.encode()).decode())


def hidden(content):
    """One with an embedding in its pixels."""
    return png(hide_bytes(CARD, content))


def unfolding(folder):
    """One whose pixels unfold to 24 MiB."""
    packed = zlib.compressobj(9)
    content = b"".join(packed.compress(bytes(2**20)) for _ in range(24)) + packed.flush()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zlib, "compress", lambda data, level: content)
        made = hidden(b"")
    return made(folder)


def large_png(width, height):
    return shown(lambda path: written(path, png_of_size(width, height)), "a.png")


def converted(token):
    """Where the files of a token go: nowhere but to OUT."""

    def run(folder):
        source = written(folder / "in" / "a.npy", b"")
        np.save(source, np.array({token: ROWS}, dtype=object), allow_pickle=True)
        made = folder / "output" / "b.safetensors"

        def convert():
            convert_embeds.run(convert_embeds.parse_arguments([str(source), str(made)]))
            assert [path.name for path in made.parent.iterdir()] == ["b.safetensors"]
            return f"read: {token!r} is in output/b.safetensors alone"

        return convert

    return run


def upon(make):
    """An embedding drawn upon what a function makes."""

    def run(folder):
        save_learned_embeds(folder / "a.bin", "<cat>", ROWS)
        make(folder / "p.png")
        arguments = [folder / "a.bin", folder / "output" / "b.png", "--picture", folder / "p.png"]
        return lambda: exit_code(
            lambda: convert_embeds.run(convert_embeds.parse_arguments([*map(str, arguments)]))
        )

    return run


def described(folder):
    tree = mapping(
        ("string_to_param", mapping(("*", tensor()))), ("sd_checkpoint_name", text("\x1b[2Jowned"))
    )
    file = written(folder / "a.pt", in_archive(b"\x80\x02" + tree + b"."))

    def show():
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            convert_embeds.run(convert_embeds.parse_arguments(["--inspect", str(file)]))
        return "read: " + next(
            " ".join(line.split()) for line in shown.getvalue().splitlines() if "owned" in line
        )

    return show


def wide(option):
    def run(folder):
        save_learned_embeds(folder / "wide.safetensors", "<wide>", np.zeros((1, 768)))
        start = {} if option == "extra_embeds" else {"initializer_token": None}
        return train(folder, **{option: folder / "wide.safetensors"}, **start)

    return run


def beside(content, rows=None):
    """A first half for SDXL, shown, with something at the place of the second."""

    def make(file):
        save_learned_embeds(file, "<cat>", XL if rows is None else rows)
        second = file.with_name("learned_embeds_2.safetensors")
        second.unlink(missing_ok=True)
        content(second) if callable(content) else written(second, content)

    return shown(make, "learned_embeds.safetensors")


def tensors_file(path):
    """A model's file."""
    save_file({f"unet.{n}.weight": np.zeros((2, 2), np.float32) for n in range(5)}, path)


def half(token, vectors):
    """A second half for SDXL."""
    return lambda path: save_learned_embeds(path, token, np.ones((vectors, 1280), np.float32))


def for_sdxl(option):
    """Both halves, given to a run of another base."""

    def run(folder):
        save_learned_embeds(
            folder / "learned_embeds.bin", "<wide>", {name: rows[:1] for name, rows in XL.items()}
        )
        start = {} if option == "extra_embeds" else {"initializer_token": None}
        return train(folder, **{option: folder / "learned_embeds_2.bin"}, **start)

    return run


XL = {"text_encoder": np.ones((2, 768), np.float32), "text_encoder_2": np.ones((2, 1280), np.float32)}

CASES = [
    Case("missing", "a file that is not there", shown(lambda path: None)),
    Case("empty", "a file of zero bytes", shown(b"")),
    Case("folder", "a folder", shown(lambda path: path.mkdir())),
    Case("pipe", "a pipe that nobody writes to", shown(os.mkfifo)),
    Case("device", "a device without an end", shown(lambda path: path.symlink_to("/dev/zero"))),
    Case("loop", "a link to itself", shown(lambda path: path.symlink_to(path))),
    Case("text", "text", shown("a cat")),
    Case("call", "a pickle that would call a program", shown(in_archive(pickle.dumps(Calls(), 2)))),
    Case(
        "call_state",
        "the same in what a class would be given",
        pickled(b"cposix\nsystem\n(", text("true"), b"tR"),
    ),
    Case("call_instance", "the same as an old class", pickled(b"(", text("true"), b"iposix\nsystem\n")),
    Case(
        "call_builtin",
        "a pickle that would evaluate text",
        pickled(b"c__builtin__\neval\n(", text("1"), b"tR"),
    ),
    Case("call_extension", "a pickle that names what the program would know", pickled(b"\x82\x01")),
    Case("laughs_name", "a name of 2^60 parts", pickled(b"}", laughs(), tensor(), b"s")),
    Case("laughs_value", "a detail of 2^60 parts", used(mapping(("<cat>", tensor()), ("step", laughs())))),
    Case("laughs_class", "a class whose name has 2^60 parts", pickled(laughs(), laughs(), b"\x93")),
    Case(
        "laughs_storage",
        "a storage whose name has 2^60 parts",
        pickled(b"(", laughs(), b"ctorch\nFloatStorage\n", laughs(), b"NNtQ"),
    ),
    Case("itself", "a list in itself", pickled(b"]q\x00h\x00a")),
    Case("deep_state", "100,000 lists within one another", pickled(b"]" * 100_000, b"a" * 99_999)),
    Case(
        "copies",
        "a class made 90,000 times of 90,000 numbers",
        pickled(
            b"(",
            b"K\x01" * 90_000,
            b"tq\x00",
            b"ctorch.nn\nLinear\nq\x01",
            b"]",
            b"h\x01h\x00Ra" * 90_000,
        ),
    ),
    Case(
        "step",
        "a step of 5,000 digits",
        used(
            mapping(
                ("string_to_param", mapping(("*", tensor()))),
                ("step", b"\x8b" + struct.pack("<i", 2100) + b"\x7f" * 2100),
            )
        ),
    ),
    Case("many", "2,000 tokens", pickled(b"}", *(text(f"t{n}") + tensor() + b"s" for n in range(2000)))),
    Case("integers", "vectors of whole numbers", pickled(mapping(("<cat>", tensor((1, 32), dtype="Long"))))),
    Case("storage", "vectors beyond their storage", pickled(mapping(("<cat>", tensor((3, 32)))))),
    Case("negative", "a negative shape", pickled(mapping(("<cat>", tensor((-2, 32)))))),
    Case("no_storage", "a storage that is not there", pickled(mapping(("<cat>", tensor(key="../../7"))))),
    Case("no_tokens", "a file of the Web UI without a token", pickled(mapping(("string_to_param", b"}")))),
    Case(
        "token_number",
        "a token that is a number",
        pickled(mapping(("string_to_param", b"}K\x05" + tensor() + b"s"))),
    ),
    Case("nan", "a number that is none", rows_of(np.nan)),
    Case("inf", "an infinite number", rows_of(np.inf)),
    Case("double", "a number too large for float32", rows_of(1e300, "F64")),
    Case("three_axes", "a tensor of three axes", tensors(a=("F32", (1, 2, 3)))),
    Case("no_width", "vectors of no numbers", tensors(a=("F32", (2, 0)))),
    Case("no_vectors", "no vectors", tensors(a=("F32", (0, 8)))),
    Case("model", "a model", tensors(**{f"unet.{n}.weight": ("F32", (2, 2)) for n in range(5)})),
    Case("nothing", "no tensor", safetensors({})),
    Case(
        "metadata",
        "a description that is no text",
        safetensors(
            {"__metadata__": {"a": {"b": 1}}, "a": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}},
            bytes(4),
        ),
    ),
    Case(
        "metadata_list",
        "a description that is a list",
        safetensors(
            {"__metadata__": [1], "a": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}, bytes(4)
        ),
    ),
    Case(
        "numpy_long",
        "an array that says it has 10^12 numbers",
        array("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
    ),
    Case(
        "numpy_negative",
        "a negative shape",
        array("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 8)}"),
    ),
    Case(
        "numpy_code",
        "a program in the place of a header",
        array("__import__('os').system('true')"),
        loose=r"(?<=else \().*(?=\)\. The)",
    ),
    Case("numpy_deep", "brackets within brackets", array("(" * 5000)),
    Case("numpy_open", "a header that stays open", array("{'descr': '")),
    Case("numpy_call", "an object that would call a program", saved(np.array(Calls(), dtype=object))),
    Case("numpy_laughs", "an object of 2^40 parts", saved(nested_object())),
    Case("png_none", "an image without an embedding", png(CARD)),
    Case("png_broken", "a text that is no base64", png(CARD, sd_ti_embedding="!!")),
    Case("png_deep", "100,000 brackets within one another", told("[" * 100_000)),
    Case("png_number", "a number of 400 digits", told(json.dumps({"TORCHTENSOR": [10**400]}))),
    Case("png_ragged", "vectors of different lengths", told(json.dumps({"TORCHTENSOR": [[1, 2], [3]]}))),
    Case(
        "png_infinite",
        "a number without an end",
        told('{"string_to_param": {"*": {"TORCHTENSOR": [[1e999]]}}}'),
    ),
    Case("png_list", "a list in the place of the tokens", told('{"string_to_param": [1]}')),
    Case("png_unfolds", "pixels that unfold to 24 MiB", unfolding),
    Case("png_large", "an image of 8,000 x 8,000", large_png(8000, 8000)),
    Case("png_bomb", "an image of 20,000 x 20,000", large_png(20_000, 20_000)),
    Case("picture_pipe", "a --picture that is a pipe", upon(os.mkfifo)),
    Case(
        "picture_bomb",
        "a --picture of 20,000 x 20,000",
        upon(lambda path: written(path, png_of_size(20_000, 20_000))),
        loose=r"\d{6,}(?= pixels)",
    ),
    Case("terminal", "details with commands for the terminal", described),
    Case(
        "uneven",
        "more vectors for one text encoder than for the other",
        tensors(clip_l=("F32", (2, 768)), clip_g=("F32", (1, 1280))),
    ),
    Case("flux", "an embedding of Flux", tensors(clip_l=("F32", (1, 768)), t5=("F32", (1, 4096)))),
    Case("half_empty", "a second half for SDXL of zero bytes", beside(b"")),
    Case("half_model", "a model at the place of the second half", beside(tensors_file)),
    Case("half_word", "halves of two words", beside(half("<dog>", 2))),
    Case("half_vectors", "halves of different length", beside(half("<cat>", 3))),
    Case("init_sdxl", "init_embeds for SDXL, given to another model", for_sdxl("init_embeds")),
    Case("extra_sdxl", "extra_embeds for SDXL, given to another model", for_sdxl("extra_embeds")),
    Case("init_width", "init_embeds of another model", wide("init_embeds")),
    Case("extra_width", "extra_embeds of another model", wide("extra_embeds")),
    Case("token_outside", "a token that points out of a folder", converted("../../x")),
    Case("token_absolute", "a token that is a path", converted("/etc/passwd")),
    Case("token_nul", "a token with a zero byte", converted("a\0b")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input(case, tmp_path):
    check(case, tmp_path, "test_hostile_embeddings")


def test_nothing_was_called():
    assert not Path("owned").exists()


def test_many_tokens_of_the_same_bytes(tmp_path, monkeypatch):
    """Each would be read into memory of its own."""
    names = (text(name) + tensor() + b"s" for name in ("<a>", "<b>"))
    file = written(tmp_path / "a.pt", in_archive(b"\x80\x02}" + b"".join(names) + b"."))
    assert [found.token for found in read_embeddings(file)] == ["<a>", "<b>"]
    monkeypatch.setattr(contents, "_MOST_NUMBERS", 127)
    with pytest.raises(WeightsError, match="found 2 tensors of 128 numbers"):
        read_embeddings(file)
