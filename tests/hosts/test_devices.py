"""Devices that JAX cannot start: one line that says what was found and what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ti_flax.console.device_trouble import device_trouble
from ti_flax.console.program import exit_code
from ti_flax.errors import DeviceError
from ti_flax.hosts import devices

ROOT = Path(__file__).parents[2]
AUTO = " (set JAX_PLATFORMS='' to automatically choose an available backend)"
# What JAX and libtpu say, and what the line tells people to do.
MESSAGES = {
    "held": (
        "Unable to initialize backend 'tpu': ABORTED: The TPU is already in use by process with pid 4242. "
        "Not attempting to load libtpu.so in this process.",
        "found ABORTED: The TPU is already in use by process with pid 4242.*Another program holds the TPU",
    ),
    "lock": (
        "Unable to initialize backend 'tpu': UNKNOWN: TPU initialization failed: Internal error when "
        'accessing libtpu multi-process lockfile. Run "$ sudo rm /tmp/libtpu_lockfile".',
        "lockfile.*Another program holds the TPU.*`sudo rm -f /tmp/libtpu_lockfile`",
    ),
    "no tpu": (
        "Unable to initialize backend 'tpu': INTERNAL: Failed to open libtpu.so: libtpu.so: cannot open "
        "shared object file: No such file or directory",
        'No such device is set up here: unset JAX_PLATFORMS.*jax\\[tpu\\]"',
    ),
    "unknown": (
        "Unable to initialize backend 'nonsense': Backend 'nonsense' is not in the list of known backends: "
        "['cpu', 'tpu'].",
        "unset JAX_PLATFORMS",
    ),
    "driver": (
        "Unable to initialize backend 'cuda': FAILED_PRECONDITION: No visible GPU devices; CUDA_ERROR_SYSTEM_"
        "DRIVER_MISMATCH: system has unsupported display driver / cuda driver combination",
        "Check the driver with `nvidia-smi`",
    ),
    "full": (
        "Unable to initialize backend 'cuda': RESOURCE_EXHAUSTED: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "Another program has taken the device's memory.*CUDA_VISIBLE_DEVICES",
    ),
    "permission": (
        "Unable to initialize backend 'tpu': PERMISSION_DENIED: open(/dev/vfio/0): Permission denied",
        "This user may not open the device",
    ),
}


@pytest.mark.parametrize("name", list(MESSAGES))
def test_what_jax_says_becomes_one_line(monkeypatch, capsys, name):
    said, told = MESSAGES[name]

    def fail():
        raise RuntimeError(said + AUTO)

    monkeypatch.setattr(devices.jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    with pytest.raises(
        DeviceError, match=f"^JAX_PLATFORMS=tpu: expected a device that JAX can use, .*{told}"
    ) as at:
        devices.start_devices()
    assert "automatically choose" not in str(at.value)
    # Where something else asks for devices first, the program says the same.
    assert exit_code(fail) == 2
    assert capsys.readouterr().err == f"error: {at.value}\n"


def test_another_error_keeps_its_traceback(monkeypatch):
    def fail():
        raise RuntimeError("something else")

    monkeypatch.setattr(devices.jax, "devices", fail)
    with pytest.raises(RuntimeError, match="^something else"):
        devices.start_devices()
    with pytest.raises(RuntimeError, match="^something else"):
        exit_code(fail)
    assert device_trouble(ValueError("Unable to find it")) is None


@pytest.mark.parametrize("platform", ["tpu", "cuda", "nonsense"])
@pytest.mark.parametrize(
    "program",
    [
        ["train_flax.py", "--config=configs/demo.yaml", "--output_dir={}/out"],
        [
            "scripts/generate.py",
            "--pretrained_model_name_or_path=assets/demo-model",
            "--prompt=a",
            "--output={}/a",
        ],
        ["benchmarks/attention.py"],
    ],
    ids=lambda program: program[0],
)
def test_a_platform_that_is_not_there_is_one_line(tmp_path, platform, program):
    command = [sys.executable, *(part.format(tmp_path) for part in program)]
    env = os.environ | {"JAX_PLATFORMS": platform, "TI_FLAX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: JAX_PLATFORMS={platform}: expected a device that JAX can use, found ")
    assert "unset JAX_PLATFORMS" in line and "Traceback" not in done.stderr


def test_a_wrong_option_is_said_before_any_device_is_asked_for():
    command = [sys.executable, "train_flax.py", "--config=configs/demo.yaml", "--sed=1"]
    env = os.environ | {"JAX_PLATFORMS": "nonsense"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: unknown flag --sed. Did you mean --seed?\n")
