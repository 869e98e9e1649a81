"""Rooflines and mixed precision: counts by hand and by torch's own counter, the handout's numbers."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cs336_basics.model_config import ModelConfig
from cs336_systems.mixed_precision import accumulate, accumulation_results, autocast_dtypes
from cs336_systems.roofline import (
    Peaks,
    Point,
    measure_peaks,
    measure_roofline,
    model_operations,
    operation_costs,
    roofline_table,
    write_roofline,
)

CONFIG = ModelConfig(vocab_size=40, context_length=8, d_model=16, num_layers=1, num_heads=2, d_ff=48)
CPU = torch.device("cpu")


def test_the_roof():
    peaks = Peaks(flops=100.0, bandwidth=10.0)
    assert peaks.ridge == 10
    assert [peaks.attainable(i) for i in (1, 10, 50)] == [10, 100, 100]
    assert Point("x", 200, 100, 2.0, attainable=20.0, measured=5.0).share == 0.25


def test_costs_counted_by_hand():
    costs = operation_costs(CONFIG, batch_size=3)  # 24 tokens, scores 3 * 2 * 8 * 8 = 384
    assert costs["projection"] == (2 * 24 * 16 * 16, 4 * (24 * 16 + 16 * 16 + 24 * 16))
    assert costs["softmax"] == (5 * 384, 4 * 2 * 384)
    assert costs["attention, fused"] == (4 * 384 * 8 + 5 * 384, 4 * 4 * 24 * 16)
    assert costs["RMSNorm"] == (4 * 24 * 16, 4 * (2 * 24 * 16 + 16))
    assert costs["AdamW"] == (14 * (4 * 256 + 3 * 768), 28 * (4 * 256 + 3 * 768))
    assert operation_costs(CONFIG, batch_size=3, element_bytes=2)["head"][1] == 2 * (24 * 16 + 16 * 40 + 24 * 40)


@pytest.mark.parametrize("name", ["projection", "feed-forward up", "head", "decode, projection"])
def test_products_are_what_torch_counts(name):
    operation = next(
        o for o in model_operations(CONFIG, batch_size=3, device=CPU, dtype=torch.float32) if o.name == name
    )
    with FlopCounterMode(display=False) as counter:
        operation.run()
    assert operation.flops == counter.get_total_flops()


def test_attention_counts_its_products_and_five_per_score():
    operation = model_operations(CONFIG, batch_size=3, device=CPU, dtype=torch.float32)[2]
    with FlopCounterMode(display=False) as counter:
        operation.run()
    assert operation.flops == counter.get_total_flops() + 5 * 384


def test_intensity_of_fused_attention_is_half_the_length():
    long = ModelConfig(vocab_size=40, context_length=4096, d_model=128, num_layers=1, num_heads=1)
    flops, size = operation_costs(long, batch_size=1, element_bytes=2)["attention, fused"]
    assert flops / size == pytest.approx(4096 / 2, rel=0.02)  # 4 T^2 d / (8 T d), and the softmax


def test_a_report_of_every_operation(tmp_path):
    peaks, points = measure_roofline(CONFIG, batch_size=1, device="cpu", repeats=1, peak_size=64, copy_bytes=1 << 16)
    assert peaks.flops > 0 and peaks.bandwidth > 0
    assert [point.name for point in points] == list(operation_costs(CONFIG, batch_size=1))
    assert all(p.attainable == min(peaks.flops, p.flops / p.bytes * peaks.bandwidth) and p.measured > 0 for p in points)
    assert [row[3] for row in roofline_table(points).rows] == sorted(p.intensity for p in points)
    text = write_roofline(peaks, points, tmp_path, device=CPU, about="Tiny.").read_text()
    assert "FLOPs per byte" in text and (tmp_path / "figures" / "roofline.svg").is_file()
    stored = json.loads((tmp_path / "roofline.json").read_text())
    assert stored["peaks"]["ridge"] == pytest.approx(peaks.flops / peaks.bandwidth)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="dtype must be one of float32, .*got 'fp8'"):
        measure_roofline(CONFIG, batch_size=1, device="cpu", dtype="fp8")
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        operation_costs(CONFIG, batch_size=0)
    with pytest.raises(ValueError, match="size must be at least 1"):
        measure_peaks(CPU, torch.float32, size=0)


def test_accumulation_gives_the_handouts_numbers():
    expected = {"float32 += float32": 10.000134, "float16 += float16": 9.953125, "float32 += float16": 10.002136,
                "float32 += float32(float16)": 10.002136}  # fmt: skip
    assert accumulation_results() == pytest.approx(expected, abs=5e-7)
    assert accumulate(torch.float64, torch.float64) == pytest.approx(10, abs=1e-12)
    with pytest.raises(ValueError, match="count must not be negative; got -1"):
        accumulate(torch.float32, torch.float32, count=-1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_keeps_parameters_gradients_and_loss_in_float32(dtype):
    dtypes = autocast_dtypes("cpu", dtype)
    low = str(dtype).removeprefix("torch.")
    assert {dtypes[name] for name in ("parameters", "gradients", "loss")} == {"float32"}
    assert {dtypes[name] for name in ("fc1 output", "logits")} == {low}


@pytest.mark.gpu
def test_autocast_on_a_gpu_normalises_in_float32():
    assert autocast_dtypes("cuda")["LayerNorm output"] == "float32"


def test_autocast_to_float32_is_refused():
    with pytest.raises(ValueError, match="autocast takes"):
        autocast_dtypes("cpu", torch.float32)
