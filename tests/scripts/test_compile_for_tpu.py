"""The step compiles for TPU slices, which need not be there, and its chips exchange kilobytes alone."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tiny_folder import write_folder

from ti_flax.config import parse_config
from ti_flax.errors import ConfigError
from ti_flax.training.devices import pmapped
from ti_flax.training.step import make_chunk

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "compile_for_tpu.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compile_for_tpu", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def run(*flags):
    """Runs the script as a user would."""
    command = [sys.executable, str(SCRIPT), "--config", "configs/demo.yaml", *flags]
    environment = os.environ | {"XLA_FLAGS": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize(
    ("topology", "devices", "memory", "numbers", "flags"),
    [
        ("v5e:2x2", 4, 16, 160, ()),
        ("v6e:2x2", 4, 32, 160, ()),
        ("v5e:2x2", 4, 16, 32 + 32, ("--preset", "sdxl-tiny", "--resolution", "32")),
    ],
)
def test_the_step_compiles_for_a_slice(topology, devices, memory, numbers, flags):
    done = run("--topology", topology, "--no_search", "--roofline", *flags)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^predicted +at \d+ TFLOP/s .*nothing measured$", done.stdout, re.MULTILINE)
    rows = re.findall(r"^  (products|attention|text encoder|step) +(\S+) ", done.stdout, re.MULTILINE)
    assert len(rows) == 4 and float(dict(rows)["step"]) > 0
    assert f"{topology}: {devices} devices of {memory} GiB" in done.stdout
    assert re.search(r"memory +0\.\d+ GiB a device .*: fits", done.stdout)
    # Loss and one row of so many numbers, in one operation.
    (size,) = re.findall(r"between +all-reduce of ([\d,]+) bytes$", done.stdout, re.MULTILINE)
    assert 4 * (1 + numbers) <= int(size.replace(",", "")) <= 4096


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_slice_that_does_not_exist_is_one_line(tmp_path):
    done = run("--topology", "v5e:3x5")
    assert done.returncode == 2 and "--topology: expected a slice that libtpu knows" in done.stderr


def test_a_version_that_does_not_exist_is_one_line():
    done = run("--topology", "v9:2x2")
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: --topology: expected one of v2, v3, v4, v5e, v5p, v6e and a shape, found v9:2x2\n"
    )


def test_a_version_without_known_peaks_gets_no_prediction():
    done = run("--topology", "v2:2x2", "--roofline")
    assert done.returncode == 2
    assert done.stderr == "error: --roofline: expected one of v4, v5e, v5p, v6e, found v2:2x2\n"


@pytest.mark.parametrize("named", ["preset", "folder"])
def test_the_step_of_sdxl_is_lowered_from_shapes_alone(script, named, tmp_path):
    flags = ["--config", str(ROOT / "configs" / "demo.yaml"), "--resolution", "32", "--num_vectors", "2"]
    if named == "folder":
        flags += ["--pretrained_model_name_or_path", str(write_folder(tmp_path / "model", "sdxl"))]
    config = parse_config(flags)
    model = script.read_configs(config, "sdxl-tiny" if named == "preset" else None)
    target = script.Target(config, model, jax.devices()[:2], 0)
    step_config = script.step_config_of(target, 1)
    shapes = script.shapes_for(config, step_config)
    arguments = state, frozen, *_, window = script.abstract_arguments(step_config, shapes, 5, devices=2)
    widths = (32, 32) if named == "preset" else (24, 40)
    assert [rows.shape for rows in state.rows.values()] == [(2, 1, 2, width) for width in widths]
    assert {*frozen} == {"text_encoder", "text_encoder_2", "unet"}
    assert window.training.time_ids.shape == (2, 1, 5, 1, 1, 6)
    chunk = pmapped(make_chunk(step_config, 5, shapes), target.devices)
    assert "all_reduce" in chunk.lower(*arguments).as_text()

    many = script.Target(config, model, jax.devices()[:2], 0, concepts=4)
    step_config = script.step_config_of(many, 1)
    arguments = state, *_ = script.abstract_arguments(step_config, shapes, 5, devices=2)
    assert [rows.shape for rows in state.rows.values()] == [(2, 2, 2, width) for width in widths]
    chunk = pmapped(make_chunk(step_config, 5, shapes), many.devices)
    assert "all_reduce" not in chunk.lower(*arguments).as_text()


@pytest.mark.parametrize("concepts", [0, 9])
def test_devices_hold_the_same_number_of_concepts(script, concepts):
    with pytest.raises(ConfigError, match="^--concepts_at_once: expected fewer than the 8 devices, or a mul"):
        script.check_concepts(concepts, 8)


def test_collectives_and_their_bytes_are_found(script):
    text = """
      %a = f32[3,160]{1,0} parameter(0)
      %ar = (f32[160]{0}, f32[]{:T(128)}) all-reduce(%a, %b), channel_id=1
      ROOT %s = (bf16[8], bf16[8]) all-gather-start(%c), dimensions={0}
      %d = bf16[8] all-gather-done(%s)
    """
    assert script.collectives(text) == (("all-reduce", 644), ("all-gather", 32))


def planned(script, monkeypatch, *, fixed, each, crash=10**9):
    """Makes memory a line in the batch, and counts compilations."""
    tried = []

    def compile_step(target, batch):
        tried.append(batch)
        if batch > crash:
            raise MemoryError
        return script.Compiled(batch, 1.0, fixed, each * batch, 0, 0.0, 0.0, ())

    monkeypatch.setattr(script, "compile_step", compile_step)
    return tried


@pytest.mark.parametrize("crash", [10**9, 40])
def test_the_largest_batch_is_found_in_a_few_compilations(script, monkeypatch, crash):
    tried = planned(script, monkeypatch, fixed=100, each=10, crash=crash)
    target = script.Target(None, None, [], 100 + 37 * 10)
    assert script.largest_batch(target, None) == 37
    assert tried == [1, 2, 37]


def test_no_batch_fits(script, monkeypatch):
    planned(script, monkeypatch, fixed=100, each=10)
    assert script.largest_batch(script.Target(None, None, [], 105), None) == 0
    assert script.largest_batch(script.Target(None, None, [], 115), None) == 1
