"""The five objectives in one shape: how to build the model, what to minimise, what to measure.

An `Objective` is three functions. `build` makes a module of the common shape; `loss` gives the training loss of a
batch of rows (T + 1 ids, the first given); `measure` says how many nats the module needs for rows it has not seen,
and what this number is worth: exact, an upper bound, or not defined. Read next: `comparison.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

import cs336_basics.objectives.bidirectional_attention  # noqa: F401  (registers its attention)
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import token_losses
from cs336_basics.objectives.masked_diffusion import diffusion_bound, diffusion_loss
from cs336_basics.objectives.masked_lm import choose_places, corrupt, masked_lm_loss
from cs336_basics.objectives.multi_token_prediction import MultiTokenPredictor, multi_token_loss
from cs336_basics.objectives.next_token import next_token_losses
from cs336_basics.objectives.prefix_lm import draw_prefixes, prefix_lm_loss, prefix_losses

NUM_HEADS = 3
MASK_RATE = 0.15


@dataclass(frozen=True)
class Measurement:
    """What a trained module makes of unseen rows."""

    kind: Literal["exact", "upper bound", "not defined"]
    nats: float | None
    """for all tokens of the rows but the first of each; None where that is not defined"""
    standard_error: float = 0.0
    """of `nats`, from the random masks alone"""
    note: str = ""


@dataclass(frozen=True)
class Objective:
    """See the module docstring; rows are on the module's device, generators on the CPU."""

    name: str
    title: str
    build: Callable[[ModelConfig], nn.Module]
    loss: Callable[[Any, Tensor, torch.Generator], Tensor]
    measure: Callable[[Any, Tensor, torch.Generator], Measurement]


def _bidirectional(config: ModelConfig) -> TransformerLM:
    """The model that reads whole rows, T + 1 ids, and has one id more, for the mask."""
    return TransformerLM(
        dataclasses.replace(
            config, vocab_size=config.vocab_size + 1, context_length=config.context_length + 1,
            attention="bidirectional",
        )
    )  # fmt: skip


def _mask_id(model: TransformerLM) -> int:
    return model.config.vocab_size - 1


def _measure_next_token(model: nn.Module, rows: Tensor, generator: torch.Generator) -> Measurement:
    return Measurement("exact", float(next_token_losses(model, rows).double().sum()))


def _measure_multi_token(model: MultiTokenPredictor, rows: Tensor, generator: torch.Generator) -> Measurement:
    logits = model(rows[:, :-1])
    ahead = [float(token_losses(x[:, : -i or None], rows[:, i + 1 :]).mean()) for i, x in enumerate(logits)]
    note = "first head; nats per token of the heads: " + ", ".join(f"{loss:.3f}" for loss in ahead)
    return Measurement("exact", float(token_losses(logits[0], rows[:, 1:]).double().sum()), note=note)


def _measure_prefix(model: TransformerLM, rows: Tensor, generator: torch.Generator) -> Measurement:
    ones = torch.ones(len(rows), dtype=torch.int64)
    half = ones * max(1, (rows.shape[1] - 1) // 2)
    exact, _ = prefix_losses(model, rows, ones)
    second, scored = prefix_losses(model, rows, half)
    gain = float((exact * scored).sum() / scored.sum() - second.sum() / scored.sum())
    note = f"prefix of 1 token; reading the first half from both sides saves {gain:+.3f} nats per token of the second"
    return Measurement("exact", float(exact.double().sum()), note=note)


def _masked_lm_loss(model: TransformerLM, rows: Tensor, generator: torch.Generator) -> Tensor:
    chosen = choose_places(rows, rate=MASK_RATE, generator=generator)
    corrupted = corrupt(rows, chosen, mask_id=_mask_id(model), generator=generator)
    return masked_lm_loss(model, rows, corrupted, chosen)


def _measure_masked_lm(model: TransformerLM, rows: Tensor, generator: torch.Generator) -> Measurement:
    chosen = choose_places(rows, rate=MASK_RATE, generator=generator)
    loss = float(masked_lm_loss(model, rows, rows.masked_fill(chosen, _mask_id(model)), chosen))
    note = (
        f"pseudo-likelihood {loss:.3f} nats per masked token at {MASK_RATE:.0%} masked; its conditionals belong to no "
        "one joint distribution, so there is no code length"
    )
    return Measurement("not defined", None, note=note)


def _diffusion_loss(model: TransformerLM, rows: Tensor, generator: torch.Generator) -> Tensor:
    return diffusion_loss(model, rows, mask_id=_mask_id(model), generator=generator)


def _measure_diffusion(model: TransformerLM, rows: Tensor, generator: torch.Generator) -> Measurement:
    samples = diffusion_bound(model, rows, mask_id=_mask_id(model), samples=8, generator=generator)
    totals = samples.double().sum(dim=1)
    error = float(totals.std() / len(totals) ** 0.5)
    note = f"variational bound, mean of {len(totals)} random maskings of every row"
    return Measurement("upper bound", float(totals.mean()), error, note)


OBJECTIVES = (
    Objective(
        "next_token", "next token", TransformerLM,
        lambda model, rows, generator: next_token_losses(model, rows).mean(), _measure_next_token,
    ),
    Objective(
        "multi_token_prediction", f"{NUM_HEADS} tokens ahead",
        lambda config: MultiTokenPredictor(TransformerLM(config), NUM_HEADS),
        lambda model, rows, generator: multi_token_loss(model(rows[:, :-1]), rows), _measure_multi_token,
    ),
    Objective(
        "prefix_lm", "prefix LM", TransformerLM,
        lambda model, rows, generator: prefix_lm_loss(
            model, rows, draw_prefixes(len(rows), rows.shape[1] - 1, generator=generator)
        ),
        _measure_prefix,
    ),
    Objective("masked_lm", "masked LM", _bidirectional, _masked_lm_loss, _measure_masked_lm),
    Objective("masked_diffusion", "masked diffusion", _bidirectional, _diffusion_loss, _measure_diffusion),
)  # fmt: skip
"""In the order in which they are told about."""
