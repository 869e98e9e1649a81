"""Checkpointed models against plain autograd and torch.utils.checkpoint; plans against counted layers and formulas."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from cs336_basics.layers import SwiGLU, dropout
from cs336_basics.nn_utils import cross_entropy
from cs336_systems.parallel.activation_checkpointing import checkpoint, checkpoint_activations, run_plan
from cs336_systems.parallel.checkpointing_plan import (
    Plan,
    best_layers_per_checkpoint,
    check_plan,
    plan_every,
    plan_nested,
    plan_none,
    simulate_plan,
)
from tests.unit.systems.parallel_cases import tiny_batch, tiny_model

PLANS: list[Plan] = [
    plan_none(5), plan_every(5), plan_every(5, 2), plan_every(5, 5), plan_nested(5), (0, (1, (2, 3)), 4)
]  # fmt: skip


def loss_and_grads(model: nn.Module) -> tuple[torch.Tensor, dict[str, Any]]:
    inputs, targets = tiny_batch()
    torch.manual_seed(5)
    loss = cross_entropy(model(inputs), targets)
    noise_after_forward = torch.rand(1)
    loss.backward()
    grads: dict[str, Any] = {name: p.grad for name, p in model.named_parameters()}
    return loss.detach(), {**grads, "noise between": noise_after_forward, "noise after": torch.rand(1)}


@pytest.mark.parametrize("plan", PLANS)
def test_same_bits_as_without(plan):
    """Dropout included: the second run of a layer draws the same masks, and later random numbers are unchanged."""
    changes: dict[str, Any] = {"num_layers": 5, "residual_pdrop": 0.2, "attn_pdrop": 0.1, "tie_embeddings": True}
    expected_loss, expected = loss_and_grads(tiny_model(**changes))
    model = checkpoint_activations(tiny_model(**changes), plan)
    loss, grads = loss_and_grads(model)
    assert torch.equal(loss, expected_loss)
    assert grads.keys() == expected.keys()
    for name, grad in expected.items():
        assert torch.equal(grads[name], grad), name
    assert model.state_dict().keys() == tiny_model(**changes).state_dict().keys()


def noisy_layers(num_layers: int) -> nn.ModuleList:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ffn = SwiGLU(6, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + dropout(self.ffn(x), 0.3, training=True)

    torch.manual_seed(6)
    return nn.ModuleList(Noisy() for _ in range(num_layers))


def test_equal_to_torch_checkpoint_under_autocast():
    results = []
    for ours in (True, False):
        layers, x = noisy_layers(3), torch.linspace(-1, 1, 24).reshape(4, 6).requires_grad_()
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16):
            y = x
            for layer in layers:
                if ours:
                    y = checkpoint(layer, y, parameters=list(layer.parameters()))
                else:
                    y = torch_checkpoint(layer, y, use_reentrant=False)
        y.square().sum().backward()
        results.append([y, x.grad, *(p.grad for p in layers.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_hooks_fire_once_and_autograd_grad_works():
    """A weight used inside two checkpoints and outside: one complete gradient."""
    shared = SwiGLU(6, 6)
    fired = []
    for name, p in shared.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: fired.append(name))
    x = torch.linspace(-1, 1, 12).reshape(2, 6)
    expected = torch.autograd.grad(shared(shared(shared(x))).sum(), list(shared.parameters()))
    parameters = list(shared.parameters())

    def through(y: torch.Tensor) -> torch.Tensor:
        return checkpoint(shared, y, parameters=parameters)

    found = torch.autograd.grad(shared(through(through(x))).sum(), parameters)
    assert fired == []
    shared(through(through(x))).sum().backward()
    assert sorted(fired) == ["w1.weight", "w2.weight", "w3.weight"]
    for a, b, p in zip(expected, found, parameters, strict=True):
        torch.testing.assert_close(b, a)
        torch.testing.assert_close(p.grad, a)


def test_several_inputs_some_without_gradient():
    a, b = torch.arange(3.0, requires_grad=True), torch.arange(3.0)
    mask = torch.tensor([True, False, True])
    y = checkpoint(lambda x, m, z: torch.where(m, x * z, x), a, mask, b)
    y.sum().backward()
    assert a.grad is not None and a.grad.tolist() == [0.0, 1.0, 2.0]


def test_what_a_checkpoint_refuses():
    with pytest.raises(ValueError, match="got none"):
        checkpoint(lambda: torch.ones(1))
    with pytest.raises(ValueError, match="needs a gradient"):
        checkpoint(torch.sin, torch.ones(1))
    with torch.no_grad():
        assert checkpoint(torch.cos, torch.zeros(1)).item() == 1.0
    with pytest.raises(ValueError, match="mixtures of experts"):
        checkpoint_activations(tiny_model(smear=True), plan_none(2))


class Counter:
    """Layers that count their runs, and the residuals that are alive, for real."""

    def __init__(self, num_layers: int):
        self.runs = self.alive = self.peak = 0
        counter = self

        class Residual:
            def __init__(self) -> None:
                counter.alive += 1
                counter.peak = max(counter.peak, counter.alive)

            def __del__(self) -> None:
                counter.alive -= 1

        class Layer(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
                counter.runs += 1
                if torch.is_tensor(x) and ctx.needs_input_grad[0]:
                    ctx.residual = Residual()
                return x * 2

            @staticmethod
            def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
                del ctx.residual
                return grads[0] * 2

        self.layers = [Layer.apply for _ in range(num_layers)]


@pytest.mark.parametrize("plan", [*PLANS, plan_nested(8), plan_every(7, 3), plan_nested(1)])
def test_simulated_costs_are_the_real_ones(plan):
    num_layers = 1 + max(int(digits) for digits in re.findall(r"\d+", str(plan)))
    counter = Counter(num_layers)
    x = torch.ones(2, requires_grad=True)
    run_plan(plan, counter.layers, x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2.0**num_layers] * 2
    cost = simulate_plan(plan, input_bytes=0, residual_bytes=1)
    assert counter.runs == cost.layer_runs
    assert counter.peak == cost.peak_bytes
    assert counter.alive == 0


@pytest.mark.parametrize("n", [4, 8, 32])
def test_costs_by_formula(n):
    input_bytes, residual_bytes = 80, 3651
    sizes = {"input_bytes": input_bytes, "residual_bytes": residual_bytes}
    none = simulate_plan(plan_none(n), **sizes)
    assert (none.peak_bytes, none.layer_runs) == (n * residual_bytes, n)
    for k in (k for k in range(1, n + 1) if n % k == 0):
        every = simulate_plan(plan_every(n, k), **sizes)
        assert (every.peak_bytes, every.layer_runs) == (n // k * input_bytes + k * residual_bytes, 2 * n)
    nested = simulate_plan(plan_nested(n), **sizes)
    depth = int(math.log2(n))
    assert nested.layer_runs == n * (depth + 1)
    assert nested.peak_bytes == (depth + 1) * input_bytes + residual_bytes


def test_numbers_of_the_2026_handout_in_mib():
    """xl, batch 4, 2048 tokens: 3651 MiB of residuals and 80 MiB of input per block."""
    sizes = {"input_bytes": 80, "residual_bytes": 3651}
    assert simulate_plan(plan_every(32, 1), **sizes).peak_bytes == pytest.approx(6.2e3, rel=0.01)
    assert simulate_plan(plan_every(32, 2), **sizes).peak_bytes == pytest.approx(8.6e3, rel=0.01)
    assert best_layers_per_checkpoint(32, **sizes) == 1
    for n, input_bytes, residual_bytes in ((36, 9, 9), (64, 4, 1), (100, 16, 1)):
        small = {"input_bytes": input_bytes, "residual_bytes": residual_bytes}
        best = simulate_plan(plan_every(n, best_layers_per_checkpoint(n, **small)), **small).peak_bytes
        optimum = 2 * math.sqrt(n * input_bytes * residual_bytes)  # with equal segments; a short last one saves more
        assert 0.85 * optimum <= best <= optimum


@pytest.mark.parametrize("plan", [(0, 1), (0, 2, 1), (0, 1, 1, 2), (0, (), 1, 2), (0, 1, 2, 3)])
def test_bad_plans(plan):
    with pytest.raises(ValueError, match="once and in order|empty"):
        check_plan(plan, 3)
    with pytest.raises(ValueError, match="layers_per_checkpoint=0"):
        plan_every(3, 0)
