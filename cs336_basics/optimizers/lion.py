"""Lion: the sign of an interpolated momentum, so that every weight moves by the learning rate exactly.

    u <- sign(beta1 m + (1 - beta1) g)
    theta <- theta * (1 - lr * weight_decay) - lr * u
    m <- beta2 m + (1 - beta2) g                                   (after the update, with its own rate)

Found by a search over programs. One buffer instead of AdamW's two, no eps and no bias correction. A step is larger than
AdamW's (every entry of u is 1, where AdamW's are mostly less), so the paper takes a learning rate 3 to 10 times smaller
and a weight decay as much larger. A weight whose m and g are both 0 stays: sign(0) = 0.

Source: Chen et al. 2023 (arXiv 2302.06675), algorithm 2. Read next: `adafactor.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cs336_basics.optimizer import ParameterwiseOptimizer, check_hyperparameters


class Lion(ParameterwiseOptimizer):
    """Evolved sign momentum.

    Args:
        params: parameters, or groups as torch's optimizers take them.
        lr: size of every weight's step; betas: rates of the interpolation and of the momentum, each in [0, 1).
        weight_decay: fraction lr * weight_decay of each weight removed per step, before the update.

    Raises:
        ValueError: a hyperparameter out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ):
        check_hyperparameters(lr=lr, weight_decay=weight_decay, betas=betas)
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state["m"] = torch.zeros_like(p)
        direction = state["m"].lerp(grad, 1 - beta1).sign_()
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
        state["m"].lerp_(grad, 1 - beta2)
