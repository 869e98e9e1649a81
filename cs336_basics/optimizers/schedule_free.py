"""Schedule-free AdamW: an average of the weights takes the place of the decay of the learning rate.

    y = (1 - beta1) z + beta1 x                        gradients are taken at y
    v <- beta2 v + (1 - beta2) g^2
    z <- z - lr * (g / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * y)
    x <- (1 - c) x + c z,    c = lr^2 / sum of lr^2 so far

The model's parameters hold y, where the gradients of the next step are taken. x is the result: the weights to evaluate,
to sample from and to save. It is not stored but computed, x = z + (y - z) / beta1, so state and memory are AdamW's.
`evaluation_weights` gives x; the training loop shows it to validation, samples and the final file and puts y back
bit for bit, so that a checkpoint (y, z, v) resumes exactly however often x was looked at. Use a constant learning rate
after warm-up: steps of the warm-up count little in the average through their lr^2.

Source: Defazio et al. 2024 (arXiv 2405.15682), algorithm 1. Weight decay at y, eps outside the root. Read next:
`ema.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cs336_basics.optimizer import ParameterwiseOptimizer, check_hyperparameters


class ScheduleFreeAdamW(ParameterwiseOptimizer):
    """AdamW on z, evaluated at the average x, trained at y between the two.

    Args:
        params: parameters or groups; they hold y.
        lr: step size, to be held constant after warm-up.
        betas: (share of x in y, above 0 and below 1; decay rate of the second moment).
        eps: added to the denominator; weight_decay: times lr * y is subtracted from z.

    Raises:
        ValueError: a hyperparameter out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2.5e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        check_hyperparameters(lr=lr, eps=eps, weight_decay=weight_decay, betas=betas)
        if betas[0] == 0:
            raise ValueError(f"betas[0] must be above 0, or y holds nothing of the average x; got {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, lr, (beta1, beta2) = self.state[p], group["lr"], group["betas"]
        if not state:
            state |= {"t": 0, "sum_of_squares": 0.0, "z": p.clone(), "v": torch.zeros_like(p)}
        state["t"] += 1
        state["sum_of_squares"] += lr**2
        share = lr**2 / state["sum_of_squares"] if lr else 0.0
        v = state["v"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denominator = v.sqrt().mul_(1 / math.sqrt(1 - beta2 ** state["t"])).add_(group["eps"])
        update = (grad / denominator).add_(p, alpha=group["weight_decay"])
        # y after the step, from y and z before it: eliminate x from the three lines above
        p.lerp_(state["z"], share).add_(update, alpha=lr * (beta1 * (1 - share) - 1))
        state["z"].sub_(update, alpha=lr)

    @torch.no_grad()
    def evaluation_weights(self) -> dict[Tensor, Tensor]:
        """x of each parameter that has been updated; the others are x already."""
        return {
            p: torch.lerp(self.state[p]["z"], p, 1 / group["betas"][0])
            for group in self.param_groups
            for p in group["params"]
            if p in self.state
        }
