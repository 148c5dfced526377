"""The benchmark of the step measures something, and says all that it should."""

import json
import time

import jax
import numpy as np
import peak
import presets
import pytest
import step as benchmark

from ti_flax.training.streaming import shapes_of


class Slow(peak.Matmuls):
    """Takes a tenth of a second for a round, each at another rate than the one before."""

    def __init__(self, *arguments, **options):
        self.rates = []

    def measure(self):
        time.sleep(0.1)
        self.rates.append([1e11, 9e11, 2e11][len(self.rates)])


def test_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "keep_in_empty_folder", lambda: None)
    monkeypatch.setattr(benchmark, "Matmuls", Slow)
    monkeypatch.setenv("XLA_FLAGS", "")  # which the program writes to
    file = tmp_path / "deep" / "step.json"
    tiny = ["--preset", "tiny", "--devices", "1", "--batch", "2", "--calls", "3", "--seconds", "0.05"]
    benchmark.main([*tiny, "--json", str(file)])
    figures, shown = json.loads(file.read_text()), capsys.readouterr().out
    assert "tiny, 32 px, batch 2, float32" in shown and "from the cache" in shown
    assert 0 < figures["step_ms_least"] <= figures["step_ms_median"] <= figures["step_ms_most"]
    assert figures["samples_per_second"] == pytest.approx(2 / figures["step_ms_median"] * 1e3)
    # A round after each timed call, of which the middle one counts, and none of its time is the host's.
    assert figures["flop_per_second_of_matmul"] == figures["flop_per_second_at_peak"] == 2e11
    assert 0 <= figures["host_share_between_calls"] < 0.3
    work = figures["flop_per_sample"] * 2
    assert figures["mfu"] == pytest.approx(work / (figures["step_ms_median"] / 1e3) / 2e11)
    assert f"MFU            {figures['mfu']:.1%} of the peak" in shown
    assert "peak           0.2 TFLOP/s a device: large matrix products on this machine" in shown
    assert figures["planned_arguments_gb"] > 0 and {"jax", "python"} <= set(figures["versions"])
    published = benchmark.against_peak(work, 1.0, [2e11], 3e12)
    assert "peak           3 TFLOP/s a device: published for" in benchmark.shown(figures | published)


def test_sdxl_is_measured_and_each_of_its_layers_counts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "keep_in_empty_folder", lambda: None)
    monkeypatch.setattr(benchmark, "Matmuls", Slow)
    monkeypatch.setenv("XLA_FLAGS", "")
    file = tmp_path / "step.json"
    tiny = ["--preset", "sdxl-tiny", "--devices", "1", "--calls", "1", "--seconds", "0.01"]
    benchmark.main([*tiny, "--json", str(file)])
    work = json.loads(file.read_text())["flop_per_sample"]
    assert "sdxl-tiny, 32 px, batch 1, float32" in capsys.readouterr().out
    # Each layer of a scan counts: twelve in place of two add five times what two more add.
    assert layers_work(monkeypatch, tiny, 12) - work == 5 * (layers_work(monkeypatch, tiny, 4) - work) > 0


def layers_work(monkeypatch, tiny, layers):
    """FLOP of a sample with so many layers in a transformer of the inner level."""
    deep = presets.SDXL_TINY["unet"] | {"transformer_layers_per_block": [1, layers]}
    monkeypatch.setitem(presets.SDXL_TINY, "unet", deep)
    step_config, _, arguments, examples = benchmark.build(benchmark.parse_arguments(tiny), jax.devices()[:1])
    return benchmark.flop_per_sample(step_config, arguments[0], shapes_of(examples))


def test_the_step_is_held_against_a_published_peak_where_there_is_one():
    found = benchmark.against_peak(6e11, 2.0, [1e11, 9e11, 2e11], None)
    assert (found["mfu"], found["floor_ms"], found["peak_is_published"]) == (1.5, 3e3, False)
    found = benchmark.against_peak(6e11, 2.0, [1e11, 9e11, 2e11], 1e12)
    assert (found["mfu"], found["floor_ms"], found["peak_is_published"]) == (0.3, 600.0, True)
    assert found["flop_per_second_of_matmul"] == 2e11 and found["flop_per_second_at_peak"] == 1e12


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4e12),
        ("NVIDIA H100 PCIe", "float32", 378e12),
        ("NVIDIA A100-SXM4-40GB", "bfloat16", 312e12),
        ("NVIDIA H200", "bfloat16", 989.4e12),
        ("NVIDIA H200 NVL", "bfloat16", 835.5e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA L40S", "bfloat16", None),
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5", "float32", 459e12),
        ("TPU v6 lite", "bfloat16", 918e12),
        ("cpu", "float32", None),
    ],
)
def test_published_rates(kind, dtype, expected):
    assert peak.published_rate(kind, dtype) == expected


class Clock:
    """A machine that takes 1 ms for a product in float32, 4 ms in bfloat16, and more when it is slow."""

    def __init__(self):
        self.now, self.slower = 0.0, 1.0

    def perf_counter(self):
        return self.now

    def product(self, x, _):
        self.now += self.slower * (1e-3 if x.dtype == np.float32 else 4e-3)


def test_a_round_is_as_fast_as_the_machine_then_is_in_the_faster_dtype(monkeypatch):
    import jax

    clock = Clock()
    matmuls = peak.Matmuls("bfloat16", jax.devices()[0], devices=2, side=8)
    monkeypatch.setattr(peak, "time", clock)
    matmuls._product = clock.product
    for clock.slower in (1.0, 3.0):
        matmuls.measure()
    # Two virtual devices have half of the cores each.
    whole = 2 * 8**3 / 1e-3
    np.testing.assert_allclose(matmuls.rates, [whole / 2, whole / 6])


def test_rounds_are_timed():
    import jax

    matmuls = peak.Matmuls("float32", jax.devices()[0], side=64)
    matmuls.measure()
    assert len(matmuls.rates) == 1 and 1e6 < matmuls.rates[0] < 1e15
