"""An offloaded optimizer against the same optimizer without, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch

from cs336_basics.optimizer import AdamW
from cs336_systems.parallel.optimizer_offload import OffloadedOptimizer
from tests.unit.systems.parallel_cases import tiny_batch, tiny_model


def loss_of(model: torch.nn.Module) -> torch.Tensor:
    inputs, targets = (ids.to(next(model.parameters()).device) for ids in tiny_batch())
    return torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (step + 1)
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def groups_of(model: torch.nn.Module) -> list[dict]:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    return [{"params": matrices}, {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]


@pytest.mark.parametrize("optimizer_cls", [AdamW, torch.optim.AdamW, torch.optim.SGD])
def test_same_bits_as_without(optimizer_cls):
    plain, offloaded = tiny_model(), tiny_model()
    train(plain, optimizer_cls(groups_of(plain), lr=0.01, weight_decay=0.1), 4)
    optimizer = OffloadedOptimizer(groups_of(offloaded), optimizer_cls, lr=0.01, weight_decay=0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    train(offloaded, optimizer, 4)
    for a, b in zip(plain.parameters(), offloaded.parameters(), strict=True):
        assert torch.equal(a, b)
    assert optimizer.param_groups[0]["params"][0] is next(offloaded.parameters())


def test_resumes_exactly():
    plain, first = tiny_model(), tiny_model()
    train(plain, AdamW(plain.parameters()), 5)
    optimizer = OffloadedOptimizer(first.parameters(), AdamW)
    train(first, optimizer, 2)
    second = tiny_model(vocab_size=24)
    second.load_state_dict(first.state_dict())
    resumed = OffloadedOptimizer(second.parameters(), AdamW)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(second, resumed, 3, first=2)
    for a, b in zip(plain.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_loaded_between_steps_are_not_overwritten_by_old_copies():
    plain, offloaded = tiny_model(), tiny_model()
    pairs = [(plain, torch.optim.SGD(plain.parameters())), (offloaded, OffloadedOptimizer(offloaded.parameters(), torch.optim.SGD))]  # fmt: skip  # noqa: E501
    for model, optimizer in pairs:
        train(model, optimizer, 1)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.5)
        train(model, optimizer, 1, first=1)
    for a, b in zip(plain.parameters(), offloaded.parameters(), strict=True):
        assert torch.equal(a, b)


def test_wide_copies_keep_small_updates():
    """lr 1e-5 is below a bfloat16 step at 1: only float32 masters move."""
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    master = torch.ones(3)
    optimizer = OffloadedOptimizer([weight], torch.optim.SGD, dtype=torch.float32, lr=1e-5)
    for _ in range(1000):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        master -= 1e-5 * torch.ones(3)
    assert torch.equal(weight, master.bfloat16())
    assert weight[0] < 1.0
    state = copy.deepcopy(optimizer.state_dict())
    assert torch.equal(state["copies"][0], master)
    again = OffloadedOptimizer([weight], torch.optim.SGD, dtype=torch.float32, lr=1e-5)
    again.load_state_dict(state)
    weight.grad = torch.ones_like(weight)
    again.step()
    assert torch.equal(again.state_dict()["copies"][0], master - 1e-5)


def test_parameters_without_gradient_and_closures():
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = OffloadedOptimizer([used, unused, frozen], AdamW, lr=0.1)

    def closure() -> torch.Tensor:
        loss = used.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert (used < 1).all() and (unused == 1).all() and (frozen == 1).all()
    with pytest.raises(ValueError, match="empty parameter list"):
        OffloadedOptimizer([], AdamW)


@pytest.mark.gpu
def test_a_model_on_the_gpu_gets_the_cpu_s_update():
    model = tiny_model().to("cuda")
    reference = [p.detach().cpu().requires_grad_() for p in model.parameters()]
    optimizer, expected = OffloadedOptimizer(model.parameters(), AdamW), AdamW(reference)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        for p, r in zip(model.parameters(), reference, strict=True):
            r.grad = p.grad.cpu()
        optimizer.step()
        expected.step()
    assert all(torch.equal(p.cpu(), r) for p, r in zip(model.parameters(), reference, strict=True))
    assert all(x.device.type == "cpu" for s in optimizer.state_dict()["state"].values() for x in s.values() if torch.is_tensor(x))  # fmt: skip  # noqa: E501
