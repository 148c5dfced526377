"""safetensors and Flax msgpack files: read and written as the libraries for them do, and damaged."""

import json
import struct

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from ti_flax.errors import WeightsError
from ti_flax.models.weights import tensor_files

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def tree(dtype):
    rng = np.random.default_rng(0)
    return {
        "conv": {
            "kernel": rng.standard_normal((3, 3, 4, 70)).astype(dtype),
            "bias": np.arange(70).astype(dtype),
        },
        "norm": {"scale": np.array(2.5, dtype)},
    }


def flat(nested):
    return {f"{module}/{name}": leaf for module, leaves in nested.items() for name, leaf in leaves.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_msgpack_is_what_flax_reads(dtype, tmp_path):
    path = tmp_path / "model.msgpack"
    tensor_files.write_msgpack(path, tree(dtype))
    restored = flat(flax.serialization.msgpack_restore(path.read_bytes()))
    assert restored.keys() == flat(tree(dtype)).keys()
    for name, leaf in flat(tree(dtype)).items():
        assert restored[name].dtype == leaf.dtype
        np.testing.assert_array_equal(restored[name], leaf)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_what_flax_writes(dtype, tmp_path):
    path = tmp_path / "model.msgpack"
    path.write_bytes(flax.serialization.msgpack_serialize(tree(dtype)))
    stored = tensor_files.index_msgpack(path)
    assert stored.keys() == flat(tree(dtype)).keys()
    for name, leaf in flat(tree(dtype)).items():
        np.testing.assert_array_equal(stored[name].read(), leaf)


def test_safetensors_is_what_the_library_reads(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {name: np.asarray(leaf).T for name, leaf in flat(tree(np.float32)).items()}
    tensor_files.write_safetensors(path, tensors)
    restored = safetensors.numpy.load_file(path)
    assert restored.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(restored[name], values)
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_reads_safetensors_the_library_writes(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = flat(tree(np.float16)) | {"positions": np.arange(5)}
    safetensors.numpy.save_file(tensors, path)
    stored = tensor_files.index_safetensors(path)
    assert stored.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(stored[name].read(), values)


def test_bfloat16_safetensors_equal_pytorchs(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    values = torch.randn(5, 7, dtype=torch.bfloat16)
    save_file({"weight": values}, tmp_path / "torch.safetensors")
    read = tensor_files.index_safetensors(tmp_path / "torch.safetensors")["weight"].read()
    np.testing.assert_array_equal(read.astype(np.float32), values.float().numpy())
    tensor_files.write_safetensors(tmp_path / "own.safetensors", {"weight": read})
    assert torch.equal(load_file(tmp_path / "own.safetensors")["weight"], values)


def test_safetensors_of_the_same_content_have_the_same_bytes():
    torch = pytest.importorskip("torch")
    import safetensors.torch

    said = {f"modelspec.{number}": f"ключ {number} 🐈" for number in range(9)}
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "half": np.arange(3, dtype=np.float16),
        "<🐈>": np.arange(5, dtype=np.float32),
    }
    content = tensor_files.safetensors_bytes(tensors, said)
    backwards = [dict([*each.items()][::-1]) for each in (tensors, said)]
    assert tensor_files.safetensors_bytes(*backwards) == content
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0 and [*header] == ["__metadata__", "<🐈>", "b", "half"]
    assert [*header["__metadata__"].items()] == sorted(said.items())
    for loaded in (safetensors.numpy.load(content), safetensors.torch.load(content)):
        assert {name: np.asarray(values).tolist() for name, values in loaded.items()} == {
            name: values.tolist() for name, values in tensors.items()
        }
        assert loaded["half"].dtype in (np.float16, torch.float16)
    library = safetensors.numpy.save(
        {name: np.ascontiguousarray(values) for name, values in tensors.items()}, metadata={"a": "b"}
    )
    assert tensor_files.safetensors_bytes(tensors, {"a": "b"}) == library


def damaged_safetensors(kind, content):
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    if kind == "shape":
        header["conv/bias"]["shape"] = [71]
    elif kind == "dtype":
        header["conv/bias"]["dtype"] = "F8_E4M3"
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + content[8 + length :]


@pytest.mark.parametrize("kind", ["shape", "dtype", "cut", "pointer", "empty"])
def test_a_damaged_safetensors_file_is_named(kind, tmp_path):
    path = tmp_path / "model.safetensors"
    tensor_files.write_safetensors(path, flat(tree(np.float32)))
    content = path.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
    other = {"cut": content[:-100], "pointer": pointer, "empty": b""}
    path.write_bytes(other[kind] if kind in other else damaged_safetensors(kind, content))
    with pytest.raises(WeightsError, match="model.safetensors: expected a safetensors file"):
        tensor_files.index_safetensors(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x81\xa1a\xc3", b"\x81\xa1a\xc7\x03\x01\x93", b"version https://git-lfs", b"\xa3abc"]
)
def test_a_damaged_msgpack_file_is_named(content, tmp_path):
    path = tmp_path / "model.msgpack"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="model.msgpack: expected a Flax msgpack file"):
        tensor_files.index_msgpack(path)


def test_a_cut_msgpack_file_is_named(tmp_path):
    path = tmp_path / "model.msgpack"
    tensor_files.write_msgpack(path, tree(np.float32))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="expected a Flax msgpack file"):
        tensor_files.index_msgpack(path)


def test_an_unfinished_file_never_shows(tmp_path):
    path = tmp_path / "model.msgpack"
    with pytest.raises(TypeError):
        tensor_files.write_msgpack(path, {"a": np.zeros(3), 1j: np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (5,), (0, 3), ()])
def test_a_tensor_is_read_transposed(shape, tmp_path):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    safetensors.numpy.save_file({"before": np.ones(7, np.float32), "a": values}, tmp_path / "m.safetensors")
    tensor = tensor_files.index_safetensors(tmp_path / "m.safetensors")["a"].transposed()
    assert tensor.shape == values.T.shape
    np.testing.assert_array_equal(tensor.read(), values.T)
    np.testing.assert_array_equal(tensor.transposed().read(), values)
