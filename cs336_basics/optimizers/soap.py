"""SOAP: AdamW in the slowly turning eigenbasis of Shampoo's preconditioner.

    g' = QL^T g QR;    m <- beta1 m + (1 - beta1) g;    m' = QL^T m QR
    v <- beta2 v + (1 - beta2) g'^2                                 (in the basis)
    theta <- theta * (1 - lr * weight_decay) - lr * QL [m' / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)] QR^T
    L <- beta2 L + (1 - beta2) g g^T;    R <- beta2 R + (1 - beta2) g^T g
    every few steps:  QL <- qr(L QL),  QR <- qr(R QR)               (one step of orthogonal iteration)

Adam scales each weight by itself, which is right only if the loss curves along the weights' own axes. L and R estimate
the axes along which a matrix's gradients vary; in that basis Adam's diagonal is a better fit. The first gradient only
sets the bases (by a full eigendecomposition) and moves nothing, so that no gradient is ever seen in a basis made from
itself. A side longer than `max_dimension` (a vocabulary) keeps its own axes; vectors get plain AdamW, from the first
step on. State of an n x m matrix: 2 n m + 2 n^2 + 2 m^2.

Source: Vyas et al. 2024 (arXiv 2409.11321), algorithm 3; decay first and eps outside the root, as AdamW here. Left out:
merging of axes, and sorting the basis by eigenvalue, which changes only the order of v's entries. Read next:
`schedule_free.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cs336_basics.optimizer import AdamW

Basis = Tensor | None
"""An orthogonal matrix, or None for a side that keeps its own axes."""


class SOAP(AdamW):
    """Shampoo with Adam in the preconditioner's eigenbasis, for matrices; AdamW for all else.

    Args:
        params: parameters or groups; lr, betas, eps, weight_decay as for AdamW.
        precondition_every: steps between updates of the bases, at least 1.
        max_dimension: longest side that gets a basis; one costs a QR decomposition of that size at each update.

    Raises:
        ValueError: a hyperparameter out of range.
    """

    def __init__(self, params: Iterable[Any], *, precondition_every: int = 10, max_dimension: int = 4096, **adamw: Any):
        if precondition_every < 1:
            raise ValueError(f"precondition_every must be at least 1; got {precondition_every}")
        super().__init__(params, **adamw)
        for group in self.param_groups:
            group["precondition_every"], group["max_dimension"] = precondition_every, max_dimension

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if p.dim() != 2 or min(p.shape) > group["max_dimension"]:
            super()._update(p, grad, group)
            return
        state, beta2 = self.state[p], group["betas"][1]
        if not state:
            state |= {"t": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
            for side, size, gram in _sides(grad):
                if size <= group["max_dimension"]:
                    state[f"gram_{side}"] = gram() * (1 - beta2)
                    state[f"basis_{side}"] = torch.linalg.eigh(state[f"gram_{side}"]).eigenvectors.flip(-1)
            return
        state["t"] += 1
        self._step_in_basis(p, grad, group, state)
        for side, _, gram in _sides(grad):
            if f"gram_{side}" in state:
                moment = state[f"gram_{side}"].lerp_(gram(), 1 - beta2)
                if state["t"] % group["precondition_every"] == 0:
                    state[f"basis_{side}"] = torch.linalg.qr(moment @ state[f"basis_{side}"]).Q

    def _step_in_basis(self, p: Tensor, grad: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        left, right, t = state.get("basis_left"), state.get("basis_right"), state["t"]
        beta1, beta2 = group["betas"]
        m = rotate(state["m"].lerp_(grad, 1 - beta1), left, right)
        turned = rotate(grad, left, right)
        v = state["v"].mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
        denominator = v.sqrt().mul_(1 / math.sqrt(1 - beta2**t)).add_(group["eps"])
        update = rotate(m.div_(denominator), left, right, back=True)
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] / (1 - beta1**t))


def _sides(grad: Tensor) -> list[tuple[str, int, Any]]:
    """(name, length, function that gives the Gram matrix) of the rows' and of the columns' side."""
    return [("left", grad.shape[0], lambda: grad @ grad.mT), ("right", grad.shape[1], lambda: grad.mT @ grad)]


def rotate(
    x: Float[Tensor, "rows columns"], left: Basis, right: Basis, *, back: bool = False
) -> Float[Tensor, "rows columns"]:
    """QL^T x QR, or QL x QR^T to come `back`; always a new tensor."""
    x = x.clone() if left is None else (left if back else left.mT) @ x
    return x if right is None else x @ (right.mT if back else right)
