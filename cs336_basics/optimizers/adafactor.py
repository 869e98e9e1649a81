"""Adafactor: Adam's second moment from one number per row and one per column, and no first moment.

    beta2_t = 1 - t^-0.8
    R <- beta2_t R + (1 - beta2_t) rowmean(g^2 + eps1);    C <- the same with colmean
    V = R C^T / mean(R)                                    (a vector keeps its whole V)
    u = g / sqrt(V);    u <- u / max(1, rms(u) / clip)
    alpha = lr,   or with relative_step   min(lr, 1/sqrt(t)) * max(eps2, rms(theta))
    theta <- theta * (1 - lr * weight_decay) - alpha * u

R C^T / mean(R) is the rank-one matrix nearest to V in generalised Kullback-Leibler divergence. A matrix of n x m needs
n + m numbers of state instead of AdamW's 2 n m. eps1 is added to the squared gradient (so the root needs none); eps2
keeps a weight that is 0 from standing still. beta2_t begins at 0, which makes a bias correction unnecessary. Tensors of
more than two axes are factored over their last two, each slice by itself.

Source: Shazeer & Stern 2018 (arXiv 1804.04235), algorithms 4 and 5 with section 8; decoupled decay, first, as AdamW
here. Left out: the optional first moment. Read next: `soap.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cs336_basics.optimizer import ParameterwiseOptimizer, check_hyperparameters


class Adafactor(ParameterwiseOptimizer):
    """Adaptive steps with sublinear memory.

    Args:
        params: parameters, or groups as torch's optimizers take them.
        lr: step size; with relative_step an upper bound of the step relative to the weights' size.
        eps: (eps1, added to squared gradients; eps2, least size of the weights for a relative step).
        clip: greatest root mean square of an update, before the step size.
        decay_rate: exponent of beta2_t = 1 - t^decay_rate, negative.
        weight_decay: fraction lr * weight_decay of each weight removed per step, before the update.
        relative_step: scale the step by the weights' own size and let it fall with 1/sqrt(t), as the paper does.

    Raises:
        ValueError: a hyperparameter out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        *,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip: float = 1.0,
        decay_rate: float = -0.8,
        weight_decay: float = 0.0,
        relative_step: bool = False,
    ):
        check_hyperparameters(lr=lr, eps1=eps[0], eps2=eps[1], weight_decay=weight_decay)
        if not clip > 0:
            raise ValueError(f"clip must be positive; got {clip}; use inf for no clipping")
        if not decay_rate < 0:
            raise ValueError(f"decay_rate must be negative (the paper has -0.8); got {decay_rate}")
        defaults = {"lr": lr, "eps": eps, "clip": clip, "decay_rate": decay_rate, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "relative_step": relative_step})

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state |= _empty_state(p)
        state["t"] += 1
        new_share = state["t"] ** group["decay_rate"]
        update = grad * _inverse_root(state, grad.square().add_(group["eps"][0]), new_share)
        update.div_((_rms(update) / group["clip"]).clamp_(min=1.0))
        if group["relative_step"]:
            update.mul_(_rms(p).clamp_(min=group["eps"][1]) * min(group["lr"], 1 / math.sqrt(state["t"])))
        else:
            update.mul_(group["lr"])
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update)


def _empty_state(p: Tensor) -> dict[str, Any]:
    """Second moments of zero: of rows and columns, or whole for a vector or a number."""
    if p.dim() < 2:
        return {"t": 0, "v": torch.zeros_like(p)}
    return {"t": 0, "rows": torch.zeros_like(p[..., :1]), "columns": torch.zeros_like(p[..., :1, :])}


def _inverse_root(state: dict[str, Any], square: Tensor, new_share: float) -> Tensor:
    """Move the second moments towards `square`; return 1 / sqrt(V), ready to broadcast for matrices."""
    if "v" in state:
        return state["v"].lerp_(square, new_share).rsqrt()
    rows = state["rows"].lerp_(square.mean(dim=-1, keepdim=True), new_share)
    columns = state["columns"].lerp_(square.mean(dim=-2, keepdim=True), new_share)
    return (rows / rows.mean(dim=-2, keepdim=True)).rsqrt() * columns.rsqrt()


def _rms(x: Tensor) -> Tensor:
    """Root mean square of all entries."""
    return torch.linalg.vector_norm(x) / math.sqrt(x.numel())
