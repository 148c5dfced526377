"""A CPU's cores as devices that share one batch, and arrays that they share."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from environment import xla_flags
from tiny_folder import write_folder, write_images

from ti_flax.embedding.learned_embeds import load_learned_embeds
from ti_flax.hosts import devices as cores
from ti_flax.training.devices import aligned, batch_devices, batches_at_once, pmapped, replicate

ROOT = Path(__file__).parents[2]


def process(code, *arguments, **environment):
    """What Python prints where nobody has asked JAX for a number of devices."""
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    environment = inherited | {"XLA_FLAGS": xla_flags(None), "PYTHONPATH": str(ROOT)} | environment
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout.split()


COUNTS = """
from ti_flax.hosts import devices
devices.usable_cores = lambda: 4
devices.show_cores()
from ti_flax.training.devices import batch_devices, batches_at_once
print(*(len(batch_devices(size)) for size in (8, 6, 7, 1, 2)), batches_at_once())
"""


@pytest.mark.parametrize(
    ("environment", "counts"),
    [
        ({}, "4 3 1 1 2 1"),
        # Whoever asks for devices gets them, each with a batch of its own.
        ({"JAX_NUM_CPU_DEVICES": "3"}, "3 3 3 3 3 3"),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, "2 2 2 2 2 2"),
    ],
)
def test_cores_take_equal_shares_of_a_batch(environment, counts):
    assert process(COUNTS, **environment) == counts.split()


def test_devices_that_are_asked_for_have_batches_of_their_own():
    assert batch_devices(3) == jax.devices() and batches_at_once() == 8 and not cores.cores_share_batch()


RUN = """
import sys
from ti_flax.hosts import devices
devices.usable_cores = lambda: int(sys.argv[1])
from ti_flax.config import parse_config
from ti_flax.run.train import train
import jax
train(parse_config(sys.argv[2:]))
print(len(jax.devices()))
"""


def test_a_batch_on_several_cores_teaches_what_it_teaches_on_one(tmp_path):
    write_folder(tmp_path / "model")
    write_images(tmp_path / "images")
    flags = {
        "pretrained_model_name_or_path": tmp_path / "model",
        "train_data_dir": tmp_path / "images",
        "placeholder_token": "<thing>",
        "initializer_token": "toy",
        "resolution": 32,
        "train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_train_steps": 4,
        "learning_rate": 1e-2,
        "eval_steps": 2,
        "validation_prompt": "a <thing>",
        "num_validation_images": 3,
        "validation_steps": 2,
        "seed": 3,
        "report_to": "none",
    }
    learned, tables = [], []
    for count in (1, 2):
        out = tmp_path / str(count)
        arguments = [f"--{name}={value}" for name, value in flags.items()]
        assert process(RUN, count, *arguments, f"--output_dir={out}") == [str(count)]
        learned.append(load_learned_embeds(out / "learned_embeds.safetensors")[1])
        tables.append((out / "signals.csv").read_text().splitlines())
        assert (out / "validation" / "step-4.png").is_file()
    np.testing.assert_allclose(learned[1], learned[0], rtol=1e-4, atol=1e-6)
    losses = [[float(line.split(",")[1]) for line in table[1:]] for table in tables]
    assert len(losses[0]) == 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_devices_of_a_cpu_share_one_copy_which_a_donation_leaves_alone():
    devices = jax.devices()[:2]
    array = aligned(np.ones((64, 3), np.float32))
    placed = replicate(array, devices)
    places = [shard.data.unsafe_buffer_pointer() for shard in placed.addressable_shards]
    assert places == [array.ctypes.data] * 2
    added = pmapped(lambda state: state + 1, devices)(placed)  # which donates its argument
    assert (np.asarray(added) == 2).all() and (array == 1).all()


def test_an_array_that_lies_askew_is_moved_once():
    askew = np.arange(33, dtype=np.float32)[1:]
    moved = aligned(askew)
    assert moved.ctypes.data % 64 == 0 and (moved == askew).all() and aligned(moved) is moved
    turned = aligned(np.arange(6, dtype=np.int8).reshape(2, 3).T)
    assert turned.flags.c_contiguous and turned.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert aligned(np.asarray(np.float32(3))).shape == ()
