"""Optimizers and learning-rate schedules.

    SGD     theta <- theta - lr / sqrt(t + 1) * g                       (the handout's teaching example, with its decay)
    AdamW   theta <- theta * (1 - lr * weight_decay)                    (decay first, as torch has it)
            m <- beta1 m + (1 - beta1) g;    v <- beta2 v + (1 - beta2) g^2
            theta <- theta - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

Handout: learning_rate_tuning, adamw, learning_rate_schedule; 14 FLOPs and 16 bytes per float32 parameter for AdamW.
All read their hyperparameters from `param_groups` at each step, so that a schedule may change them. Left out: fused
and sharded forms (`cs336_systems`), Muon and others (`optimizers/`). Read next: `data.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_HIDING: Any = torch.optim.Optimizer


class EagerOptimizer(torch.optim.Optimizer):
    """An optimizer for training loops that are not compiled.

    torch hides these methods from its compiler, and loads the compiler for that when the first optimizer is made: most
    of the time that a short training run takes to start. The hidden methods themselves do the same.
    """

    add_param_group, zero_grad, state_dict, load_state_dict = (
        getattr(method, "__wrapped__", method)
        for method in (_HIDING.add_param_group, _HIDING.zero_grad, _HIDING.state_dict, _HIDING.load_state_dict)
    )


class ParameterwiseOptimizer(EagerOptimizer):
    """An optimizer that updates each parameter by itself: a subclass says how in `_update`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Update every parameter that has a gradient; return the closure's loss if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        raise NotImplementedError


def check_hyperparameters(*, betas: tuple[float, ...] = (), **values: float) -> None:
    """Raise a ValueError unless each of `values` is at least 0 and each of `betas` in [0, 1)."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative; got {value}")
    for beta in betas:
        if not 0 <= beta < 1:
            raise ValueError(f"each of betas must lie in [0, 1); got {tuple(betas)}")


class SGD(ParameterwiseOptimizer):
    """Gradient descent whose step shrinks with the square root of the step count."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3):
        check_hyperparameters(lr=lr)
        super().__init__(params, {"lr": lr})

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        t = self.state[p].get("t", 0)
        p -= group["lr"] / math.sqrt(t + 1) * grad
        self.state[p]["t"] = t + 1


class AdamW(ParameterwiseOptimizer):
    """Adam with weight decay decoupled from the gradient; matches torch.optim.AdamW to float rounding.

    Args:
        params: parameters, or groups as torch's optimizers take them.
        lr: step size; betas: decay rates of the two moment estimates, each in [0, 1).
        eps: added to the denominator; weight_decay: fraction lr * weight_decay of each weight removed per step.

    Raises:
        ValueError: a hyperparameter out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        check_hyperparameters(lr=lr, eps=eps, weight_decay=weight_decay, betas=betas)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["t"] = 0
            state["m"] = torch.zeros_like(p)
            state["v"] = torch.zeros_like(p)
        state["t"] += 1
        (beta1, beta2), t = group["betas"], state["t"]
        p.mul_(1 - group["lr"] * group["weight_decay"])
        m = state["m"].lerp_(grad, 1 - beta1)
        v = state["v"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denominator = v.sqrt().mul_(1 / math.sqrt(1 - beta2**t)).add_(group["eps"])
        p.addcdiv_(m, denominator, value=-group["lr"] / (1 - beta1**t))


def get_lr_cosine_schedule(
    it: int, max_learning_rate: float, min_learning_rate: float, warmup_iters: int, cosine_cycle_iters: int
) -> float:
    """Linear warm-up from 0, half a cosine down to the minimum, then the minimum.

    Args:
        it: step, from 0; the rate at 0 is 0 unless warmup_iters is 0.
        warmup_iters: first step at the maximum; cosine_cycle_iters: first step at the minimum.

    Source: handout problem learning_rate_schedule.
    """
    if it < warmup_iters:
        return max_learning_rate * it / warmup_iters
    if it >= cosine_cycle_iters:
        return min_learning_rate
    progress = (it - warmup_iters) / (cosine_cycle_iters - warmup_iters)
    return min_learning_rate + 0.5 * (1 + math.cos(math.pi * progress)) * (max_learning_rate - min_learning_rate)


def get_lr_wsd_schedule(
    it: int, max_learning_rate: float, min_learning_rate: float, warmup_iters: int, decay_iters: int, total_iters: int
) -> float:
    """Warm-up, stable, decay: linear from 0 up, flat, linear to the minimum over the last `decay_iters` steps.

    With its straight sides this is also the schedule called trapezoid. It is continuous if
    warmup_iters + decay_iters <= total_iters; otherwise it falls from the warm-up onto the decay line.

    Source: Hu et al. 2024 (MiniCPM), section 4.
    """
    if it < warmup_iters:
        return max_learning_rate * it / warmup_iters
    if it >= total_iters:
        return min_learning_rate
    remaining = min(1.0, (total_iters - it) / max(decay_iters, 1))
    return min_learning_rate + (max_learning_rate - min_learning_rate) * remaining


def get_lr_linear_schedule(
    it: int, max_learning_rate: float, min_learning_rate: float, warmup_iters: int, total_iters: int
) -> float:
    """Linear from 0 up to the maximum at `warmup_iters`, then linear down to the minimum at `total_iters`.

    Source: Devlin et al. 2019 (BERT), appendix A.2; a trapezoid without its flat part.
    """
    decay_iters = total_iters - warmup_iters
    return get_lr_wsd_schedule(it, max_learning_rate, min_learning_rate, warmup_iters, decay_iters, total_iters)


def get_lr_inverse_sqrt_schedule(
    it: int, max_learning_rate: float, min_learning_rate: float, warmup_iters: int
) -> float:
    """Linear warm-up from 0, then max * sqrt(warmup_iters / it), never below the minimum; it has no end.

    Without warm-up the maximum stands at it = 1 (and at 0, where the formula is infinite).

    Source: Vaswani et al. 2017, section 5.3, with the peak given instead of d_model.
    """
    if it < warmup_iters:
        return max_learning_rate * it / warmup_iters
    return max(min_learning_rate, max_learning_rate * math.sqrt(max(warmup_iters, 1) / max(it, 1)))
