"""Prefix LM: read a prefix from both sides, then continue it token by token.

    mask[q, k]   True where k <= q (causal) or k < prefix (the prefix, from anywhere)
    loss         mean of -log p(x_t | x_0 .. x_{t-1}) over t >= prefix: no token of the prefix is ever a target

The prefix's tokens see each other in both directions, as an encoder's would; the model is one and the same. A prefix of
one token is a causal model exactly, so -log p(row | first token) and with it bits per byte are defined (and known to
the model: prefixes are drawn uniformly from 1 .. T). Each row gives only T + 1 - prefix targets, half of T on average.

Source: Liu et al. 2018 (1801.10198); Raffel et al. 2020 (T5, 1910.10683), section 3.2.1. Left out: span corruption and
the mixture of UL2 (2205.05131). Read next: `masked_lm.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cs336_basics.masked_forward import masked_logits
from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import token_losses


def prefix_mask(prefixes: Int[Tensor, " batch"], seq: int) -> Bool[Tensor, "batch seq seq"]:
    """True where a query may attend to a key: not later than itself, or among the first `prefixes` of its row."""
    causal = torch.ones(seq, seq, dtype=torch.bool, device=prefixes.device).tril()
    return causal | (torch.arange(seq, device=prefixes.device) < prefixes[:, None])[:, None, :]


def draw_prefixes(batch: int, seq: int, *, generator: torch.Generator) -> Int[Tensor, " batch"]:
    """Lengths of prefixes, uniform on 1 .. seq, so that at least one target is left."""
    return torch.randint(1, seq + 1, (batch,), generator=generator)


def prefix_losses(
    model: TransformerLM, rows: Int[Tensor, "batch row"], prefixes: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]:
    """Nats of each token after the prefix.

    Args:
        model: a plain model (see `masked_logits`).
        rows: T + 1 ids each.
        prefixes: tokens at the beginning of each row that are given, 1 .. T.

    Returns:
        (batch, T) losses of rows[:, 1:], zero inside the prefix, and which of them are scored.

    Raises:
        ValueError: a prefix out of range.
    """
    seq = rows.shape[-1] - 1
    if int(prefixes.min()) < 1 or int(prefixes.max()) > seq:
        raise ValueError(f"prefixes must lie in 1 .. {seq} for rows of {seq + 1} tokens; got {prefixes.tolist()}")
    prefixes = prefixes.to(rows.device)
    logits = masked_logits(model, rows[:, :-1], prefix_mask(prefixes, seq))
    scored = torch.arange(1, seq + 1, device=rows.device) >= prefixes[:, None]
    return token_losses(logits, rows[:, 1:]) * scored, scored


def prefix_lm_loss(
    model: TransformerLM, rows: Int[Tensor, "batch row"], prefixes: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Mean nats per token after the prefixes; see `prefix_losses`."""
    losses, scored = prefix_losses(model, rows, prefixes)
    return losses.sum() / scored.sum()
