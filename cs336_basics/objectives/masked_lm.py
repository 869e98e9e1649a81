"""Masked language modelling (BERT): fill gaps, seeing both sides.

    choose 15 % of the places; of these   80 % become [MASK], 10 % a random token, 10 % stay as they are
    loss = mean over the chosen places of -log p(x_i | the corrupted row)

The 10/10 make the model give an opinion at places without a [MASK] too. The [MASK] is an id of its own, the last of the
model's vocabulary; it is never predicted. The first token of a row is given, as in the other objectives here.

There are NO bits per byte: the conditionals p(x_i | all others) of such a model need not belong to any one joint
distribution, so their product is no code length. What is defined is the pseudo-likelihood: mean nats per masked token,
at a stated rate of masking. Being given what follows, it lies well below a causal loss and says nothing against it.

Source: Devlin et al. 2018 (1810.04805), section 3.1; pseudo-likelihood: Salazar et al. 2020 (1910.14659). Left out:
whole-word masking, next-sentence prediction. Read next: `masked_diffusion.py`, where the same network gets a
likelihood.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cs336_basics.nn_utils import token_losses


def choose_places(
    rows: Int[Tensor, "batch seq"], *, rate: float, generator: torch.Generator
) -> Bool[Tensor, "batch seq"]:
    """True at each place but the first with probability `rate`, independently.

    Raises:
        ValueError: a rate outside (0, 1].
    """
    if not 0 < rate <= 1:
        raise ValueError(f"the share of masked places must lie in (0, 1]; got {rate}")
    chosen = torch.rand(rows.shape, generator=generator) < rate
    chosen[..., 0] = False
    return chosen.to(rows.device)


def corrupt(
    rows: Int[Tensor, "batch seq"],
    chosen: Bool[Tensor, "batch seq"],
    *,
    mask_id: int,
    generator: torch.Generator,
    random_share: float = 0.1,
    kept_share: float = 0.1,
) -> Int[Tensor, "batch seq"]:
    """BERT's 80/10/10: at the chosen places a mask, a random token below `mask_id`, or the token itself.

    Args:
        rows: ids in [0, mask_id).
        chosen: places to corrupt.
        mask_id: id of the mask, one past the last real token.
        generator: CPU generator.
        random_share: share of the chosen places that get a random token.
        kept_share: share of the chosen places that stay.
    """
    dice = torch.rand(rows.shape, generator=generator).to(rows.device)
    strangers = torch.randint(0, mask_id, rows.shape, generator=generator).to(rows.device)
    replaced = torch.where(dice < random_share, strangers, torch.full_like(rows, mask_id))
    return torch.where(chosen & (dice < 1 - kept_share), replaced, rows)


def masked_lm_loss(
    model: Callable[[Tensor], Tensor],
    rows: Int[Tensor, "batch seq"],
    corrupted: Int[Tensor, "batch seq"],
    chosen: Bool[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    """Mean nats per chosen place; 0 when none is chosen.

    Args:
        model: bidirectional, ids (batch, seq) to logits (batch, seq, vocab + 1), the mask's last.
        rows: the true ids.
        corrupted: what the model reads.
        chosen: the places that count.
    """
    losses = token_losses(model(corrupted)[..., :-1], rows)
    return (losses * chosen).sum() / chosen.sum().clamp(min=1)
