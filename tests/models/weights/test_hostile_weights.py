"""Weights that lie about themselves, are no numbers, or would call a program."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest
from hostile_cases import Case, check, place, train, written

from ti_flax.models.weights.tensor_files import index_safetensors, write_safetensors

FILE = "text_encoder/model.safetensors"
TABLE = "text_model.embeddings.token_embedding.weight"


def holding(content, name=FILE):
    """A run with a model folder in which a file of weights is another, or is what a function makes."""

    def run(folder):
        model = shutil.copytree(place() / "model", folder / "model")
        (model / FILE).unlink()
        content(model / name) if callable(content) else written(model / name, content)
        return train(folder, pretrained_model_name_or_path=model)

    return run


def tensors():
    """The tensors of the tiny text encoder by name."""
    return {name: stored.read() for name, stored in index_safetensors(place() / "model" / FILE).items()}


def weights(change):
    """A run with a text encoder whose tensors a function changes."""

    def run(folder):
        changed = tensors()
        change(changed)
        model = shutil.copytree(place() / "model", folder / "model")
        write_safetensors(model / FILE, changed)
        return train(folder, pretrained_model_name_or_path=model)

    return run


def header(change, *, length=None, encode=json.dumps):
    """A run with a text encoder whose header a function changes, or is said to have another length."""

    def run(folder):
        content = (place() / "model" / FILE).read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        described = json.loads(content[8 : 8 + size])
        made = encode(change(described) or described).encode()
        said = len(made) if length is None else length
        return holding(struct.pack("<Q", said) + made + content[8 + size :])(folder)

    return run


def entry(**changes):
    return header(lambda described: described[TABLE].update(changes))


def value(number):
    def change(changed):
        changed[TABLE] = changed[TABLE].copy()
        changed[TABLE][3, 5] = number

    return weights(change)


def twice(described):
    text = json.dumps(described)
    return text[:-1] + ", " + json.dumps({TABLE: described[TABLE]})[1:]


def overlapping(described):
    for name in described:
        if name not in (TABLE, "__metadata__"):
            begin, end = described[name]["data_offsets"]
            described[name]["data_offsets"] = [0, end - begin]


def msgpack(*parts):
    return holding(b"".join(parts), "text_encoder/flax_model.msgpack")


def array(shape=b"\x91\x02", dtype=b"\xa7float32", data=bytes(8)):
    """A Flax array under the name `a`."""
    body = b"\x93" + shape + dtype + b"\xc4" + bytes([len(data)]) + data
    return b"\x81\xa1a" + b"\xc7" + bytes([len(body)]) + b"\x01" + body


def single(content, name="model.ckpt", **beside):
    """A run on a model of one file."""

    def run(folder):
        model = written(folder / name, content() if callable(content) else content)
        for suffix, text in beside.items():
            written(model.with_suffix(f".{suffix}"), text)
        return train(folder, pretrained_model_name_or_path=model)

    return run


def archive(pickled, *, compression=zipfile.ZIP_STORED, storage=bytes(64), **more):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as opened:
        opened.writestr("m/data.pkl", pickled)
        opened.writestr("m/data/0", storage)
        for name, content in more.items():
            opened.writestr(f"m/{name}", content)
    return made.getvalue()


def encrypted():
    """An archive whose entries say that a password is needed."""
    content = bytearray(archive(pickle.dumps({}, 2)))
    for mark, place_of_flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = 0
        while (start := content.find(mark, start)) >= 0:
            content[start + place_of_flags] |= 1
            start += 4
    return bytes(content)


class Calls:
    def __reduce__(self):
        return os.system, ("touch owned",)


def tensor(shape, strides, name="model.diffusion_model.conv_in.weight"):
    """A pickle of one tensor in a storage of 16 numbers."""
    numbers = [
        b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", each) for each in sizes) + b"t"
        for sizes in (shape, strides)
    ]
    return (
        b"\x80\x02}X" + struct.pack("<I", len(name)) + name.encode() + b"ctorch._utils\n_rebuild_tensor_v2\n("
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x10tQK\x00"
        + numbers[0]
        + numbers[1]
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


def laughing(depth=60):
    """A pickle of a tuple of tuples of tuples, each twice in the next, as a name in a mapping."""
    return b"\x80\x02}K\x00K\x00\x86" + b"2\x86" * depth + b"K\x01s."


CASES = [
    Case("missing", "weights that are not there", holding(lambda path: None)),
    Case("empty", "a file of zero bytes", holding(b"")),
    Case("pipe", "a pipe", holding(os.mkfifo)),
    Case("folder", "a folder", holding(lambda path: path.mkdir())),
    Case("device", "a device without an end", holding(lambda path: path.symlink_to("/dev/zero"))),
    Case(
        "pointer",
        "a Git LFS pointer",
        holding(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"),
    ),
    Case("page", "a web page", holding(b"<!doctype html><title>404</title>")),
    Case(
        "cut",
        "weights that are cut short",
        lambda folder: holding((place() / "model" / FILE).read_bytes()[:-100])(folder),
    ),
    Case("nan", "a number that is none", value(np.nan)),
    Case("inf", "an infinite number", value(np.inf)),
    Case(
        "shape",
        "a table of another shape",
        weights(lambda found: found.update({TABLE: found[TABLE][:, :16]})),
    ),
    Case("lacking", "a missing tensor", weights(lambda found: found.pop(TABLE))),
    Case(
        "left_over", "a tensor too many", weights(lambda found: found.update(extra=np.zeros(3, np.float32)))
    ),
    Case(
        "other_part",
        "the weights of the VAE in place of the text encoder's",
        lambda folder: holding((place() / "model/vae/diffusion_pytorch_model.safetensors").read_bytes())(
            folder
        ),
    ),
    Case("header_2_63", "a header of 2^63 bytes", header(lambda described: None, length=2**63)),
    Case("header_long", "a header longer than the file", header(lambda described: None, length=2**20)),
    Case("header_short", "a header that ends in the middle", header(lambda described: None, length=100)),
    Case(
        "header_deep",
        "100,000 brackets within one another",
        header(lambda described: "[" * 100_000, encode=str),
    ),
    Case("header_list", "a header that is a list", header(lambda described: "[1, 2]", encode=str)),
    Case("header_twice", "a name twice", header(twice, encode=str)),
    Case("overlap", "tensors in the same place", header(overlapping)),
    Case(
        "offsets_beyond",
        "a tensor beyond the end of the file",
        entry(data_offsets=[2**40, 2**40 + 4], shape=[1]),
    ),
    Case("offsets_negative", "a tensor before the beginning", entry(data_offsets=[-8, -4], shape=[1])),
    Case("offsets_back", "a tensor that ends before it begins", entry(data_offsets=[8, 4])),
    Case("offsets_text", "places that are text", entry(data_offsets=["0", "4"])),
    Case("shape_negative", "a negative shape", entry(shape=[-1, -1])),
    Case("shape_huge", "a shape of 2^62 x 0", entry(shape=[2**62, 0], data_offsets=[0, 0])),
    Case("shape_fraction", "a shape of 1.5", entry(shape=[1.5])),
    Case("shape_axes", "a shape of 1,000 axes", entry(shape=[1] * 1000)),
    Case("dtype", "an unknown dtype", entry(dtype="F4")),
    Case("dtype_list", "a dtype that is a list", entry(dtype=["F32"])),
    Case("msgpack_object", "Flax weights of Python objects", msgpack(array(dtype=b"\xa1O"))),
    Case("msgpack_record", "Flax weights of records", msgpack(array(dtype=b"\xa5i4,f4"))),
    Case("msgpack_shape", "a shape of 2^64 - 1", msgpack(array(shape=b"\x91\xcf" + b"\xff" * 8))),
    Case("msgpack_deep", "names within names, 100,000 deep", msgpack(b"\x81\xa1a" * 100_000)),
    Case("msgpack_name", "a name of 4 GiB", msgpack(b"\x81\xdb\xff\xff\xff\xff")),
    Case("msgpack_map", "a map of 4,294,967,295 names", msgpack(b"\xdf\xff\xff\xff\xff")),
    Case("call", "a .ckpt that would call a program", single(lambda: archive(pickle.dumps(Calls(), 2)))),
    Case("call_old", "the same in the older format", single(lambda: pickle.dumps(Calls(), 2))),
    Case(
        "compressed",
        "a .ckpt that unfolds",
        single(lambda: archive(bytes(2**27), compression=zipfile.ZIP_DEFLATED, byteorder=bytes(2**27))),
    ),
    Case("encrypted", "a .ckpt with a password", single(encrypted)),
    Case(
        "no_pickle",
        "a .ckpt without its pickle",
        single(lambda: archive(b"").replace(b"data.pkl", b"data.pk1")),
    ),
    Case("endless", "a pickle of 4,000,000 lists", single(lambda: archive(b"\x80\x02" + b"]" * 4_000_000))),
    Case("laughs", "a name of 2^60 parts", single(lambda: archive(laughing()))),
    Case("unfolding", "one number laid out as 2^40", single(lambda: archive(tensor([2**20, 2**20], [0, 0])))),
    Case("storage", "a tensor larger than its storage", single(lambda: archive(tensor([100], [1])))),
    Case("negative", "a tensor of a negative shape", single(lambda: archive(tensor([-1], [1])))),
    Case("no_model", "a .ckpt of no tensors", single(lambda: archive(pickle.dumps({"epoch": 3}, 2)))),
    Case(
        "levels",
        "a model of 10^12 levels",
        single(lambda: archive(tensor([4], [1], "model.diffusion_model.input_blocks.999999999999.0.weight"))),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input(case, tmp_path):
    check(case, tmp_path, "test_hostile_weights")
