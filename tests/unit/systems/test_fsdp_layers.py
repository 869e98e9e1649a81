"""FSDP on the Transformer itself: weights, memory, accumulation, evaluation, and what it refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cs336_basics.layers import Linear
from cs336_basics.model import ModelConfig, TransformerLM
from cs336_systems.parallel.fsdp import FSDP
from tests.processes import run_processes

CONFIG = ModelConfig(vocab_size=33, context_length=8, d_model=12, num_layers=3, num_heads=2, d_ff=20)


def model() -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(CONFIG)


def batch(step: int) -> torch.Tensor:
    return torch.randint(0, 33, (8, 9), generator=torch.Generator().manual_seed(step))


def loss_of(module: Any, ids: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def train(rank: int, world_size: int, exact: bool) -> dict[str, Any]:
    torch.use_deterministic_algorithms(exact)
    fsdp = FSDP(model())
    optimizer = torch.optim.AdamW(fsdp.parameters(), lr=0.01)
    rows = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    held = []
    for step in range(3):
        optimizer.zero_grad()
        loss_of(fsdp, batch(step)[rows]).backward()
        loss_of(fsdp, batch(step + 10)[rows]).backward()  # accumulated
        fsdp.finish_gradient_synchronization()
        held.append(sum(weight._gathering is not None for weight in fsdp.weights.values()))
        optimizer.step()
        with torch.no_grad():
            evaluation = float(loss_of(fsdp, batch(99)))
    full = {name: p.clone() for name, p in fsdp.gather_full_params().items()}
    return {"full": full, "held": held, "evaluation": evaluation}


def baseline() -> tuple[TransformerLM, float]:
    module = model()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        loss_of(module, batch(step)).backward()
        loss_of(module, batch(step + 10)).backward()
        optimizer.step()
    return module, float(loss_of(module, batch(99)).detach())


def test_a_transformer_trains_as_in_one_process():
    expected, evaluation = baseline()
    for exact in (False, True):
        for record in run_processes(train, 2, 2, exact):
            for name, p in expected.named_parameters():
                torch.testing.assert_close(record["full"][name], p.detach(), rtol=1e-3, atol=1e-5)
            assert abs(record["evaluation"] - evaluation) < 1e-4
            assert record["held"] == [0, 0, 0], "no gathered weight may stay when the gradients are finished"


def gradient_after_the_weights_vanished(rank: int) -> list[torch.Tensor]:
    """The input's gradient when all shards are zeroed between forward and backward."""
    x = torch.ones(2, 64, requires_grad=True)
    fsdp = FSDP(nn.Sequential(*(Linear(64, 64) for _ in range(4))))
    loss = fsdp(x).sum()
    with torch.no_grad():
        for p in fsdp.parameters():
            p.zero_()
    loss.backward()
    assert x.grad is not None
    return [loss.detach(), x.grad]


def test_autograd_keeps_no_weight_but_gathers_it_again():
    """Had autograd kept the weights of the forward pass, the gradient would not be zero."""
    for loss, grad in run_processes(gradient_after_the_weights_vanished, 2):
        assert loss != 0 and torch.equal(grad, torch.zeros_like(grad))


def refusals(rank: int) -> list[str]:
    said = []

    class Borrowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Linear(4, 4)
            self.again = self.layer.weight

    for make in (lambda: FSDP(Linear(4, 4), torch.int32), lambda: FSDP(Borrowed())):
        try:
            make()
        except ValueError as error:
            said.append(str(error))
    FSDP(nn.ReLU()).finish_gradient_synchronization()  # nothing to shard is no error
    return said


def test_what_cannot_be_sharded_is_refused():
    for said in run_processes(refusals, 2):
        assert "floating-point" in said[0] and "keep_whole" in said[1]
