"""Tiny models and batches, the same in every process, and what a single process computes from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cs336_basics.model import ModelConfig, TransformerLM
from cs336_basics.nn_utils import cross_entropy

TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}
"""float64: sums in another order differ in the last digits; rotary tables are float32 in every form alike"""


def tiny_model(**changes: Any) -> TransformerLM:
    """A float64 model with weights that depend on the changes alone."""
    sizes = {"vocab_size": 24, "context_length": 16, "d_model": 16, "num_layers": 2, "num_heads": 4, "d_ff": 24}
    torch.manual_seed(1)
    model = TransformerLM(ModelConfig(**{**sizes, **changes}), dtype=torch.float64)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "ln" in name:
                p += 0.1 * torch.randn_like(p)
    return model


def tiny_batch(batch: int = 3, seq: int = 8) -> tuple[Tensor, Tensor]:
    """Inputs and targets."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(24, (batch, seq + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def single_process(inputs: Tensor, targets: Tensor, **changes: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(logits, loss, gradients) of plain autograd on the whole batch."""
    model = tiny_model(**changes)
    logits = model(inputs)
    loss = cross_entropy(logits, targets)
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters(remove_duplicate=False)}
    return logits.detach(), loss.detach(), grads  # type: ignore[return-value]
