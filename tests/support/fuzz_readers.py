"""Feeds damaged files to every reader: `python tests/support/fuzz_readers.py --runs 20000 --seed 1`.

Each case is a valid file with bytes flipped, cut, inserted, spliced, or with a number in it replaced by an
extreme one. A reader gives what it promises or raises a TiFlaxError, within seconds and some memory, and
writes nothing. A case follows from seed, reader and number alone, so that `--reader NAME --only N` repeats
it. What fails is kept in `--failures`, and the last line counts.
"""

import argparse
import contextlib
import mmap
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from fuzzed_readers import READERS  # noqa: E402

from ti_flax.errors import TiFlaxError  # noqa: E402

CPU_SECONDS, WALL_SECONDS = 10.0, 120
# Beyond what the process takes before the first case.
MOST_MEMORY, MOST_ADDRESSES = 2**30, 4 * 2**30
# After so many cases a fresh process begins, so that what one case leaves behind is not laid to another.
BATCH = 250
_EXTREME = (0, 1, -1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
_WORDS = (
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 5000, b"null", b"true", b'""', b"{}", b"[]"),
    *(b"[" * 3000, b'{"a":' * 2000, b"((((((((", b"\\ud800", b"\\u0000", b"\x00", b"\x1b[2J", b"\r", b"\n"),
    *(b"&a", b"*a", b"<<: *a", b"!!python/object/apply:os.system", b"../../x", b"/etc/passwd", b"~nobody/x"),
    *(b"__metadata__", b"__proto__", b"data_offsets", b"--w 99999999999", b'"', b"'", b"|", b",", b"\t"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", "😀".encode(), b"cposix\nsystem\n", b"\x85\x85\x85"),
)


class Overrun(BaseException):
    """Too long or too much; no reader catches it."""


def mutated(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Damages a file in one to four ways."""
    if rng.random() < 0.03:
        return rng.randbytes(rng.choice((0, 1, 7, 8, 9, 40, 400)))
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        rng.choice(_WAYS)(made, others, rng)
    return bytes(made)


def _place(made, rng):
    # Files say what they hold at their beginning, and zip archives at their end.
    near = rng.choice((32, 256, 2048, len(made)))
    place = rng.randrange(max(1, min(near, len(made))))
    return place if rng.random() < 0.8 else max(0, len(made) - 1 - place)


def _flip(made, others, rng):
    if made:
        made[_place(made, rng)] ^= 1 << rng.randrange(8)


def _byte(made, others, rng):
    if made:
        made[_place(made, rng)] = rng.choice((0, 1, 0x20, 0x2D, 0x39, 0x7F, 0x80, 0xC9, 0xDF, 0xFF))


def _cut(made, others, rng):
    del made[_place(made, rng) :]


def _remove(made, others, rng):
    start = _place(made, rng)
    del made[start : start + rng.choice((1, 2, 4, 8, 64, 1000))]


def _insert(made, others, rng):
    start = _place(made, rng)
    made[start:start] = rng.choice((rng.randbytes(rng.choice((1, 4, 16))), rng.choice(_WORDS)))


def _double(made, others, rng):
    start = _place(made, rng)
    part = bytes(made[start : start + rng.choice((1, 4, 16, 64, 512))])
    made[start:start] = part * rng.choice((1, 2, 100))


def _splice(made, others, rng):
    other = rng.choice(others)
    start, begin = _place(made, rng), rng.randrange(len(other) + 1)
    made[start : start + rng.choice((0, 8, 64, 10**9))] = other[begin : begin + rng.choice((8, 64, 10**9))]


def _number(made, others, rng):
    """Replaces a length or a place, as it stands in binary files."""
    size, order = rng.choice((1, 2, 4, 8)), rng.choice("<>")
    start = _place(made, rng)
    value = rng.choice((*_EXTREME, len(made), len(made) + 1)) & (2 ** (8 * size) - 1)
    letter = {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
    made[start : start + size] = struct.pack(order + letter, value)


def _decimal(made, others, rng):
    """Replaces a number written in digits."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(made[:4096])))
    if found:
        match = rng.choice(found)
        made[match.start() : match.end()] = rng.choice((str(rng.choice(_EXTREME)).encode(), *_WORDS[:6]))


def _word(made, others, rng):
    """Replaces a name or a value in quotes."""
    found = list(re.finditer(rb"[\w./<>-]{2,}|\"[^\"]*\"", bytes(made[:4096])))
    if found:
        match = rng.choice(found)
        made[match.start() : match.end()] = rng.choice(_WORDS)


_WAYS = (
    _flip,
    _flip,
    _byte,
    _byte,
    _cut,
    _remove,
    _insert,
    _double,
    _splice,
    _number,
    _number,
    _decimal,
    _word,
)


def run_case(name: str, seed: int, number: int, folder: Path) -> tuple[Path, str | None]:
    """Makes one case and reads it; returns its file, and what is wrong if anything is."""
    reader = READERS[name]
    samples = reader.samples()
    rng = random.Random(f"{seed} {name} {number}")
    sample = samples[number % len(samples)]
    path = folder / f"{name}-{seed}-{number}{sample.suffix}"
    content = mutated(sample.content, [each.content for each in samples], rng)
    path.write_bytes(sample.wrap(content))
    try:
        reader.read(path)
    except TiFlaxError as error:
        wrong = None if "\n" not in str(error) and len(str(error)) < 2000 else f"a long message: {error}"
    except Overrun as error:
        wrong = str(error)
    except BaseException:
        wrong = traceback.format_exc()
    else:
        wrong = None
    astray = [entry for entry in folder.iterdir() if entry != path]
    for entry in astray:
        entry.unlink()
    return path, wrong or (f"{len(astray)} files were written beside it" if astray else None)


def _stop(sign, frame):
    raise Overrun("more than its seconds")


def _most_memory() -> int:
    """The most bytes that this process took since they were forgotten, or ever where they cannot be."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _forget_most_memory() -> int:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # as `man proc_pid_clear_refs` has it
    return _most_memory()


def _limited(cases, seed, folder, failures, place) -> int:
    """Runs cases in this process, which is a child; its exit code says how many failed."""
    signal.signal(signal.SIGPROF, _stop)
    signal.signal(signal.SIGALRM, _stop)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + MOST_ADDRESSES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    failed = 0
    for index, (name, number) in enumerate(cases):
        place[:8] = struct.pack("<q", index)
        most = _forget_most_memory()
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.alarm(WALL_SECONDS)
        path, wrong = run_case(name, seed, number, folder)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        grown = _most_memory() - most
        if wrong is None and grown > MOST_MEMORY:
            wrong = f"{grown / 2**20:.0f} MiB of memory"
        if wrong is not None:
            failed += 1
            keep(failures, path, name, number, wrong)
        path.unlink(missing_ok=True)
    return failed


def keep(failures: Path, path: Path, name: str, number: int, wrong: str) -> None:
    """Keeps a failing file, and says what is wrong with it."""
    failures.mkdir(parents=True, exist_ok=True)
    if path.exists():
        shutil.copyfile(path, failures / path.name)
    print(f"FAILED --reader {name} --only {number}: {wrong.strip()}", flush=True)


def fuzz(runs: int, seed: int, names: list[str], failures: Path, only: int | None = None) -> int:
    """Runs cases, in turn of all readers, in child processes; returns how many failed."""
    cases = [(names[index % len(names)], index // len(names)) for index in range(runs)]
    if only is not None:
        cases = [(name, only) for name in names]
    for name in names:
        READERS[name].samples()  # once, before there are children
    failed, done = 0, 0
    place = mmap.mmap(-1, 8)
    while done < len(cases):
        batch = cases[done : done + BATCH]
        with tempfile.TemporaryDirectory(prefix="ti_flax-fuzz-") as folder:
            with warnings.catch_warnings():  # of threads, none of which the child uses
                warnings.simplefilter("ignore")
                child = os.fork()
            if child == 0:
                code = 255
                try:
                    code = min(_limited(batch, seed, Path(folder), failures, place), 250)
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) <= 250:
                failed += os.WEXITSTATUS(status)
                done += len(batch)
                continue
            (index,) = struct.unpack("<q", place[:8])
            name, number = batch[index]
            left = next(Path(folder).glob(f"{name}-*"), Path(folder) / "none")
            keep(failures, left, name, number, f"the process ended with status {status}")
            failed += 1
            done += index + 1
    return failed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000, help="cases of all readers together (2000)")
    parser.add_argument("--seed", type=int, default=0, help="what the cases follow from (0)")
    parser.add_argument("--reader", choices=sorted(READERS), action="append", help="of these alone")
    parser.add_argument("--only", type=int, metavar="N", help="of each reader the case of this number alone")
    parser.add_argument(
        "--failures", type=Path, default=Path("fuzz-failures"), help="where to keep what fails"
    )
    options = parser.parse_args(argv)
    names = options.reader or list(READERS)
    failed = fuzz(options.runs, options.seed, names, options.failures, options.only)
    runs = options.runs if options.only is None else len(names)
    print(f"runs {runs} readers {len(names)} failures {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
