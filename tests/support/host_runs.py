"""Runs of the tiny model on several hosts, each a process of its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from environment import xla_flags

from ti_flax.embedding.learned_embeds import load_learned_embeds

PROCESS = Path(__file__).with_name("host_process.py")


def start(place, output, *flags, devices, word="<thing>", **environment):
    command = [sys.executable, PROCESS, "--pretrained_model_name_or_path", place / "model"]
    command += ["--train_data_dir", place / "pictures", "--output_dir", output]
    command += [] if word is None else ["--placeholder_token", word]
    command += ["--initializer_token", "toy", "--resolution", "32"]
    command += ["--seed", "3", "--learning_rate", "1e-2", "--lr_scheduler", "constant"]
    command += ["--only_save_embeds", "--report_to", "none", *flags]
    environment |= {"XLA_FLAGS": xla_flags(devices)}
    return subprocess.Popen(
        [str(part) for part in command],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
    )


def ended(process, code=0):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors[-3000:]
    return errors


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start_several(place, outputs, *flags, own=None, environments=None, word="<thing>"):
    """Starts one process of two devices for every output; `own` are flags of one of them, by number."""
    place_flags = ("--multi_host", "--coordinator_address", free_address(), "--num_processes", len(outputs))
    return [
        start(
            place,
            output,
            *(*place_flags, "--process_id", index, *flags, *(own or {}).get(index, ())),
            devices=2,
            word=word,
            **(environments or {}).get(index, {}),
        )
        for index, output in enumerate(outputs)
    ]


def run_on_two(place, outputs, *flags, code=0, **special):
    return [ended(process, code) for process in start_several(place, outputs, *flags, **special)]


def rows_of(folder):
    return load_learned_embeds(folder / "learned_embeds.safetensors")[1]
