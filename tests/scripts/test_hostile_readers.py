"""Whatever bytes a reader is given, it gives what it promises or raises a TiFlaxError; so do names.

Bytes are any at all, and those of valid files that are changed, cut and put together. The same readers are
given many more of them by tests/support/fuzz_readers.py.
"""

import os
import re
import struct
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import hostile_cases
import numpy as np
import pytest
from fuzzed_readers import READERS, Sample, require
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ti_flax.commands import prepare as prepare_images
from ti_flax.data.sources.source_image import SourceImage
from ti_flax.embedding.learned_embeds import save_learned_embeds, torch_archive
from ti_flax.embedding.read import load_embedding
from ti_flax.errors import TiFlaxError, one_line, printable, shortened
from ti_flax.files.regular import open_regular, read_regular
from ti_flax.files.text import parse_json
from ti_flax.models.weights.torch_files import read_torch

SETTINGS = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
# Of a processor; what is refused takes thousandths of it.
MOST_SECONDS = 10.0


@st.composite
def damaged(draw, sample: Sample) -> bytes:
    """The bytes of a valid file with up to four changes."""
    content = bytearray(sample.content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = draw(st.integers(start, min(len(content), start + 16)) | st.just(len(content)))
        number = st.integers(0, 2**64 - 1).map(lambda value: struct.pack("<Q", value))
        content[start:stop] = draw(st.binary(max_size=16) | number | st.just(bytes(content[: stop - start])))
    return bytes(content)


def read(name: str, sample: Sample, content: bytes) -> None:
    """Gives a reader a file that is alone in its folder, and looks at what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{sample.suffix}"
        path.write_bytes(sample.wrap(content))
        begun = time.process_time()
        try:
            READERS[name].read(path)
        except TiFlaxError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
        assert time.process_time() - begun < MOST_SECONDS
        assert os.listdir(folder) == [path.name]


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_read(name, tmp_path):
    """Or else everything below would hold for readers that refuse all there is."""
    for number, sample in enumerate(READERS[name].samples()):
        path = tmp_path / f"{number}{sample.suffix}"
        path.write_bytes(sample.wrap(sample.content))
        READERS[name].read(path)


@pytest.mark.parametrize("name", READERS)
def test_any_bytes(name):
    suffixes = sorted({sample.suffix for sample in READERS[name].samples()})

    @SETTINGS
    @given(content=st.binary(max_size=400), suffix=st.sampled_from(suffixes))
    def holds(content, suffix):
        read(name, Sample(b"", suffix), content)

    holds()


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name):
    samples = st.sampled_from(READERS[name].samples())

    @SETTINGS
    @given(case=samples.flatmap(lambda sample: st.tuples(st.just(sample), damaged(sample))))
    def holds(case):
        read(name, *case)

    holds()


@SETTINGS
@given(token=st.text(min_size=1, max_size=40))
def test_a_token_is_no_place(token):
    """Whatever a token is, its file goes where it is told to, holds it, and nothing else is written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inside" / "learned_embeds.bin"
        save_learned_embeds(path, token, np.ones((1, 8), np.float32))
        assert [name for _, _, names in os.walk(folder) for name in names] == ["learned_embeds.bin"]
        assert load_embedding(path).token == token
        assert list(read_torch(path)) == [token]
        require(token.encode() in torch_archive({token: np.ones((1, 8), np.float32)}), "the token as it is")


@SETTINGS
@given(
    name=st.text(max_size=60)
    | st.lists(st.sampled_from(["..", "/", "a", "~", "C:", "\\", "NUL"])).map("".join)
)
def test_a_prepared_image_stays_in_its_folder(name):
    folder = Path("/somewhere/output")
    for stem in prepare_images._stems([types.SimpleNamespace(name=name)] * 2):
        place = Path(os.path.normpath(folder / stem))
        assert place.is_relative_to(folder) and place != folder and "\0" not in str(place)


@SETTINGS
@given(text=st.text(st.characters(codec=None), max_size=80))
def test_what_is_shown_can_be_shown(text):
    assert one_line(text).isprintable()
    one_line(text).encode()
    assert printable(one_line(text)) == one_line(text)
    assert "\n" not in str(TiFlaxError(text, found=text)) and str(TiFlaxError(text, found=text)).isprintable()
    assert len(shortened(text * 1000)) < 500


@SETTINGS
@given(text=st.text(st.sampled_from('[]{}",:\\ud8af0123456789.eE-+ntrufalse '), max_size=80))
def test_what_json_gives_can_be_written(text):
    try:
        content = parse_json(text)
    except ValueError:
        return
    repr(content).encode()


def test_a_image_is_read_from_its_file():
    assert SourceImage("a", "a", "path").read() == "path"


def test_only_plain_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe", "a pipe"),
        ("/dev/zero", "a device"),
    ):
        with pytest.raises(OSError, match=words):
            open_regular(path)
    (tmp_path / "file").write_bytes(bytes(2048))
    assert read_regular(tmp_path / "file", 2048) == bytes(2048)
    with pytest.raises(OSError, match="more than 1 KiB"):
        read_regular(tmp_path / "file", 1024)


def test_a_pipe_is_read_to_its_limit(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, bytes(2048))
    try:
        with pytest.raises(OSError, match="more than 1 KiB"):
            read_regular(f"/dev/fd/{reading}", 1024, silence=5.0)
        with pytest.raises(OSError, match=r"says nothing for 0\.01 s"):
            read_regular(f"/dev/fd/{reading}", 1024, silence=0.01)
    finally:
        os.close(reading)
        os.close(writing)


def run_python(*arguments):
    """Runs Python in this folder, apart from this process, whose threads a fork would lose."""
    command = [sys.executable, *map(str, arguments)]
    folder = Path(__file__).parents[1] / "support"
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_short_fuzzing(tmp_path):
    runs = 25 * len(READERS)
    done = run_python("fuzz_readers.py", "--runs", runs, "--seed", 5, "--failures", tmp_path / "failures")
    assert done.stdout.splitlines()[-1] == f"runs {runs} readers {len(READERS)} failures 0", done
    assert done.returncode == 0 and not (tmp_path / "failures").exists()


# A reader that does what none may, one thing after another, and how many of two cases the fuzzer finds.
HARMS = ("raises", "waits", "grows", "dies", "writes", "says_much")
BROKEN = """
import os, sys, types
from pathlib import Path
import fuzz_readers
from fuzzed_readers import READERS
from ti_flax.errors import TiFlaxError

def broken(path):
    if harm == "raises":
        raise KeyError("x")
    while harm == "waits":
        pass
    if harm == "grows":
        bytearray(2**28).copy()
    if harm == "dies":
        os._exit(255)
    if harm == "writes":
        path.with_name("other").write_bytes(b"")
    raise TiFlaxError("x")

plain = TiFlaxError.__str__
fuzz_readers.CPU_SECONDS, fuzz_readers.MOST_MEMORY = 0.2, 2**27
READERS["prompt_file"] = types.SimpleNamespace(samples=READERS["prompt_file"].samples, read=broken)
for harm in (*sys.argv[2:], "nothing"):
    TiFlaxError.__str__ = (lambda error: "two\\nlines") if harm == "says_much" else plain
    print(harm, fuzz_readers.fuzz(2, 0, ["prompt_file"], Path(sys.argv[1]) / harm), flush=True)
"""


def test_the_fuzzer_finds(tmp_path):
    """What fails is kept and counted, and the run goes on."""
    done = run_python("-c", BROKEN, tmp_path, *HARMS)
    lines = done.stdout.splitlines()
    counted = dict(line.split() for line in lines if line.partition(" ")[0] in (*HARMS, "nothing"))
    assert counted == {**dict.fromkeys(HARMS, "2"), "nothing": "0"}, done
    assert done.stdout.count("FAILED --reader prompt_file --only") == 2 * len(HARMS)
    assert all(len(list((tmp_path / harm).iterdir())) == 2 for harm in HARMS)
    assert not (tmp_path / "nothing").exists()


def test_the_page_names_every_case_and_no_other():
    listed_cases = [(module, case) for module, its in hostile_cases.all_cases().items() for case in its]
    cases = {f"{module}.py::test_input[{case.name}]": case.given for module, case in listed_cases}
    listed = hostile_cases.lines_of_page()
    assert listed.keys() == cases.keys()
    assert len(cases) == len(listed_cases), "two cases of one name"
    page = hostile_cases.PAGE.read_text(encoding="utf-8")
    for test, given_ in cases.items():
        assert re.search(rf"\| {re.escape(given_)} \| .* \| `{re.escape(test)}` \|", page), test
    assert "BROKEN" not in page
