"""The accounting against the handouts' numbers, step counts of the simulated ring, and searches over whole grids."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from cs336_systems.parallel.communication_accounting import (
    FeedForwardWork,
    alternate_ring_all_reduce_s,
    data_parallel_calcs,
    fsdp_calcs,
    fsdp_tp_calcs,
    max_data_parallel_devices,
    max_fsdp_tp_devices,
    max_tensor_parallel_devices,
    ring_all_gather_s,
    ring_all_reduce_s,
    tp_calcs,
)
from cs336_systems.parallel.ring_all_reduce import alternate_ring_all_reduce, ring_all_reduce
from cs336_systems.parallel.sharding_accounting import BlockStack, Mesh

B, D, F, C, W = 4096, 64, 24, 1.0e6, 1.0e4
WORK = FeedForwardWork(batch_tokens=B, d_model=D, d_ff=F, flops_per_s=C, bytes_per_s=W)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_seconds_are_the_simulated_ring_s_bytes(n):
    vectors = [torch.ones(16 * n) for _ in range(n)]
    size_bytes = 64 * n
    assert ring_all_reduce_s(size_bytes, n, 10.0) == pytest.approx(ring_all_reduce(vectors).sent_bytes[0] / 10)
    sent = alternate_ring_all_reduce(vectors).sent_bytes[0]
    assert alternate_ring_all_reduce_s(size_bytes, n, 10.0) == pytest.approx(sent / 10)
    assert 2 * ring_all_gather_s(size_bytes, n, 10.0) == ring_all_reduce_s(size_bytes, n, 10.0)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_times_by_the_handout_s_formulas(n):
    fwd, bwd = 6 * B * D * F / n / C, 12 * B * D * F / n / C
    weights, stream = 6 * D * F * (n - 1) / (n * W), 4 * B * D * (n - 1) / (n * W)
    assert dataclasses.astuple(data_parallel_calcs(WORK, n)) == pytest.approx((fwd, 0, bwd, 2 * weights))
    assert dataclasses.astuple(fsdp_calcs(WORK, n)) == pytest.approx((fwd, weights, bwd, 2 * weights))
    assert dataclasses.astuple(tp_calcs(WORK, n)) == pytest.approx((fwd, stream, bwd, stream))


@pytest.mark.parametrize(
    ("calcs", "limit"),
    [
        (data_parallel_calcs, max_data_parallel_devices),
        (fsdp_calcs, max_data_parallel_devices),
        (tp_calcs, max_tensor_parallel_devices),
    ],
)
@pytest.mark.parametrize("bytes_per_s", [1.01e4, 9.7e4, 1.137e6])
def test_limits_by_search(calcs, limit, bytes_per_s):
    work = dataclasses.replace(WORK, batch_tokens=100, bytes_per_s=bytes_per_s)
    most = max(n for n in range(1, 2000) if calcs(work, n).is_compute_bound)
    assert most == math.floor(limit(work))


def test_limits_of_the_handout():
    assert max_data_parallel_devices(WORK) == pytest.approx(1 + B * W / C)
    assert max_tensor_parallel_devices(WORK) == pytest.approx(1 + 1.5 * F * W / C)
    backward = [n for n in range(1, 10) if tp_calcs(WORK, n).backward_communication_s <= 2 * WORK.forward_s / n]
    assert max(backward) == math.floor(1 + 3 * F * W / C)


@pytest.mark.parametrize("overlapped", [True, False])
@pytest.mark.parametrize(("batch_tokens", "d_ff"), [(4096, 3000), (30000, 700), (300, 3000), (50, 10)])
def test_grid_limit_by_search(overlapped, batch_tokens, d_ff):
    """No whole grid beats the bound, and the best one comes near."""
    work = dataclasses.replace(WORK, batch_tokens=batch_tokens, d_ff=d_ff)
    best = max(
        x * y
        for x in range(1, 350)
        for y in range(1, 60)
        if fsdp_tp_calcs(work, x, y).is_compute_bound(overlapped=overlapped)
    )
    bound = max_fsdp_tp_devices(work, overlapped=overlapped)
    assert 0.75 * bound - 1 <= best <= bound * (1 + 1e-12)


def test_grid_times_and_the_large_limit():
    times = fsdp_tp_calcs(WORK, 3, 5)
    assert times.compute_s == pytest.approx(6 * B * D * F / 15 / C)
    assert times.fsdp_s == pytest.approx(6 * D * F * 2 / (15 * W))
    assert times.tensor_s == pytest.approx(4 * B * D * 4 / (15 * W))
    large = FeedForwardWork(batch_tokens=2**22, d_model=8192, d_ff=2**20, flops_per_s=1e15, bytes_per_s=1e12)
    expected = 3 / 8 * 2**42 * 1e-6
    assert max_fsdp_tp_devices(large, overlapped=False) == pytest.approx(expected, rel=0.01)


def test_xxl_numbers_of_2025():
    model, mesh = BlockStack(), Mesh()
    assert model.num_parameters == pytest.approx(2.198e11, rel=1e-3)
    assert model.state_bytes == pytest.approx(3.52e12, rel=1e-3)
    assert math.ceil(model.state_bytes / 80e9) == 44
    assert model.saved_bytes_per_token == pytest.approx(17.5e6, rel=3e-3)
    assert model.min_devices(95e9) == 38
    assert model.bytes_per_device(38) < 95e9 < model.bytes_per_device(37)
    assert mesh.intensity == pytest.approx(2556, abs=1)
    assert 16 * 4 * mesh.min_tokens_per_device() / 16 == pytest.approx(1278, abs=1)  # B/X
    assert math.ceil(mesh.min_tokens_per_device()) == 320
    assert mesh.min_tokens_per_device() * 64 == pytest.approx(20_400, rel=0.01)
    assert model.d_ff / 4 == 13312 and mesh.tensor_traffic_hides(model.d_ff)
    assert not mesh.tensor_traffic_hides(4 * 2500)
    assert mesh.min_tokens_per_device_best_split(model.d_ff) == pytest.approx(61, abs=0.5)
    assert mesh.min_tokens_per_device_best_split(model.d_ff) * 64 == pytest.approx(3900, rel=0.01)


def test_memory_per_device_with_activations():
    model = BlockStack(d_model=2, d_ff=3, num_blocks=5)  # P = 60, 50 bytes per token
    assert model.bytes_per_device(4, tokens_per_device=8) == 960 / 4 + 400 / 2 * (1 + 1 / 4)
    fewest = model.min_devices(300.0, tokens_per_device=8)
    fits = [n for n in range(1, 100) if model.bytes_per_device(n, tokens_per_device=8) <= 300]
    assert fewest == min(fits)
    with pytest.raises(ValueError, match="stay on each device"):
        model.min_devices(200.0, tokens_per_device=8)


def test_best_split_is_the_least_sum_over_whole_grids():
    """At the bound the best X x Y = N just hides the longer transfer; powers of two miss it by sqrt(2) at most."""
    mesh, d_ff = Mesh(flops_per_s=1e15, bytes_per_s=1e12), 2**14
    tokens = mesh.min_tokens_per_device_best_split(d_ff) * 4096
    worst = min(
        max(4 * d_ff / (y * 1e12 * 2), 4 * tokens / (4096 / y * 1e12)) for y in (2**k for k in range(13))
    )  # both divided by D
    compute = 4 * tokens * d_ff / 4096 / 1e15
    assert 0.7 * compute <= worst <= 1.45 * compute


def test_bad_numbers():
    with pytest.raises(ValueError, match="d_ff must be positive"):
        dataclasses.replace(WORK, d_ff=0)
    with pytest.raises(ValueError, match="num_devices must be positive"):
        fsdp_calcs(WORK, 0)
    with pytest.raises(ValueError, match="at least 1"):
        BlockStack().bytes_per_device(0)
