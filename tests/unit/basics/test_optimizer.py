"""Optimizers against torch and closed forms, schedules against their formulas."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch

from cs336_basics.optimizer import (
    SGD,
    AdamW,
    get_lr_cosine_schedule,
    get_lr_inverse_sqrt_schedule,
    get_lr_linear_schedule,
    get_lr_wsd_schedule,
)

SHAPES = [(3, 4), (5,), (), (2, 1, 2)]


def parameters(dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in SHAPES]


def groups(weights: list[torch.nn.Parameter]) -> list[dict]:
    return [
        {"params": weights[:1], "lr": 0.02, "weight_decay": 0.3},
        {"params": weights[1:3], "betas": (0.5, 0.7), "eps": 1e-3},
        {"params": weights[3:], "weight_decay": 0.0},
    ]


def give_gradients(weights: list[torch.nn.Parameter], step: int) -> None:
    """The same for every caller; now and then a parameter has none."""
    generator = torch.Generator().manual_seed(100 + step)
    for i, p in enumerate(weights):
        gradient = torch.randn(p.shape, generator=generator, dtype=p.dtype) * 10.0 ** (i - 2)
        p.grad = None if (step + i) % 7 == 0 else gradient


def run(optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter], steps: range) -> None:
    for step in steps:
        give_gradients(weights, step)
        for i, group in enumerate(optimizer.param_groups):
            if step == 20:
                group["lr"] *= 0.1 * (i + 1)
        optimizer.step()


def assert_equal_weights(mine, theirs, **tolerance) -> None:
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), **tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=["float64", "float32"]
)
def test_adamw_equals_torch_over_groups_and_changing_rates(dtype, tolerance) -> None:
    mine, theirs = parameters(dtype), parameters(dtype)
    run(AdamW(groups(mine), lr=0.01, weight_decay=0.1), mine, range(60))
    run(torch.optim.AdamW(groups(theirs), lr=0.01, weight_decay=0.1), theirs, range(60))
    assert_equal_weights(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("through_a_file", [False, True])
def test_adamw_continues_bit_for_bit_from_its_state(through_a_file) -> None:
    straight, broken = parameters(torch.float32), parameters(torch.float32)
    run(AdamW(groups(straight)), straight, range(40))
    first = AdamW(groups(broken))
    run(first, broken, range(25))
    state = copy.deepcopy(first.state_dict())
    if through_a_file:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        state = torch.load(buffer, weights_only=True)
    second = AdamW(groups(broken))
    second.load_state_dict(state)
    assert [g["lr"] for g in second.param_groups] == [g["lr"] for g in first.param_groups]
    run(second, broken, range(25, 40))
    assert_equal_weights(broken, straight, rtol=0, atol=0)


def test_adamw_keeps_the_dtype_of_bfloat16_weights() -> None:
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    p.grad = torch.ones(4, dtype=torch.bfloat16)
    AdamW([p], lr=0.1, weight_decay=0.0).step()
    assert p.dtype == torch.bfloat16 and p.tolist() == pytest.approx([0.9] * 4, abs=4e-3)


def test_adamw_with_a_zero_gradient_only_decays() -> None:
    p = torch.nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64))
    optimizer = AdamW([p], lr=0.1, weight_decay=0.5)
    for _ in range(10):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    assert p.tolist() == pytest.approx([2.0 * 0.95**10] * 3, rel=1e-12)


def test_sgd_on_the_handouts_example() -> None:
    """Loss mean(w^2) over 100 entries: each step multiplies w by 1 - 0.02 lr / sqrt(t + 1)."""
    for lr in (1.0, 10.0, 100.0, 1000.0):
        start = 5 * torch.randn(10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        w = torch.nn.Parameter(start.clone())
        optimizer, factor = SGD([w], lr=lr), 1.0
        for t in range(10):
            optimizer.zero_grad()
            w.square().mean().backward()
            optimizer.step()
            factor *= 1 - 0.02 * lr / math.sqrt(t + 1)
            torch.testing.assert_close(w.detach(), start * factor, rtol=1e-10, atol=1e-12)


def test_sgd_counts_per_parameter_and_survives_its_state_dict() -> None:
    a, b = (torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    optimizer = SGD([a, b], lr=1.0)
    for step in range(4):
        if step == 2:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = SGD([a, b], lr=99.0)
            optimizer.load_state_dict(state)
        a.grad, b.grad = torch.ones_like(a), torch.ones_like(b) if step == 3 else None
        optimizer.step()
    assert a.item() == pytest.approx(-sum(1 / math.sqrt(t) for t in (1, 2, 3, 4)))
    assert b.item() == pytest.approx(-1.0), "its first step is t = 0, however often the other was updated"


@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_closures(cls) -> None:
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = cls([p], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (3 * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0 and p.item() != 1.0
    assert optimizer.step() is None


@pytest.mark.parametrize(
    ("cls", "settings", "words"),
    [
        (SGD, {"lr": -1.0}, "lr must not be negative; got -1.0"),
        (AdamW, {"lr": -0.1}, "lr must not be negative; got -0.1"),
        (AdamW, {"lr": math.nan}, "lr .*nan"),
        (AdamW, {"eps": -1e-9}, "eps must not be negative"),
        (AdamW, {"weight_decay": -1.0}, "weight_decay must not be negative"),
        (AdamW, {"betas": (1.0, 0.9)}, r"betas must lie in \[0, 1\)"),
        (AdamW, {"betas": (0.9, -0.1)}, r"betas must lie in \[0, 1\)"),
        pytest.param(
            SGD, {"lr": math.nan}, "lr",
        ),
    ],
)  # fmt: skip
def test_hyperparameters_out_of_range(cls, settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        cls([torch.nn.Parameter(torch.ones(1))], **settings)


# Schedules


@pytest.mark.parametrize(("warmup", "cycle"), [(0, 10), (3, 17), (10, 10), (5, 100)])
def test_cosine_schedule(warmup, cycle) -> None:
    for it in range(cycle + 20):
        actual = get_lr_cosine_schedule(it, 0.7, 0.1, warmup, cycle)
        if it < warmup:
            expected = 0.7 * it / warmup
        elif it < cycle:
            expected = 0.4 + 0.3 * math.cos(math.pi * (it - warmup) / (cycle - warmup))
        else:
            expected = 0.1
        assert actual == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("warmup", "decay", "total"), [(0, 5, 20), (4, 8, 30), (4, 0, 12), (2, 18, 20)])
def test_wsd_schedule(warmup, decay, total) -> None:
    """Piecewise linear through (0, 0), (warmup, max), (total - decay, max), (total, min)."""
    corners = [(0.0, 0.0)] if warmup else []
    corners += [(warmup, 0.7), (total - max(decay, 1), 0.7), (total, 0.1)]
    for it in range(total + 5):
        expected = 0.1
        for (x0, y0), (x1, y1) in zip(corners, corners[1:], strict=False):
            if x0 <= it < x1:
                expected = y0 + (y1 - y0) * (it - x0) / (x1 - x0)
        assert get_lr_wsd_schedule(it, 0.7, 0.1, warmup, decay, total) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("warmup", "total"), [(0, 20), (4, 30), (19, 20), (1, 2)])
def test_linear_schedule(warmup, total) -> None:
    """Straight lines through (0, 0), (warmup, max), (total, min), then the minimum."""
    for it in range(total + 5):
        if it < warmup:
            expected = 0.7 * it / warmup
        else:
            expected = max(0.1, 0.1 + 0.6 * (total - it) / (total - warmup))
        assert get_lr_linear_schedule(it, 0.7, 0.1, warmup, total) == pytest.approx(expected, rel=1e-12)


def test_inverse_square_root_schedule_at_points_computed_by_hand() -> None:
    points = {0: 0.0, 2: 0.4, 4: 0.8, 16: 0.4, 64: 0.2, 256: 0.1, 1024: 0.1, 10**9: 0.1}
    for it, rate in points.items():
        assert get_lr_inverse_sqrt_schedule(it, 0.8, 0.1, 4) == pytest.approx(rate, rel=1e-12)
    without_warmup = [get_lr_inverse_sqrt_schedule(it, 0.6, 0.0, 0) for it in (0, 1, 4, 9)]
    assert without_warmup == pytest.approx([0.6, 0.6, 0.3, 0.2])


@pytest.mark.parametrize("warmup", [1, 10, 40])
def test_schedules_have_no_jumps(warmup) -> None:
    """No step changes the rate by more than the steepest line or curve allows: rates in one step of a long run."""
    total = 10_000
    schedules = {
        "cosine": lambda it: get_lr_cosine_schedule(it, 1.0, 0.1, warmup * 100, total),
        "linear": lambda it: get_lr_linear_schedule(it, 1.0, 0.1, warmup * 100, total),
        "wsd": lambda it: get_lr_wsd_schedule(it, 1.0, 0.1, warmup * 100, 2000, total),
        "inverse_sqrt": lambda it: get_lr_inverse_sqrt_schedule(it, 1.0, 0.1, warmup * 100),
    }
    for name, schedule in schedules.items():
        rates = [schedule(it) for it in range(total + 100)]
        assert rates[0] == 0.0 and max(rates) == pytest.approx(1.0) and rates[warmup * 100] == pytest.approx(1.0), name
        assert max(abs(a - b) for a, b in zip(rates, rates[1:], strict=False)) <= 0.01 + 1e-12, name
