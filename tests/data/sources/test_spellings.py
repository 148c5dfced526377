"""Tables and lists as Excel, Windows and macOS write them: every source of captions reads every form."""

import json
import unicodedata

import pytest
from PIL import Image

from ti_flax.commands import prepare
from ti_flax.data.prompts.captions import CaptionedImage, captions_beside, captions_in_file
from ti_flax.data.sources.file_names import FilesOnDisk, NamedValues, plain_name
from ti_flax.data.sources.find import find_images
from ti_flax.data.sources.table_options import TableOptions
from ti_flax.data.sources.text_tables import delimited_table
from ti_flax.errors import DataError

CAFE = "caf\u00e9 1.png"  # composed, as Windows and Linux write it
NAMES = ("a.png", "sub/b.JPG", f"sub/{CAFE}")
CAPTIONS = ("a cat, on a mat", 'the "big" one; in red', "caf\u00e9")


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (10, 100, 100)).save(path, format="PNG")


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        put(tmp_path / name)
    return tmp_path


def table(names=NAMES, separator=",", head=("file_name", "text"), end="\n", texts=CAPTIONS):
    rows = [head, *zip(names, texts)]
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in rows]
    return "".join(separator.join(row) + end for row in quoted)


def lines(names=NAMES, **keys):
    name, text = keys.get("keys", ("file_name", "text"))
    return "".join(json.dumps({name: one, text: words}) + "\n" for one, words in zip(names, CAPTIONS))


WINDOWS = tuple(name.replace("/", "\\") for name in NAMES)
# What is written, as bytes; what programs and systems do not agree on, one after another.
FORMS = {
    "plain": table().encode(),
    "semicolons": table(separator=";").encode(),
    "tabs": table(separator="\t", end="\r\n").encode("utf-16"),  # `Unicode text` of Excel
    "excel": table(separator=";", end="\r\n").encode("utf-8-sig"),
    "separator named": b"sep=;\r\n" + table(separator=";", end="\r\n").encode(),
    "carriage returns": table(end="\r").encode(),
    "heads": table(head=("File Name", "Caption")).encode(),
    "other heads": table(head=("image_path", "prompt")).encode(),
    "blank columns": (table().replace("\n", ",,\n") + ",,,\n\n").encode(),
    "blank lines": ("\n\n" + table()).encode(),
    "backslashes": table(WINDOWS).encode(),
    "dots": table([f"./{name}" for name in NAMES]).encode(),
    "dots of Windows": table([f".\\{name}" for name in WINDOWS]).encode(),
    "quoted names": table([f'"{name}"' for name in NAMES]).encode(),
    "macOS": table([unicodedata.normalize("NFD", name) for name in NAMES]).encode(),
    "case of the suffix": table(["a.PNG", "sub/b.jpg", f"sub/{CAFE}"]).encode(),
    "case": table([name.upper() for name in NAMES]).encode(),
    "json lines": lines().encode("utf-16"),
    "json lines of Windows": lines(WINDOWS).encode("utf-8-sig"),
    "json keys": lines(keys=("image_path", "caption")).encode(),
    "json list": json.dumps(
        [{"file_name": name, "text": text} for name, text in zip(NAMES, CAPTIONS)], indent=1
    ).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_caption_file(folder, form):
    file = folder / "captions.txt"
    file.write_bytes(FORMS[form])
    images = [CaptionedImage(name, str(folder / name)) for name in NAMES]
    assert captions_in_file(images, str(file)) == CAPTIONS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["metadata.csv", "Metadata.TSV"])
def test_metadata_beside_the_images(folder, form, name):
    name = "metadata.jsonl" if "json" in form else name
    (folder / name).write_bytes(FORMS[form])
    found = find_images(str(folder), TableOptions())
    assert tuple(image.caption for image in found.images) == CAPTIONS
    assert found.notes == () and found.passed_over == ()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["cats.csv", "cats.txt"])
def test_a_table_as_the_source(folder, form, name):
    (folder / name).write_bytes(FORMS[form])
    found = find_images(str(folder / name), TableOptions())
    assert tuple(image.path for image in found.images) == tuple(str(folder / name) for name in NAMES)
    assert tuple(image.caption for image in found.images) == CAPTIONS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "names",
    [
        WINDOWS,
        [f".\\{name}" for name in WINDOWS],
        [f'"{name}"' for name in WINDOWS],
        [unicodedata.normalize("NFD", name) for name in NAMES],
        [name.upper() for name in NAMES],
    ],
    ids=["windows", "dots", "copied", "macos", "case"],
)
def test_a_list(folder, names, encoding):
    (folder / "cats.txt").write_bytes("\r\n".join(["# mine", *names, ""]).encode(encoding))
    found = find_images(str(folder / "cats.txt"), TableOptions())
    assert [image.path for image in found.images] == [str(folder / name) for name in NAMES]


def test_lists_whose_first_name_is_like_a_table(tmp_path):
    for name in ("image", "[1].png", "{a}.png", "file, text.png", '"open.png'):
        put(tmp_path / name)
        (tmp_path / "list.txt").write_text(f"{name}\n")
        (found,) = find_images(str(tmp_path / "list.txt"), TableOptions()).images
        assert found.name == name


def test_a_list_of_another_machine(folder):
    (folder / "cats.txt").write_text("C:\\Users\\me\\a.png\n")
    with pytest.raises(DataError, match=r"no such file\. It is a path of another machine\. Paths are relat"):
        find_images(str(folder / "cats.txt"), TableOptions())


@pytest.mark.parametrize("name", ["..\\..\\b.png", "../../b.png", "{above}/b.png", "SUB\\..\\..\\..\\b.png"])
def test_no_spelling_leads_out_of_a_tables_folder(folder, name):
    put(folder / "data" / "sub" / "a.png")
    put(folder.parent / "b.png")
    (folder / "data" / "cats.csv").write_text(f"file_name\n{name.format(above=folder.parent)}\n")
    with pytest.raises(DataError, match="expected an image in the table's folder, found a path out of it"):
        find_images(str(folder / "data" / "cats.csv"), TableOptions())


# Captions are not lost


@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv"])
def test_the_end_of_a_caption_with_a_comma_is_not_dropped(folder, name):
    (folder / name).write_text("file_name,text\na.png,a cat, on a mat\n")
    with pytest.raises(DataError, match=r"csv:2: expected 2 columns .* found 3\. Put texts that hold ',' in"):
        if name == "metadata.csv":
            find_images(str(folder), TableOptions())
        else:
            captions_in_file([CaptionedImage("a.png")], str(folder / name))


@pytest.mark.parametrize("names", [("a.png", "a.png"), ("a.png", ".\\a.png"), ("caf\u00e9", "cafe\u0301")])
def test_two_captions_for_an_image(folder, names):
    (folder / "metadata.csv").write_text(table(names, texts=("one", "two")))
    with pytest.raises(
        DataError, match=r"csv:3: expected one caption for each image, found another one for "
    ):
        find_images(str(folder), TableOptions())


def test_an_open_quotation_mark(folder):
    (folder / "metadata.csv").write_text('file_name,text\na.png,"a cat\nsub/b.JPG,a dog\n')
    with pytest.raises(DataError, match="found unexpected end of data. A quotation mark may be open"):
        find_images(str(folder), TableOptions())


def test_columns_without_a_usual_name_are_named(folder):
    (folder / "metadata.csv").write_text("file_name;width;description\na.png;512;a cat\n")
    (note,) = find_images(str(folder), TableOptions()).notes
    assert note.endswith("text or caption (caption_column may be set to one of description)")
    found = find_images(str(folder), TableOptions(caption_column="Description"))
    assert found.images[0].caption == "a cat"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name;text\na.png;x\n", "found columns name, text. Call the column with the images' files so, or"),
        ("a.png,x\nb.png,y\n", "found a.png, x. Write a line such as file_name,text above it."),
    ],
)
def test_remedies_that_help(folder, content, words):
    (folder / "metadata.csv").write_text(content)
    with pytest.raises(DataError) as caught:
        find_images(str(folder), TableOptions())
    assert words in str(caught.value)
    (folder / "metadata.csv").write_text(f"file_name,text\n{content}" if "," in content else content)
    options = TableOptions(image_column="name" if ";" in content else None)
    assert find_images(str(folder), options).images[0].caption == "x"


def test_a_caption_file_with_one_more_column(folder):
    (folder / "captions.csv").write_text("file_name;description\na.png;a cat\n")
    assert captions_in_file([CaptionedImage("a.png")], str(folder / "captions.csv")) == ("a cat",)
    (folder / "captions.csv").write_text("file_name;width;description\na.png;512;a cat\n")
    with pytest.raises(DataError, match="the column text, found columns file_name, width, description. Call"):
        captions_in_file([CaptionedImage("a.png")], str(folder / "captions.csv"))


# Names


def test_paths_of_another_windows_machine_are_told_by_their_ends():
    listed = NamedValues()
    for name in ("C:\\me\\cats\\a.png", "C:\\me\\dogs\\a.png", "\\\\server\\share\\b.png"):
        listed.add(name, name, "")
    assert listed.find(["cats/a.png"]) == "C:\\me\\cats\\a.png"
    assert listed.find(["a.png"]) is None  # two end so
    assert listed.find(["b.png"]) == "\\\\server\\share\\b.png"
    assert listed.unused() == ["C:/me/dogs/a.png"]


def test_case_tells_names_apart_where_it_has_to():
    listed = NamedValues()
    for name in ("a.png", "A.png"):
        listed.add(name, name, "")
    assert [listed.find([name]) for name in ("a.png", "A.png", "a.PNG")] == ["a.png", "A.png", None]


def test_files_that_differ_in_case_alone(tmp_path):
    for name in ("a.png", "A.png", "b.PNG"):
        put(tmp_path / name)
    disk = FilesOnDisk()
    assert disk.find(tmp_path, "A.png") == tmp_path / "A.png"
    assert disk.find(tmp_path, "a.PNG") is None
    assert disk.find(tmp_path, "B.png") == tmp_path / "b.PNG"
    assert disk.find(tmp_path, "") is None


def test_a_backslash_in_a_name_of_linux(tmp_path):
    put(tmp_path / "a\\b.png")
    assert FilesOnDisk().find(tmp_path, "a\\b.png") == tmp_path / "a\\b.png"
    (tmp_path / "metadata.csv").write_text("file_name,text\na\\b.png,x\n")
    assert find_images(str(tmp_path), TableOptions()).images[0].caption == "x"


@pytest.mark.parametrize(
    ("written", "plain"),
    [(" a.png ", "a.png"), ("'a b.png'", "a b.png"), (".\\s\\\\a.png", "s/a.png"), ("", ""), ('"', '"')],
)
def test_plain_names(written, plain):
    assert plain_name(written) == plain


@pytest.mark.parametrize(
    ("image", "text"),
    [("a.png", "a.TXT"), ("A.JPG", "a.txt"), ("caf\u00e9.png", "cafe\u0301.txt"), ("a.png", "a.PNG.txt")],
)
def test_captions_beside_images_in_another_spelling(tmp_path, image, text):
    put(tmp_path / "in" / image)
    (tmp_path / "in" / text).write_text("a cat")
    path = str(tmp_path / "in" / image)
    assert captions_beside([CaptionedImage(image, path)]) == ("a cat",)
    prepare.run(
        prepare.parse_arguments([f"--train_data_dir={path}", f"--output_dir={tmp_path / 'out'}", "--size=64"])
    )
    (written,) = (tmp_path / "out").glob("*.txt")
    assert written.read_text() == "a cat\n"


def test_places_count_the_lines_of_the_file():
    text = '\nsep=;\nfile_name;text\n\na.png;"two\nlines"\nb.png;x;y\n'
    with pytest.raises(DataError, match="where:7: expected 2 columns"):
        delimited_table(text, "where")
    (row,) = delimited_table(text.replace(";y", "").rsplit("b", 1)[0], "where").rows
    assert row.where == "where:6" and row.cells["text"] == "two\nlines"
