"""Kills a small run at random moments and starts it again until done.

`python tests/support/soak_kill.py --runs 100` does it a hundred times.

Every run is a process of its own, `train_flax.py --resume_from_checkpoint auto`, that is killed with SIGKILL
once to three times: at a moment drawn over its whole life, or while it is writing something (a checkpoint or
the result). What it has learned in the end is compared, byte for byte, with what an undisturbed run learns.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT), str(ROOT / "demo")]

from environment import xla_flags  # noqa: E402
from tiny_folder import write_folder, write_images  # noqa: E402

STEPS = 12
# Files of a result whose bytes do not tell how long it took.
COMPARED = ("learned_embeds.safetensors", "learned_embeds.bin", "text_encoder/flax_model.msgpack")
MOST_KILLS = 3
# Moments at which something is being written: the checkpoints, and at the end the files of the result.
WRITES = STEPS + 4


def main(argv: list[str] | None = None) -> int:
    """Soaks, and returns 0 if every run ended with the same bytes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="how many runs to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        place = Path(folder)
        write_folder(place / "model")
        write_images(place / "pictures")
        start(place, place / "whole").wait()  # compiles, so that the next one lasts as long as those to come
        began = time.monotonic()
        assert start(place, place / "again").wait() == 0
        life = time.monotonic() - began
        expected = result(place / "whole")
        assert None not in expected.values() and result(place / "again") == expected
        print(f"a run lasts {life:.1f} s", flush=True)

        def soaked(run: int) -> tuple[bool, int]:
            output, chance = place / f"run-{run}", random.Random(f"{options.seed} {run}")
            kills, saves = killed_and_resumed(place, output, life, chance)
            same = result(output) == expected
            told = "identical" if same else "DIFFERENT"
            print(f"run {run + 1}: {kills} kills, {saves} of them inside a save, {told}", flush=True)
            return same, saves

        with ThreadPoolExecutor(options.jobs) as pool:
            soaks = list(pool.map(soaked, range(options.runs)))
    identical = sum(same for same, _ in soaks)
    print(f"kills inside a save {sum(saves for _, saves in soaks)}")
    print(f"runs {options.runs} identical {identical}")
    return 0 if identical == options.runs else 1


def start(place: Path, output: Path) -> subprocess.Popen:
    """Starts the run that the output folder belongs to, or goes on with it."""
    flags = {
        "pretrained_model_name_or_path": place / "model",
        "train_data_dir": place / "pictures",
        "output_dir": output,
        "latents_cache_dir": place / "cache",
        "placeholder_token": "<thing>",
        "initializer_token": "toy",
        "resolution": 32,
        "train_batch_size": 1,
        "max_train_steps": STEPS,
        "steps_per_call": 1,
        "checkpointing_steps": 1,
        "checkpoints_total_limit": 2,
        "learning_rate": 1e-2,
        "seed": 3,
        "eval_steps": 0,
        "report_to": "none",
        "resume_from_checkpoint": "auto",
    }
    command = [sys.executable, str(ROOT / "train_flax.py"), "--quiet"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(1),
    }
    return subprocess.Popen(command, env=environment, cwd=place)


def killed_and_resumed(place: Path, output: Path, life: float, chance: random.Random) -> tuple[int, int]:
    """Kills a run some times, then lets it end; returns its kills, and how many were inside a save."""
    kills = saves = 0
    for _ in range(chance.randint(1, MOST_KILLS)):
        process = start(place, output)
        if chance.random() < 0.5:
            wait_for_a_write(process, output, chance.randint(1, WRITES))
            time.sleep(chance.uniform(0, 0.05))
        else:
            time.sleep(chance.uniform(0, life))
        if process.poll() is not None:  # it was done before
            assert process.returncode == 0, process.returncode
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        saves += bool(unfinished(output))
    code = start(place, output).wait()
    if code:
        print(f"{output.name}: exit code {code}", flush=True)
    return kills, saves


def wait_for_a_write(process: subprocess.Popen, output: Path, number: int) -> None:
    """Returns when so many things have begun to be written in a folder, or the process has ended."""
    before = unfinished(output)
    while process.poll() is None:
        now = unfinished(output)
        number -= len(now - before)
        if number <= 0:
            return
        before = now
        time.sleep(0.001)


def unfinished(output: Path) -> set[str]:
    """What is being written in a folder, or was when its writer was killed."""
    try:
        names = {entry.name for entry in os.scandir(output)}
    except FileNotFoundError:
        return set()
    return {name.partition(".orbax")[0] for name in names if name.startswith((".unfinished-", ".replaced-"))}


def result(output: Path) -> dict[str, bytes | None]:
    """The files of a result that are compared; None for one that is not there."""
    paths = {name: output / name for name in COMPARED}
    return {name: path.read_bytes() if path.is_file() else None for name, path in paths.items()}


if __name__ == "__main__":
    sys.exit(main())
