"""Measure what a run of many concepts costs beside a run for each, and that kills change no bit of it.

    python benchmarks/many_concepts.py                                  the demo's ten concepts, in one run
    python benchmarks/many_concepts.py --alone                          and each in a run of its own
    python benchmarks/many_concepts.py --count 60 --kills 10 --concepts_at_once 8 --max_train_steps 20

Every run is a process of its own and begins with empty caches; those that are killed go on with theirs. The
runs of --alone share one cache, which is empty at the first; with --cold each has its own. Other options are
those of train_flax.py.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import numpy as np  # noqa: E402
from concepts import CONCEPTS, entry, write_images  # noqa: E402
from help_format import HelpFormatter  # noqa: E402

from ti_flax.config import RunConfig, parse_config  # noqa: E402
from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.embedding.learned_embeds import load_learned_embeds  # noqa: E402

_IMAGES = 5


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    parser = ArgumentParser(
        description="Measure a run of many concepts of the demo's world.",
        formatter_class=HelpFormatter,
        epilog="All other options are those of train_flax.py.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, default=ROOT / "configs" / "demo.yaml", help="settings of the training")
    add(
        "--count",
        type=int,
        default=len(CONCEPTS),
        help="concepts; more than there are have other seeds",
    )
    add("--concepts_at_once", type=int, metavar="N", help="slots; by default as many as fit")
    add("--turns", type=int, default=1, help="times that everything is measured")
    add("--alone", action="store_true", help="learn each concept in a run of its own, too")
    add("--cold", action="store_true", help="let each of those begin with an empty cache of its own")
    add("--kills", type=int, default=0, metavar="N", help="kill a second run so often, at random moments")
    add("--seed", type=int, default=0, help="of the moments at which it is killed")
    add("--output", type=Path, default=ROOT / "build" / "many-concepts", help="folder to write to")
    return parser.parse_known_args(argv)


def entries(count: int, images: Path) -> list[dict[str, Any]]:
    """So many concepts as entries of a list, whose images are written."""
    found = []
    for number in range(count):
        concept, seed = CONCEPTS[number % len(CONCEPTS)], number // len(CONCEPTS)
        folder = images / concept.name
        if not folder.exists():
            write_images(concept, folder, _IMAGES)
        name = f"{concept.name}-{seed}"
        found.append(entry(concept, folder, name=name, placeholder_token=f"<{name}>", seed=seed))
    return found


def config_of_many(options: argparse.Namespace, training: Sequence[str], output: Path) -> RunConfig:
    """The configuration of the run of all concepts."""
    config = parse_config(["--config", str(options.config), *training])
    values: dict[str, Any] = config.to_dict()
    (word,) = config.concept.words
    shown = [prompt.replace(word, "{}") for prompt in config.monitoring.validation_prompt or ()]
    for name in ("placeholder_token", "initializer_token", "train_data_dir"):
        values.pop(name)
    listed = entries(options.count, options.output.resolve() / "images")
    return RunConfig.from_dict(
        values
        | {
            "concepts": listed,
            "concepts_at_once": options.concepts_at_once,
            "validation_prompt": shown or None,
            "only_save_embeds": True,
            "report_to": "none",
            "output_dir": str(output),
        }
    )


def start(config: RunConfig, cache: Path, *flags: str) -> subprocess.Popen:
    """Starts the run of a configuration with its own caches; its messages go to a file beside its output."""
    output = Path(config.output.output_dir)
    output.parent.mkdir(parents=True, exist_ok=True)
    file = output.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    command = [sys.executable, str(ROOT / "train_flax.py"), "--config", str(file), *flags]
    environment = os.environ | {"TI_FLAX_CACHE": str(cache)}
    with output.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, env=environment, stderr=log, stdout=log)


def wait(process: subprocess.Popen, *, name: str) -> tuple[float, list[float]]:
    """Waits for a run; returns the seconds from now on, and its memory in MiB, second by second."""
    began, memory = time.perf_counter(), []
    while process.poll() is None:
        memory.append(resident(process.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    if process.returncode:
        raise SystemExit(f"{name} ended with exit code {process.returncode}")
    return time.perf_counter() - began, memory


def resident(pid: int) -> float:
    """MiB of memory of a process; 0 where nobody says."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError, IndexError):
        return 0.0


def together(options: argparse.Namespace, training: Sequence[str], turn: int) -> tuple[Path, float]:
    """Teaches all concepts in one run; returns its folder and its seconds, and prints what it took."""
    place = options.output / f"turn-{turn}"
    config = config_of_many(options, training, place / "many")
    seconds, memory = wait(start(config, place / "cache-many"), name="the run of all")
    half, last = max(memory[: len(memory) // 2 + 1]), max(memory)
    print(
        f"turn {turn}: {options.count} concepts in one run {seconds:7.1f} s, {seconds / options.count:.1f} s "
        f"each; memory up to {half:.0f} MiB in the first half, {last:.0f} in all",
        flush=True,
    )
    return place / "many", seconds


def alone(options: argparse.Namespace, training: Sequence[str], turn: int, many: Path) -> float:
    """Teaches each concept in a run of its own; returns the seconds, and prints how far rows are apart."""
    place = options.output / f"turn-{turn}"
    config = config_of_many(options, training, place / "alone")
    values: dict[str, Any] = config.to_dict()
    del values["concepts_at_once"]
    seconds, apart = 0.0, 0.0
    for listed in values.pop("concepts"):
        own = dict(listed)
        name, word = own.pop("name"), own["placeholder_token"]
        shown = [prompt.replace("{}", word) for prompt in values["validation_prompt"] or ()]
        own |= {"validation_prompt": shown or None, "output_dir": str(place / "alone" / name)}
        cache = place / "cache-alone" / (name if options.cold else "")
        seconds += wait(start(RunConfig.from_dict(values | own), cache), name=name)[0]
        apart = max(apart, distance(many / name, place / "alone" / name))
    print(
        f"turn {turn}: each in a run of its own {seconds:7.1f} s; rows at most {apart:.1e} apart", flush=True
    )
    return seconds


def distance(folder: Path, other: Path) -> float:
    """How far the rows of two runs are apart, relative to their norm."""
    one, two = (load_learned_embeds(each / "learned_embeds.safetensors")[1] for each in (folder, other))
    return float(np.linalg.norm(one - two) / np.linalg.norm(two))


def killed(options: argparse.Namespace, training: Sequence[str], many: Path, seconds: float) -> None:
    """Teaches all again, killed at random moments; prints how many files of rows have other bits."""
    rng, place = random.Random(options.seed), options.output / "killed"
    shutil.rmtree(place, ignore_errors=True)
    config = config_of_many(options, training, place / "many")
    for number in range(options.kills):
        process = start(config, place / "cache", "--resume_from_checkpoint", "auto")
        try:
            process.wait(rng.uniform(0.1, 1.0) * 2 * seconds / (options.kills + 1))
            print(f"done before kill {number + 1}", flush=True)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    wait(start(config, place / "cache", "--resume_from_checkpoint", "auto"), name="the run that was killed")
    paths = sorted(path.relative_to(many) for path in many.glob("*/learned_embeds*.safetensors"))
    other = [path for path in paths if (many / path).read_bytes() != (place / "many" / path).read_bytes()]
    print(f"killed {options.kills} times: {len(other)} of {len(paths)} files have other bits")


def main(argv: Sequence[str] | None = None) -> None:
    options, training = parse_arguments(argv)
    options.output = options.output.resolve()
    for turn in range(options.turns):
        shutil.rmtree(options.output / f"turn-{turn}", ignore_errors=True)
    taken = []
    for turn in range(options.turns):
        many, seconds = together(options, training, turn)
        taken.append([seconds, alone(options, training, turn, many) if options.alone else None])
        if options.kills and turn == 0:
            killed(options, training, many, seconds)
    if options.alone:
        ratios = ", ".join(f"{single / seconds:.2f}" for seconds, single in taken)
        print(f"runs of their own take {ratios} times as long")


if __name__ == "__main__":
    sys.exit(exit_code(main))
