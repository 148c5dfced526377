"""The benchmark of the step measures something, and says all that it should."""

import json

import pytest


def test_figures(tmp_path, monkeypatch, capsys):
    import step as benchmark

    monkeypatch.setattr("presets.RESOLUTIONS", {"demo": 16})
    cache = []
    monkeypatch.setattr(benchmark, "keep_in_empty_folder", lambda: cache.append(1))
    monkeypatch.setattr(benchmark, "matmul_rate", lambda dtype, device: 1e11)
    flags = ["--preset", "demo", "--batch", "2", "--calls", "2", "--seconds", "0.05"]
    benchmark.main([*flags, "--json", str(tmp_path / "deep" / "step.json")])
    figures = json.loads((tmp_path / "deep" / "step.json").read_text())
    shown = capsys.readouterr().out
    assert cache and "demo, 16 px, batch 2, float32" in shown and "from the cache" in shown
    assert 0 < figures["step_ms_least"] <= figures["step_ms_median"] <= figures["step_ms_most"]
    assert figures["samples_per_second"] == pytest.approx(2 * 8 / figures["step_ms_median"] * 1e3)
    work = figures["flop_per_sample"] * 2
    assert figures["mfu"] == pytest.approx(work / (figures["step_ms_median"] / 1e3) / 1e11)
    assert 0 <= figures["host_share_between_calls"] < 1
    assert figures["planned_arguments_gb"] > 0.02 and {"jax", "python"} <= set(figures["versions"])
