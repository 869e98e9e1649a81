"""Maximal update parametrization (muP): one learning rate for all widths, and the check that it works.

With m = d_model / d_model of a base model, and AdamW:

    hidden matrices            std ~ 1/sqrt(fan in)    rate / m    decay * m        (rate * decay stays as it is)
    output head                std / m                 rate / m    decay * m
    embeddings, norms, biases  as in the base          rate        decay
    attention scores           1 / d_head, equal to the base's at the base's heads

The head's rule is the usual "logits x 1/m, rate constant" with the multiplier moved into the weight, which Adam cannot
tell apart (up to eps). Our layers' own initialization already has hidden matrices right; `apply_mup` corrects the head.
At m = 1 nothing changes.

`coordinate_check` is the test: after a few steps the activations must have moved by the same amount at every width.
Without muP the movement of the logits grows with width, which is why the best rate then falls.

Papers: Yang et al. 2022 (Tensor Programs V); Wang and Aitchison 2024 on the decay. Left out: depth (residual branches
x 1/sqrt(L)), tied heads, other optimizers. Read next: `learning_rate.py` for the other way, a law of the rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.optimizer import AdamW


def mup_config(config: ModelConfig, base: ModelConfig) -> ModelConfig:
    """`config` with attention scores scaled by 1 / d_head, as the base has them at its own heads.

    Raises:
        ValueError: a tied head, or shapes that differ in more than width.
    """
    for name in ("vocab_size", "context_length", "num_layers"):
        if getattr(config, name) != getattr(base, name):
            raise ValueError(
                f"muP carries a rate over width only; {name} is {getattr(config, name)} here and {getattr(base, name)} "
                "in the base"
            )
    if config.tie_embeddings:
        raise ValueError("muP gives embeddings and head different rates; use tie_embeddings=False")
    return replace(config, attention_scale=base.attention_scale * math.sqrt(base.d_head / config.d_head))


def apply_mup(model: TransformerLM, base: ModelConfig) -> None:
    """Scale the head's initial weights in place to what muP wants: those of the base divided by the width ratio."""
    config = model.config
    ours, bases = (math.sqrt(2 / (c.d_model + c.vocab_size)) for c in (config, base))  # as `Linear` draws them
    with torch.no_grad():
        model.lm_head.weight *= bases / ours * base.d_model / config.d_model


def mup_groups(
    named_parameters: Iterable[tuple[str, Tensor]], *, width_ratio: float, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: matrices of the blocks and the head apart from everything else.

    Args:
        named_parameters: of a TransformerLM.
        width_ratio: m, d_model over the base's.
        learning_rate: the base's best.
        weight_decay: the base's.
    """
    if not width_ratio > 0:
        raise ValueError(f"width_ratio must be positive; got {width_ratio}")
    wide: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in named_parameters:
        (wide if parameter.dim() == 2 and "embedding" not in name else rest).append(parameter)
    return [
        {"params": wide, "lr": learning_rate / width_ratio, "weight_decay": weight_decay * width_ratio},
        {"params": rest, "lr": learning_rate, "weight_decay": weight_decay},
    ]


def coordinate_check(
    configs: Sequence[ModelConfig],
    token_ids: Int[Tensor, "batch seq"],
    *,
    learning_rate: float,
    base: ModelConfig | None = None,
    num_steps: int = 3,
    seeds: Sequence[int] = (0, 1),
) -> dict[str, list[float]]:
    """How far activations have moved after a few steps on one batch, by place and width.

    Args:
        configs: models that differ in width only.
        token_ids: a batch; each token is predicted from those before it.
        learning_rate: AdamW's; the base's where there is one.
        base: use muP with this base; None trains the usual way.
        num_steps: updates.
        seeds: of the weights; the result is the mean over them.

    Returns:
        Place ("embeddings", "block 0" ..., "logits") -> root mean square of the change, one per config.
    """
    moved: dict[str, list[float]] = {}
    for config in configs:
        runs = [_movement(config, token_ids, learning_rate, base, num_steps, seed) for seed in seeds]
        for place in runs[0]:
            moved.setdefault(place, []).append(float(np.mean([run[place] for run in runs])))
    return moved


def width_exponents(moved: dict[str, list[float]], widths: Sequence[int]) -> dict[str, float]:
    """Slope of ln movement over ln width by place: about 0 under muP, positive where wider models move more."""
    return {place: float(np.polyfit(np.log(widths), np.log(sizes), 1)[0]) for place, sizes in moved.items()}


def _movement(
    config: ModelConfig, token_ids: Tensor, learning_rate: float, base: ModelConfig | None, num_steps: int, seed: int
) -> dict[str, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TransformerLM(config if base is None else mup_config(config, base))
    ratio = 1.0 if base is None else config.d_model / base.d_model
    if base is not None:
        apply_mup(model, base)
    groups = mup_groups(
        model.named_parameters(), width_ratio=ratio, learning_rate=learning_rate, weight_decay=0.0
    )  # fmt: skip
    optimizer = AdamW(groups)
    inputs, targets = token_ids[:, :-1], token_ids[:, 1:]
    before = _activations(model, inputs)
    for _ in range(num_steps):
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    after = _activations(model, inputs)
    return {place: float((after[place] - before[place]).pow(2).mean().sqrt()) for place in before}


@torch.no_grad()
def _activations(model: TransformerLM, inputs: Tensor) -> dict[str, Tensor]:
    """Output of the embedding, of each block, and the logits."""
    found: dict[str, Tensor] = {}
    places = {"embeddings": model.token_embeddings} | {f"block {i}": layer for i, layer in enumerate(model.layers)}
    hooks = [
        module.register_forward_hook(lambda _m, _i, output, place=place: found.__setitem__(place, output.clone()))
        for place, module in places.items()
    ]
    try:
        found["logits"] = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found
