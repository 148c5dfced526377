"""Files of torch.save, read without torch and without running what they say."""

import collections
import io
import pickle
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
    assert read["epoch"] == 4 and read["sizes"] == (2, 3)
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
    (tmp_path / "a.bin").write_bytes(torch_archive("<thing>", rows))
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
