"""Entrypoint of the training-step board: assignment 1's model and optimizer, the reference that entries are timed against.

    make_step(config, weights, learning_rate) -> object with step(ids) -> loss and state_dict() -> weights

config holds the fields of ModelConfig, weights the first weights by name; ids are (batch, context + 1). One whole
update (cross-entropy, AdamW with its defaults) has been made when step returns the loss before it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cs336_basics.model import ModelConfig, TransformerLM
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.optimizer import AdamW
from cs336_basics.runs.config import config_from_dict


class Trainer:
    """A model with its optimizer."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor], learning_rate: float) -> None:
        self.model = TransformerLM(config_from_dict(ModelConfig, config))
        self.model.load_state_dict(weights)
        self.optimizer = AdamW(self.model.parameters(), lr=learning_rate)

    def step(self, ids: Tensor) -> Tensor:
        """One update."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(self.model(ids[:, :-1]), ids[:, 1:])
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """All weights."""
        return dict(self.model.state_dict())


def make_step(config: dict[str, Any], weights: dict[str, Tensor], learning_rate: float) -> Trainer:
    """The reference trainer."""
    return Trainer(config, weights, learning_rate)
