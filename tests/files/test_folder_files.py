"""Folders from outside: only regular files that lie in them are listed, copied and uploaded."""

import os

import pytest

from ti_flax.files.folder_files import LeavingLinkError, copy_folder, files_of, lies_in, require_inside

COMMIT, HASH = "0" * 40, "ab" * 32


@pytest.fixture
def folder(tmp_path):
    for name in ("folder/a", "folder/sub/b", "secret/x", "folder-too/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path / "folder"


def test_files_and_links_that_stay_inside_are_copied_as_files(folder, tmp_path):
    (folder / "sub" / "c").symlink_to("../a")
    assert files_of(folder) == ["a", "sub/b", "sub/c"]
    copy_folder(folder, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == ["a", "sub/b", "sub/c"]
    assert (tmp_path / "copy" / "sub" / "c").read_text() == "folder/a"
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("x", "../secret/x"),
        ("x", "/dev/zero"),
        ("sub/x", "../../secret"),
        ("x", ".."),
        ("x", "../folder-too/x"),  # whose name begins as the folder's does
        ("x", "sub/../../secret/x"),
        ("x", "/nothing/there"),
    ],
)
def test_what_leads_out_is_refused_and_nothing_copied(folder, tmp_path, name, target):
    (folder / name).symlink_to(target)
    with pytest.raises(LeavingLinkError, match=rf"^a link that leaves the folder \({name} -> /"):
        copy_folder(folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("sub"), lambda path: path.symlink_to(path)]
)
def test_what_is_no_file_is_refused_and_not_waited_for(folder, tmp_path, make):
    make(folder / "x")
    with pytest.raises(OSError, match="pipe|directory|symbolic links"):
        copy_folder(folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_folder_that_is_a_link_itself(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert files_of(tmp_path / "link") == ["a", "sub/b"]
    (folder / "part").symlink_to(tmp_path / "secret")
    with pytest.raises(LeavingLinkError, match=r"\(part -> "):
        files_of(folder / "part", root=folder)


def test_a_snapshot_of_the_hub_has_its_files_in_its_own_blobs(tmp_path):
    cache = tmp_path / "hub"
    snapshot = cache / "models--owner--name" / "snapshots" / COMMIT
    (snapshot / "unet").mkdir(parents=True)
    blobs = cache / "models--owner--name" / "blobs"
    for place in (blobs / "1", blobs / "2", cache / "blobs" / "ab" / HASH, cache / "blobs" / "token"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(place.name)
    (blobs / "shared").symlink_to(f"../../blobs/ab/{HASH}")
    (snapshot / "a").symlink_to("../../blobs/1")
    (snapshot / "unet" / "b").symlink_to("../../../blobs/shared")
    assert files_of(snapshot) == ["a", "unet/b"]
    assert files_of(snapshot / "unet", root=snapshot) == files_of(snapshot / "unet") == ["b"]
    for target in ("blobs/token", f"models--owner--other/blobs/{HASH}", "models--owner--name/refs"):
        (snapshot / "x").unlink(missing_ok=True)
        (snapshot / "x").symlink_to(cache / target)
        assert not lies_in(snapshot / "x", snapshot)
    # The name of another folder makes no cache of it.
    (tmp_path / "models--a--b" / "blobs").mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs" / "1").write_text("1")
    (tmp_path / "models--a--b" / "plain").mkdir()
    (tmp_path / "models--a--b" / "plain" / "x").symlink_to("../blobs/1")
    with pytest.raises(LeavingLinkError):
        files_of(tmp_path / "models--a--b" / "plain")


def test_the_message_names_the_kind_of_folder(folder):
    (folder / "x").symlink_to("/dev/zero")
    with pytest.raises(LeavingLinkError) as caught:
        require_inside(folder / "x", folder, kind="model's folder")
    assert str(caught.value) == "a link that leaves the model's folder (x -> /dev/zero)"
