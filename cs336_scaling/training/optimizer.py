"""Optimizers of the 2026 service's configurations: AdamW or SGD, with warm-up and cosine decay.

A body that gives only lr_scheduler (and grad_clip_norm) is read as SGD, as on the course's server; the answer to such a
submission carries a warning. Read next: `training_config.py`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat

from cs336_scaling.frozen_model import FrozenModel

Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]


class WarmupCosineDecay(FrozenModel):
    """Linear warm-up over warmup_frac of the steps, then a cosine down to peak_value * final_lr_frac."""

    peak_value: PositiveFloat = 3e-4
    final_lr_frac: Share = 0.1
    warmup_frac: ShareBelowOne = 0.05
    init_value: NonNegativeFloat = 0.0


class AdamWConfig(FrozenModel):
    """AdamW; eps_root is added to the second moment inside the root."""

    lr_scheduler: WarmupCosineDecay = WarmupCosineDecay()
    weight_decay: NonNegativeFloat = 1e-2
    beta1: ShareBelowOne = 0.9
    beta2: ShareBelowOne = 0.95
    eps: PositiveFloat = 1e-8
    eps_root: NonNegativeFloat = 1e-8
    grad_clip_norm: PositiveFloat | None = 1.0


class SGDConfig(FrozenModel):
    """Plain stochastic gradient descent."""

    lr_scheduler: WarmupCosineDecay
    grad_clip_norm: PositiveFloat | None = 1.0
