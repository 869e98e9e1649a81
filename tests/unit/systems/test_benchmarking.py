"""Sizes, timing and the benchmark of a step: counts against the spec's table and built models, structure of results.

No time is asserted; where times matter the clock is replaced.
"""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest
import torch

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.optimizer import AdamW
from cs336_systems import timing
from cs336_systems.benchmarking import (
    BenchmarkOptions,
    benchmark_table,
    measure_model,
    predict_bytes,
    run_benchmark,
    step_parts,
    write_benchmark,
)
from cs336_systems.model_sizes import SIZES, course_model, size_names

TABLE = {  # parameters as the assignment's table implies them: 2 V d + L (4 d^2 + 3 d F + 2 d) + d
    "small": 128.6e6, "medium": 423.2e6, "large": 969.4e6, (2024, "xl"): 1.998e9, (2025, "xl"): 1.998e9,
    (2026, "xl"): 3.407e9, "2.7B": 3.407e9, "10B": 12.83e9,
}  # fmt: skip
TINY = ModelConfig(vocab_size=31, context_length=8, d_model=16, num_layers=1, num_heads=2, d_ff=32)
QUICK = BenchmarkOptions(batch_size=2, warmups=1, repeats=3, device="cpu")


@pytest.mark.parametrize(("edition", "name"), [(e, n) for e in SIZES for n in size_names(e)])
def test_every_size_has_the_parameters_of_the_table(edition, name):
    model = TransformerLM(course_model(name, edition=edition), device="meta")
    expected = TABLE.get((edition, name)) or TABLE[name]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(expected, rel=5e-4)


def test_unknown_sizes_and_editions_are_refused():
    with pytest.raises(ValueError, match="size must be one of small, .*got 'huge'"):
        course_model("huge")
    with pytest.raises(ValueError, match="edition must be one of 2024, 2025, 2026; got 2023"):
        course_model("small", edition=2023)
    assert course_model("small", edition=2024, context_length=77).context_length == 77


def test_a_timing_is_numpys_statistics():
    seconds = [0.011, 0.013, 0.0105, 0.02, 0.0111]
    result = timing.Timing.of(seconds)
    assert result.mean_ms == pytest.approx(1e3 * statistics.fmean(seconds))
    assert result.std_ms == pytest.approx(1e3 * np.std(seconds, ddof=1))
    assert [result.p10_ms, result.median_ms, result.p90_ms] == pytest.approx(
        1e3 * np.quantile(seconds, [0.1, 0.5, 0.9])
    )
    assert timing.Timing.of([0.5]).std_ms == 0
    with pytest.raises(ValueError, match="at least one measurement"):
        timing.Timing.of([])


def test_warmups_do_not_count_and_inputs_are_fresh(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    prepared, seen = [], []

    def prepare(i):
        prepared.append(i)
        return i

    parts = [("a", lambda x: seen.append(x) or x + 100), ("b", lambda x: seen.append(x))]
    seconds = timing.time_parts(parts, prepare, device=torch.device("cpu"), warmups=2, repeats=3)
    assert prepared == [0, 1, 2, 3, 4]
    assert seen == [0, 100, 1, 101, 2, 102, 3, 103, 4, 104]
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1], "total": [2, 2, 2]}  # the clock ticks once per reading


def test_the_device_is_waited_for_around_each_part(monkeypatch):
    events = []
    monkeypatch.setattr(timing, "synchronize", lambda device: events.append("wait"))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: events.append("clock") or 0.0)
    timing.time_parts(
        [("work", lambda _: events.append("work"))], lambda _: events.append("prepare"), device=torch.device("cpu"),
        warmups=0, repeats=1,
    )  # fmt: skip
    assert events == ["prepare", "wait", "clock", "work", "wait", "clock"]


@pytest.mark.parametrize(("mode", "parts"), [("forward", 1), ("backward", 2), ("step", 3)])
def test_the_parts_make_the_step(mode, parts):
    torch.manual_seed(0)
    model, other = TransformerLM(TINY), TransformerLM(TINY)
    other.load_state_dict(model.state_dict())
    ids = torch.randint(31, (2, 9))
    value = ids
    named = step_parts(model, AdamW(model.parameters()), mode=mode, precision="float32", device=torch.device("cpu"))
    assert [name for name, _ in named] == ["forward", "backward", "optimizer"][:parts]
    for _, part in named:
        value = part(value)
    if mode == "step":
        optimizer = torch.optim.AdamW(other.parameters(), lr=1e-3, weight_decay=0.01)
        cross_entropy(other(ids[:, :-1]), ids[:, 1:]).backward()
        optimizer.step()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert ours.grad is None


def test_rows_and_files(tmp_path):
    rows = run_benchmark([("tiny", TINY), ("big", course_model("10B"))], QUICK, memory_bytes=10**9, say=lambda _: None)
    tiny, big = rows
    assert list(tiny.timings) == ["forward", "backward", "optimizer", "total"]
    assert all(t.count == 3 for t in tiny.timings.values())
    assert tiny.parameters == sum(p.numel() for p in TransformerLM(TINY).parameters())
    assert tiny.tokens == 16 and tiny.flops == 3 * 2 * 2 * 8 * (4 * 16 * 16 + 3 * 16 * 32 + 16 * 31 + 2 * 8 * 16)
    assert not big.timings and big.predicted_bytes > 16 * 12.8e9
    assert big.skipped == f"needs {big.predicted_bytes / 1e9:.1f} GB, 1.0 GB are free"
    text = write_benchmark(rows, QUICK, tmp_path).read_text()
    assert "skipped: needs" in text and "| tiny |" in text
    stored = json.loads((tmp_path / "benchmark.json").read_text())
    assert [row["name"] for row in stored["rows"]] == ["tiny", "big"]
    assert stored["rows"][0]["timings"]["total"]["count"] == 3 and stored["environment"]["device"] == "cpu"
    assert stored["rows"][0]["tokens_per_second"] > 0 and stored["rows"][1]["tflops"] is None


@pytest.mark.parametrize("mode", ["forward", "backward", "step"])
def test_the_table_has_a_column_per_part(mode):
    options = BenchmarkOptions(batch_size=1, mode=mode, precision="bfloat16", warmups=0, repeats=1, device="cpu")
    row = measure_model("tiny", TINY, options)
    table = benchmark_table([row], mode)
    assert [h for h in table.headers if h.endswith(", ms") and "median" not in h] == [f"{p}, ms" for p in row.timings]


def test_variants_are_predicted_by_a_trace():
    variant = ModelConfig(vocab_size=31, context_length=8, d_model=16, num_layers=1, num_heads=2, ffn="gelu")
    assert predict_bytes(variant, QUICK) > 16 * sum(p.numel() for p in TransformerLM(variant).parameters())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"repeats": 0}, "repeats must be at least 1; got 0"),
        ({"warmups": -1}, "warmups must be at least 0; got -1"),
        ({"mode": "train"}, "mode must be one of"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"compile": True, "warmups": 0}, "compile needs warmups"),
    ],
)
def test_bad_options_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkOptions(**values)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_missing_gpu_is_said():
    with pytest.raises(ValueError, match="finds no CUDA GPU"):
        measure_model("tiny", TINY, BenchmarkOptions(device="cuda"))
