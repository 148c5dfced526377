"""Files of torch.save, read without torch and without running what they say."""

import collections
import io
import pickle
import struct
import time
import types
import zipfile

import numpy as np
import pytest

from ti_flax.embedding.learned_embeds import torch_archive
from ti_flax.errors import WeightsError
from ti_flax.models.weights.tensor_files import StoredTensor
from ti_flax.models.weights.torch_files import Empty, named_tensors, read_torch

WAYS = {"zip": {}, "old": {"_use_new_zipfile_serialization": False}}


def written(path, content, way="zip"):
    torch = pytest.importorskip("torch")
    torch.save(content, path, **WAYS[way])
    return path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "kind", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_every_dtype(way, kind, tmp_path):
    torch = pytest.importorskip("torch")
    tensor = (torch.arange(24).reshape(2, 3, 4) % 5).to(getattr(torch, kind))
    file = written(tmp_path / "a.pt", {"x": tensor, "scalar": tensor[1, 2, 3]}, way)
    found = named_tensors(read_torch(file), file)
    assert found["x"].read().dtype.name == kind
    np.testing.assert_array_equal(found["x"].read().astype(np.float32), tensor.float().numpy())
    assert found["scalar"].shape == () and float(found["scalar"].read()) == float(tensor[1, 2, 3])


@pytest.mark.parametrize("way", WAYS)
def test_parts_of_a_storage(way, tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.arange(60.0).reshape(3, 4, 5)
    parts = {
        "transposed": whole.permute(2, 0, 1),
        "slice": whole[1:, ::2, 1:4],
        "repeated": whole[0, 0, :1].expand(7),
        "row": whole[2],
        "nothing": whole[:0],
        "parameter": torch.nn.Parameter(whole[0].T),
    }
    file = written(tmp_path / "a.pt", parts, way)
    found = named_tensors(read_torch(file), file)
    for name, part in parts.items():
        values = found[name].read()
        np.testing.assert_array_equal(values, part.detach().numpy(), err_msg=name)
        assert values.flags.c_contiguous and values.flags.writeable
    for name in ("transposed", "row"):
        np.testing.assert_array_equal(found[name].rows(1, 3).read(), parts[name][1:3].numpy())


@pytest.mark.parametrize("way", WAYS)
def test_what_training_programs_leave_beside_the_tensors(way, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    module = types.ModuleType("pytorch_lightning.callbacks")

    class ModelCheckpoint:
        def __init__(self):
            self.best = 1

        def __setstate__(self, state):
            raise AssertionError("run")

    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = module.__name__, "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint
    monkeypatch.setitem(__import__("sys").modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    weights = torch.nn.Linear(2, 3)
    content = {
        "epoch": 4,
        "callbacks": {ModelCheckpoint: {"best": ModelCheckpoint(), "score": np.float64(2.0)}},
        "optimizer_states": [torch.optim.AdamW(weights.parameters()).state_dict()],
        "names": collections.defaultdict(list, {"a": [1, 2.5, None, True, b"x"]}),
        "sizes": torch.Size([2, 3]),
        "state_dict": weights.state_dict(),
    }
    file = written(tmp_path / "a.ckpt", content, way)
    read = read_torch(file)
    assert read["epoch"] == 4 and read["sizes"].arguments == ((2, 3),)
    assert isinstance(read["names"], Empty)
    found = named_tensors(read, file)
    assert found.keys() == {"weight", "bias"}
    np.testing.assert_array_equal(found["weight"].read(), weights.weight.detach().numpy())


def test_a_parameter_dictionary_keeps_its_state(tmp_path):
    torch = pytest.importorskip("torch")
    content = {"string_to_param": torch.nn.ParameterDict({"x": torch.nn.Parameter(torch.ones(2, 3))})}
    read = read_torch(written(tmp_path / "a.pt", content))["string_to_param"]
    assert read.kind == "torch.nn.modules.container.ParameterDict"
    assert read.state["_parameters"]["x"].shape == (2, 3)


def test_reads_what_this_project_writes(tmp_path):
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "a.bin").write_bytes(torch_archive({"<thing>": rows}))
    np.testing.assert_array_equal(read_torch(tmp_path / "a.bin")["<thing>"].read(), rows)


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path, pickled, *, compression=zipfile.ZIP_STORED, **entries):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in entries.items():
            file.writestr(f"archive/{name}", content)
    return path


def touch(path):
    open(path, "w").close()


def hostile(marker):
    import os
    import subprocess

    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "eval": Calls(eval, f"open({str(marker)!r}, 'w')"),
        "getattr": Calls(getattr, Calls(__import__, "os"), "getcwd"),
        "subprocess": Calls(subprocess.Popen, ["touch", str(marker)]),
        "in a list": [1, {"state_dict": Calls(os.system, f"touch {marker}")}],
        "opened": Calls(open, str(marker), "w"),
        "torch.load": Calls(__import__("functools").partial, touch, str(marker)),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "kind", ["os.system", "eval", "getattr", "subprocess", "in a list", "opened", "torch.load"]
)
def test_a_pickle_that_runs_something_is_refused_unrun(kind, protocol, tmp_path):
    marker = tmp_path / "marker"
    pickled = pickle.dumps(hostile(marker)[kind], protocol)
    bare = tmp_path / "bare.ckpt"
    bare.write_bytes(pickled)
    old = tmp_path / "old.ckpt"
    header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    old.write_bytes(b"".join(pickle.dumps(part, 2) for part in header) + pickled)
    files = [archive(tmp_path / "zip.ckpt", pickled), old] + ([bare] if protocol else [])
    for file in files:
        with pytest.raises(
            WeightsError, match="found a pickle that would call .* Nothing of it was run"
        ) as caught:
            read_torch(file)
        assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    assert not marker.exists()


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
)


def tensor_pickle(*, offset=b"K\x00", shape=b"K\x02\x85", strides=b"K\x01\x85", storage=b"K\x02"):
    identifier = b"X\x03\x00\x00\x00cpu" + storage + b"tQ"
    return b"\x80\x02}X\x01\x00\x00\x00x" + TENSOR + identifier + offset + shape + strides + b"\x89)tRs."


def test_the_hand_made_pickle_is_a_tensor(tmp_path):
    file = archive(tmp_path / "a.pt", tensor_pickle(), **{"data/0": np.float32([1, 2]).tobytes()})
    np.testing.assert_array_equal(read_torch(file)["x"].read(), [1, 2])


@pytest.mark.parametrize(
    "pickled",
    [
        tensor_pickle(shape=b"K\x03\x85"),
        tensor_pickle(offset=b"K\x01"),
        tensor_pickle(strides=b"K\x02\x85"),
        tensor_pickle(strides=b"J\xff\xff\xff\xff\x85"),
        tensor_pickle(offset=b"J\xff\xff\xff\xff"),
        tensor_pickle(shape=b"X\x01\x00\x00\x00a\x85"),
        tensor_pickle()[:-1],
        tensor_pickle().replace(b"storage", b"stirage"),
        b"\x80\x02K\x01)R.",
        b"\x80\x02K\x01.",
        b"\x80\x02(((.",
        b"\x80\x02}K\x01a.",
        b"\x80\x02h\x07.",
        b"",
        b"\xff\xff",
    ],
)
def test_pickles_that_make_no_sense(pickled, tmp_path):
    file = archive(tmp_path / "a.pt", pickled, **{"data/0": np.float32([1, 2]).tobytes()})
    with pytest.raises(WeightsError, match=r"a.pt: expected a PyTorch file") as caught:
        named_tensors(read_torch(file), file)
    assert "\n" not in str(caught.value)


def words(*texts):
    return b"".join(b"X" + struct.pack("<I", len(text)) + text.encode() for text in texts)


LINEAR = b"ctorch.nn\nLinear\n"
ONE_TENSOR = tensor_pickle()[len(b"\x80\x02}X\x01\x00\x00\x00x") : -len(b"s.")]
STORAGE = TENSOR[TENSOR.index(b"((") + 1 :] + words("cpu") + b"K\x02tQ"
TWICE_60_TIMES = b"K\x00K\x00\x86" + b"q\x00h\x00\x86" * 60
# Of one hash, since Python's is the remainder of 2^61 - 1.
ALIKE = b"".join(
    b"\x8a\x0a" + (number * (2**61 - 1)).to_bytes(10, "little") + b"K\x01s" for number in range(1, 120_000)
)
# What a pickle could do to the Unpickler or to what is behind it, and what stops it.
ATTACKS = {
    "a tuple of 2^60 as a name": (b"}" + TWICE_60_TIMES + b"K\x01s", "a mapping with a name"),
    "the same in a row of pairs": (b"}(" + TWICE_60_TIMES + b"K\x01u", "a mapping with a name"),
    "the same from pairs": (b"(" + TWICE_60_TIMES + b"K\x01d", "a mapping with a name"),
    "the same kept by number": (TWICE_60_TIMES + b"\x94}h\x01K\x01s", "a mapping with a name"),
    "the same without attributes": (b"}" + TWICE_60_TIMES + b"NbK\x01s", "a mapping with a name"),
    "the same with nothing more": (b"}" + TWICE_60_TIMES + b"(eK\x01s", "a mapping with a name"),
    "the same as a parameter": (
        b"}ctorch._utils\n_rebuild_parameter\n" + TWICE_60_TIMES + b"\x85RK\x01s",
        "a parameter of no tensor",
    ),
    "a tuple 200,000 deep as a name": (b"}K\x00" + b"\x85" * 200_000 + b"K\x01s", "a mapping with a name"),
    "numbers of one hash": (b"}" + ALIKE, "a mapping with a name"),
    "a set": (b"\x8f(K\x01\x90", "the instruction EMPTY_SET"),
    "a value taken away": (b"K\x01K\x020", "the instruction POP"),
    "a registered name": (b"\x82\x01", "the instruction EXT1"),
    "a value kept far away": (b"K\x01r\xff\xff\xff\x7f", "more than 500000 instructions"),
    "a call with many values": (
        b"(" + b"K\x01" * 90_000 + b"tq\x00" + LINEAR + b"q\x01]" + b"h\x01h\x00Ra" * 90_000,
        "more than 500000 instructions",
    ),
    "an object with many values": (
        b"(" + b"K\x01" * 90_000 + b"tq\x00" + LINEAR + b"q\x01]" + b"h\x01h\x00\x81a" * 90_000,
        "more than 500000 instructions",
    ),
    "a reference of many values": (
        b"(" + b"K\x01" * 90_000 + b"tq\x00" + b"]" + b"h\x00Qa" * 90_000,
        "more than 500000 instructions",
    ),
    "many classes": (b"]" + b"".join(b"cldm\n%da\na" % n for n in range(100_000)), "more than 1000 classes"),
    "text of 2^31 bytes": (b"X\xff\xff\xff\x7f", "expected 2147483647 bytes"),
    "a number of 2^31 bytes": (b"\x8b\xff\xff\xff\x7f", "not enough data in stream to read long4"),
    "bytes of 2^40": (b"\x8e\x00\x00\x00\x00\x00\x01\x00\x00", "expected 1099511627776 bytes"),
    "text of 64 MiB": (b"X\x00\x00\x00\x04" + bytes(2**26), "expected 67108864 bytes"),
    "attributes of a function": (TENSOR[: TENSOR.index(b"((")] + b"}b", "attributes of a function"),
    "attributes of a class": (LINEAR + b"}" + words("kind", "x") + b"sb", "__setstate__"),
    "slots of a class": (LINEAR + b"N}" + words("kind", "x") + b"s\x86b", "__setstate__"),
    "attributes of a mapping's class": (b"ccollections\nOrderedDict\n}b", "__setstate__"),
    "the place of a tensor": (
        ONE_TENSOR + b"}" + words("path", "/etc/passwd") + b"sb",
        "attributes of a tensor",
    ),
    "the place of a storage": (STORAGE + b"N}" + words("path", "/etc/passwd") + b"s\x86b", "attribute"),
    "a tensor of a tuple": (
        TENSOR[: TENSOR.index(b"((")] + b"((" + words("/etc/passwd") + b"K\x00K\x00N" + b"tK\x00))tR",
        "not described as one",
    ),
    "the insides of a function": (
        b"\x80\x04" + words("collections", "OrderedDict.__init__") + b"\x93",
        "call",
    ),
    "a shape of 2^60 parts": (
        TENSOR + words("cpu") + b"K\x02tQK\x00" + TWICE_60_TIMES + b"\x85K\x01\x85\x89)tR",
        "a shape that is no list of sizes",
    ),
    "a class of ours": (b"cti_flax.models.weights.torch_files\nStoredTensor\n", "would call ti_flax"),
    "an unpickler": (b"c_pickle\nloads\n", "would call _pickle.loads"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_pickles_do_to_unpicklers(attack, tmp_path):
    instructions, said = ATTACKS[attack]
    pickled = b"\x80\x02" + instructions + b"."
    file = archive(tmp_path / "a.pt", pickled, **{"data/0": np.float32([1, 2]).tobytes()})
    begun = time.process_time()
    with pytest.raises(WeightsError, match=said):
        read_torch(file)
    assert time.process_time() - begun < 10


def test_names_within_classes_are_not_followed(tmp_path):
    """`find_class` of the standard library would follow the dots to a function's globals."""
    pickled = b"\x80\x04" + words("torch.nn", "Module.__init__.__globals__") + b"\x93)R}b."
    made = read_torch(archive(tmp_path / "a.pt", pickled))
    assert isinstance(made, Empty) and made.kind == "torch.nn.Module.__init__.__globals__"
    assert (made.arguments, made.state, Empty.kind) == ((), {}, "")


def test_objects_within_objects_come_to_an_end(tmp_path):
    """Each is the state of the next, 50,000 times, and what is left is forgotten."""
    read = read_torch(
        archive(tmp_path / "a.pt", b"\x80\x02" + (LINEAR + b")R") * 50_000 + b"b" * 49_999 + b".")
    )
    assert isinstance(read.state, Empty)
    del read


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({}, "archive/data/0"),
        ({"data/0": b"12345678", "byteorder": b"big"}, "big-endian"),
        ({"data/0": b"12345678", "compression": zipfile.ZIP_DEFLATED}, "a compressed archive"),
        ({"data/0": b"1234567"}, "shape .2. in 1 numbers"),
    ],
)
def test_archives_that_make_no_sense(entries, words, tmp_path):
    with pytest.raises(WeightsError, match=f"found something else .*{words}"):
        read_torch(archive(tmp_path / "a.pt", tensor_pickle(), **entries))


def test_an_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("readme.txt", "x")
    with pytest.raises(WeightsError, match="an archive without data.pkl"):
        read_torch(tmp_path / "a.zip")


def test_the_stored_tensor_reads_no_more_than_its_part():
    """A strided part ends where its last element does."""
    tensor = StoredTensor(None, 0, (2, 3), np.dtype(np.float32), (10, 2))
    assert tensor.size_in_bytes == (10 + 2 * 2 + 1) * 4


def test_numbers_are_not_read_with_the_names(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    file = written(tmp_path / "a.pt", {"x": torch.zeros(1_000_000)})
    taken = []
    original = io.BufferedReader.read

    class Counting(io.BufferedReader):
        def read(self, size=-1):
            data = original(self, size)
            taken.append(len(data))
            return data

    monkeypatch.setattr("os.fdopen", lambda descriptor, mode: Counting(io.FileIO(descriptor, "r")))
    read_torch(file)
    assert 0 < sum(taken) < 100_000
