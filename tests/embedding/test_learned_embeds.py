import zipfile

import numpy as np
import pytest

from ti_flax.embedding.learned_embeds import load_learned_embeds, save_learned_embeds
from ti_flax.errors import WeightsError


@pytest.fixture(params=[1, 4])
def rows(request):
    return np.random.default_rng(0).normal(size=(request.param, 32)).astype(np.float32)


def test_safetensors_comes_back_with_its_bits(tmp_path, rows):
    path = tmp_path / "learned_embeds.safetensors"
    save_learned_embeds(path, "<cat-toy>", rows)
    token, back = load_learned_embeds(path)
    assert (token, back.tobytes()) == ("<cat-toy>", rows.tobytes())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_bin_is_what_torch_loads_without_running_anything(tmp_path, rows):
    torch = pytest.importorskip("torch")
    path = tmp_path / "learned_embeds.bin"
    save_learned_embeds(path, "<Katze ä>", rows)
    for mmap in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mmap)
        assert list(loaded) == ["<Katze ä>"]
        tensor = loaded["<Katze ä>"]
        assert tensor.dtype == torch.float32 and tensor.is_contiguous() and not tensor.requires_grad
        assert tensor.numpy().tobytes() == rows.tobytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_bin_holds_the_opcodes_torch_itself_writes(tmp_path, rows):
    """The two archives unpickle alike: same globals, same persistent ids, same arguments."""
    torch = pytest.importorskip("torch")
    import pickletools

    ours, theirs = tmp_path / "ours.bin", tmp_path / "theirs.bin"
    save_learned_embeds(ours, "<cat-toy>", rows)
    torch.save({"<cat-toy>": torch.tensor(rows)}, theirs)

    def facts(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            content = archive.read(name)
        operations = [(op.name, arg) for op, arg, _ in pickletools.genops(content)]
        wanted = ("GLOBAL", "BINUNICODE", "BINPERSID", "REDUCE")
        return [(name, arg) for name, arg in operations if name in wanted]

    assert facts(ours) == facts(theirs)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", b"\xff" * 64])
def test_rubbish_is_refused(tmp_path, content):
    path = tmp_path / "learned_embeds.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="learned_embeds.safetensors: expected"):
        load_learned_embeds(path)


def test_other_safetensors_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}, path)
    with pytest.raises(WeightsError, match="one key.*2 keys"):
        load_learned_embeds(path)
    save_file({"a": np.ones((2, 3, 4), np.float32)}, path)
    with pytest.raises(WeightsError, match=r"\[2, 3, 4\]"):
        load_learned_embeds(path)
