"""A causal model with a number instead of logits behind each token: what reward models and value functions are.

    value_t = w . h_t + b        h: the body's last hidden states, of a model of ours or of Hugging Face

The head begins at zero, so that an untrained value function says nothing. Read next: `reward_model.py`, `ppo.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cs336_basics.layers import Linear


class ScalarHead(nn.Module):
    """A body and a head of width 1.

    Args:
        body: a TransformerLM, or a model of Hugging Face; its own head over the vocabulary is not used.
    """

    def __init__(self, body: nn.Module | Any):
        super().__init__()
        self.body = body
        weight = next(body.parameters())
        self.head = Linear(_width(body), 1, weight.device, weight.dtype)
        self.bias = nn.Parameter(torch.zeros(1, device=weight.device, dtype=weight.dtype))
        nn.init.zeros_(self.head.weight)

    def forward(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
        """The number behind each token, float32."""
        if hasattr(self.body, "hidden_states") and callable(self.body.hidden_states):
            hidden = self.body.hidden_states(input_ids)
        else:
            hidden = self.body(input_ids, output_hidden_states=True).hidden_states[-1]
        return (self.head(hidden).squeeze(-1) + self.bias).float()


def _width(body: Any) -> int:
    """Width of the hidden states."""
    config = body.config
    return getattr(config, "d_model", None) or config.hidden_size
