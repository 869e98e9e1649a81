"""Int8 weights: the bound by brute force, the kernels against float64, whole models against their widened copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cs336_systems.inference.engine import Engine
from cs336_systems.inference.fused_model import FusedRunner
from cs336_systems.inference.int8_kernel import PackedInt8
from cs336_systems.inference.quantization import Int8Linear, dequantize_rows, quantize_linears, quantize_rows
from cs336_systems.inference.sampling import SamplingParams
from tests.unit.systems.inference_cases import VARIANTS, build, decode_by_hand


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_rounding_is_within_half_a_step_and_the_nearest(size):
    weight = torch.randn(7, 30, generator=torch.Generator().manual_seed(0)) * size
    weight[3] = 0.0
    quantized, scale = quantize_rows(weight)
    for row in range(7):
        largest = max(abs(float(w)) for w in weight[row])
        assert float(scale[row]) == pytest.approx(largest / 127, rel=1e-6)
        for w, q in zip(weight[row].tolist(), quantized[row].tolist(), strict=True):
            assert abs(q) <= 127 and abs(w - q * float(scale[row])) <= 0.5001 * float(scale[row])
    assert quantized[3].eq(0).all()
    torch.testing.assert_close(dequantize_rows(quantized, scale), quantized * scale[:, None])
    for wrong, text in ((torch.zeros(3), "matrix"), (torch.full((2, 2), float("nan")), "finite")):
        with pytest.raises(ValueError, match=text):
            quantize_rows(wrong)


@pytest.mark.parametrize("outputs", [1, 63, 130, 700])
def test_the_kernel_against_float64(outputs):
    draw = np.random.default_rng(outputs)
    parts = [torch.from_numpy(draw.standard_normal((n, 48)).astype(np.float32)) for n in (outputs, 5)]
    quantized, scale = quantize_rows(torch.cat(parts))
    exact = quantized.double() * scale.double()[:, None]
    for rows in (4, 12):
        x = draw.standard_normal((rows, 48)).astype(np.float32)
        np.testing.assert_allclose(PackedInt8(parts)(x), x.astype(np.float64) @ exact.numpy().T, atol=1e-4)


def test_fused_int8_equals_the_readable_form():
    model = build(d_model=32, d_ff=40)
    runner, ids = FusedRunner(model, 20, page_size=4, weights="int8"), [1, 5, 2, 8, 3]
    found = runner.forward([runner.new_row()], [ids], every=True)[0]
    with torch.no_grad():
        torch.testing.assert_close(found, quantize_linears(model)(torch.tensor([ids]))[0], atol=1e-4, rtol=1e-4)
    full = FusedRunner(model, 20, page_size=4)
    assert runner.bytes_per_step < 0.45 * full.bytes_per_step


def test_outputs_stay_within_the_bound_and_logits_move_little():
    model = build(d_model=64, d_ff=80, num_heads=4)
    linear, x = model.layers[0].ffn.w1, torch.randn(9, 64, generator=torch.Generator().manual_seed(1))
    _, scale = quantize_rows(linear.weight)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        moved = (linear(x) - Int8Linear(linear)(x)).abs()
        assert (moved <= 0.501 * scale * x.abs().sum(dim=1, keepdim=True)).all() and moved.max() > 0
        exact, rounded = model(ids), quantize_linears(model)(ids)
    assert 0 < (exact - rounded).pow(2).mean().sqrt() < 0.1 * exact.std()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_served_in_int8(variant):
    model, params = build(torch.float64, **VARIANTS[variant]), SamplingParams(max_tokens=5, seed=4)
    found = Engine(model, weights="int8", page_size=4).generate([[1, 2, 3]], params)[0]
    ids, logprobs = decode_by_hand(quantize_linears(model), [1, 2, 3], params)
    assert found.ids == ids
    np.testing.assert_allclose(found.logprobs, logprobs, atol=1e-5)
