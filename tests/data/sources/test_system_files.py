"""What systems keep among images is passed over, and counted."""

import pytest
from PIL import Image

from ti_flax.commands import prepare
from ti_flax.data.sources.find import find_images
from ti_flax.data.sources.table_options import TableOptions
from ti_flax.errors import DataError

FOLDERS = [
    *("@eaDir", "#recycle", "@Recycle", ".@__thumb", "@tmp", "$RECYCLE.BIN", "$Recycle.Bin", "RECYCLER"),
    *(
        "System Volume Information",
        "FOUND.001",
        "__MACOSX",
        ".Trash",
        ".Trashes",
        ".Trash-1000",
        "lost+found",
    ),
    *("Network Trash Folder", ".thumbnails", "LOST.DIR", ".git", ".ipynb_checkpoints", ".snapshot"),
]
FILES = [
    *("._a.png", "Thumbs.db", "thumbs.DB", "ehthumbs.db", "desktop.ini", ".DS_Store", "Icon\r"),
    *(".trashed-1650000000-b.png", "a.png@SynoEAStream", ".nfs000000000a12"),
]


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (10, 100, 100)).save(path, format="PNG")


def found(folder):
    return find_images(str(folder), TableOptions())


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("above", ["", "sub/"])
def test_folders(tmp_path, name, above):
    put(tmp_path / "a.png")
    put(tmp_path / f"{above}{name}" / "a.png" / "SYNOPHOTO_THUMB_M.jpg")
    images = found(tmp_path)
    assert [image.name for image in images.images] == ["a.png"] and images.passed_over == ()
    words = f"passed over, as systems keep them for themselves: 1 folder, such as {above}{name}"
    assert images.notes == (words,)


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    put(tmp_path / "a.png")
    put(tmp_path / name)
    images = found(tmp_path)
    assert [image.name for image in images.images] == ["a.png"] and images.passed_over == ()
    words = f"passed over, as systems keep them for themselves: 1 file, such as {name}"
    assert images.notes == (words,)


@pytest.mark.parametrize("name", ["recycle", "eaDir", "my@eaDir", "trash", "System", "thumbs", "#1", "git"])
def test_names_that_people_give(tmp_path, name):
    put(tmp_path / name / "a.png")
    put(tmp_path / "_a.png")
    assert [image.name for image in found(tmp_path).images] == ["_a.png", f"{name}/a.png"]
    assert found(tmp_path).notes == ()


def test_such_a_folder_that_a_person_names_is_read(tmp_path):
    put(tmp_path / "lost+found" / "a.png")
    assert len(found(tmp_path / "lost+found").images) == 1
    with pytest.raises(DataError, match=r"only what systems keep for themselves \(1 folder, such as lost\+f"):
        found(tmp_path)


def test_all_are_one_note_in_prepare_too(tmp_path, capsys):
    put(tmp_path / "in" / "a.png")
    for name in ("@eaDir/b.png", "z/@eaDir/c.png", "._a.png"):
        put(tmp_path / "in" / name)
    arguments = [f"--train_data_dir={tmp_path / 'in'}", f"--output_dir={tmp_path / 'out'}", "--size=64"]
    prepare.run(prepare.parse_arguments(arguments))
    words = "note: passed over, as systems keep them for themselves: 2 folders and 1 file, such as @eaDir\n"
    assert words in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").rglob("*.png")] == ["a.png"]
