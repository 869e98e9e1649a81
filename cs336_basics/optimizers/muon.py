"""Muon: momentum whose matrix is replaced by the nearest orthogonal one, AdamW for everything that is no hidden matrix.

    M <- beta M + (1 - beta) G;    U = orthogonalise(beta M + (1 - beta) G)      (Nesterov)
    W <- W (1 - lr * weight_decay) - lr * 0.2 sqrt(max(rows, columns)) * U

A gradient matrix is dominated by a few directions; making all its singular values equal lets the rare ones learn as
fast. `orthogonalise` runs five Newton-Schulz steps X <- a X + (b A + c A A) X with A = X X^T, whose coefficients push
every singular value into about [0.7, 1.2] in few steps rather than to exactly 1. The factor 0.2 sqrt(max) gives the
update the size AdamW's has, so that both parts share one learning rate. Embeddings, head and norms are left to AdamW.

Source: Jordan et al. 2024 (Muon); Liu et al. 2025, section 2.2 (the factor, weight decay). Left out: sharding over
processes. Read next: `optimizer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cs336_basics.optimizer import AdamW

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalise(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """The matrix with all singular values moved to about 1, same shape and dtype; zero stays zero."""
    a, b, c = COEFFICIENTS
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


class Muon(AdamW):
    """Muon on the matrices of a group with "muon": True, AdamW on the others; see `muon_groups`.

    Args:
        params: parameter groups; lr, betas, eps, weight_decay as for AdamW.
        momentum: decay rate of the momentum, in [0, 1).

    Raises:
        ValueError: a hyperparameter out of range, or a parameter in a "muon" group that is no matrix.
    """

    def __init__(self, params: Iterable[Any], *, momentum: float = 0.95, **adamw: Any):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1); got {momentum}")
        super().__init__(params, **adamw)
        for group in self.param_groups:
            group.setdefault("muon", False)
            group["momentum"] = momentum
            shapes = [tuple(p.shape) for p in group["params"] if group["muon"] and p.dim() != 2]
            if shapes:
                raise ValueError(f"Muon updates matrices only; got a parameter of shape {shapes[0]}; leave it to AdamW")

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if not group["muon"]:
            super()._update(p, grad, group)
            return
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p)
        m = state["m"].lerp_(grad, 1 - group["momentum"])
        update = orthogonalise(grad.lerp(m, group["momentum"]))
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(p.shape)))


NO_HIDDEN_MATRIX = ("A_log", "conv.", "skip", "phases", "router", "value_embedding.table")
"""parts of names of weights inside blocks that have two axes but do not map a hidden vector to another"""


def muon_groups(named_parameters: Iterable[tuple[str, Tensor]]) -> list[dict[str, Any]]:
    """Two parameter groups: the matrices inside `layers` for Muon, all other weights for AdamW."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, p in named_parameters:
        hidden = "layers." in name and not any(part in name for part in NO_HIDDEN_MATRIX)
        groups[hidden and p.dim() == 2].append(p)
    return [{"params": params, "muon": muon} for muon, params in groups.items()]
