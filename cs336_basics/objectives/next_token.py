"""Next-token prediction: the objective all others are measured against.

    loss = mean over t of -log p(x_t | x_0 .. x_{t-1})

A row of T + 1 tokens is read once and makes T predictions, each with the true tokens before it (teacher forcing). The
sum of its terms is -log p(row | first token) exactly, by the chain rule, so it is a code length: divided by ln 2 and
the bytes of the text it is bits per byte. Handout: cross_entropy, training_together. Read next:
`multi_token_prediction.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from cs336_basics.nn_utils import token_losses


def next_token_losses(model: Callable[[Tensor], Tensor], rows: Int[Tensor, "batch row"]) -> Float[Tensor, "batch seq"]:
    """Nats of every token but the first of each row.

    Args:
        model: ids (batch, seq) to logits (batch, seq, vocab).
        rows: T + 1 ids each; the first is given.

    Returns:
        (batch, T), in nats.
    """
    return token_losses(model(rows[:, :-1]), rows[:, 1:])
