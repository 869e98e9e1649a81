"""Multi-token prediction: at each position predict the next n tokens, by n heads on one trunk.

    z = trunk(x_0 .. x_t)                     all layers but the last
    p_i(x_{t+i} | x_0 .. x_t) = softmax(head(norm(block_i(z))))       i = 1 .. n: a block each, norm and head shared
    loss = 1/n sum_i mean_t -log p_i(x_{t+i} | x_0 .. x_t)

Predicting further ahead is meant to make the trunk plan. The first head is the model as it stands, so after training
the others are thrown away and everything else of the library takes the model as an ordinary one: its bits per byte
are those of the first head. The further heads cost n - 1 blocks and output products in training; here they come on
top, while the paper takes as many layers from the trunk. The paper sums over heads; the mean keeps the scale of one
head.

Source: Gloeckle et al. 2024 (2404.19737), section 2. Left out: their memory-saving order of backward passes,
self-speculative decoding. Read next: `prefix_lm.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cs336_basics.model import TransformerBlock, TransformerLM
from cs336_basics.nn_utils import cross_entropy


class MultiTokenPredictor(nn.Module):
    """A TransformerLM and the blocks of its further heads.

    Args:
        model: its last block becomes that of the first head.
        num_heads: tokens predicted at each position, n.

    Raises:
        ValueError: num_heads is less than 1.
    """

    def __init__(self, model: TransformerLM, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"multi-token prediction needs at least 1 head; got {num_heads}")
        self.model = model
        weight = model.lm_head.weight
        self.blocks = nn.ModuleList(
            TransformerBlock(model.config, model.positional_encoder, weight.device, weight.dtype)
            for _ in range(num_heads - 1)
        )

    def forward(self, token_ids: Int[Tensor, "batch seq"]) -> list[Float[Tensor, "batch seq vocab"]]:
        """Logits of each head, that of the next token first."""
        trunk: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        hook = self.model.layers[-1].register_forward_pre_hook(
            lambda module, args, kwargs: trunk.append((args, kwargs)), with_kwargs=True
        )
        try:
            logits = [self.model(token_ids)]
        finally:
            hook.remove()
        (arguments, options), norm, head = trunk[0], self.model.ln_final, self.model.lm_head
        return logits + [head(norm(block(*arguments, **options))) for block in self.blocks]


def multi_token_loss(
    logits: Sequence[Float[Tensor, "batch seq vocab"]], rows: Int[Tensor, "batch row"]
) -> Float[Tensor, ""]:
    """Mean over heads of each one's mean loss; head i (from 1) predicts i tokens ahead and has T + 1 - i targets a row.

    Args:
        logits: of each head on rows[:, :-1], as `MultiTokenPredictor` gives them.
        rows: T + 1 ids each.

    Raises:
        ValueError: rows are too short for the last head to have a target.
    """
    if rows.shape[-1] <= len(logits):
        raise ValueError(
            f"{len(logits)} heads need rows of at least {len(logits) + 1} tokens; got {rows.shape[-1]}; lengthen the "
            "context or use fewer heads"
        )
    length = rows.shape[-1]
    losses = [cross_entropy(x[:, : length - ahead], rows[:, ahead:]) for ahead, x in enumerate(logits, start=1)]
    return torch.stack(losses).mean()
