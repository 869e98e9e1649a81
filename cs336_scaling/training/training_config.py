"""A job of the 2026 service: model, optimizer, tokens, and the seconds it may run.

Token counts have to divide exactly, so that every run ends where it says. Two equal configurations have the same
`unique_id`, which is what makes a second submission a duplicate. Read next: `run.py`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, model_validator

from cs336_scaling.frozen_model import FrozenModel
from cs336_scaling.training.model.basic_model import BasicTransformerConfig
from cs336_scaling.training.optimizer import AdamWConfig, SGDConfig

MAX_TOKENS = 500_000_000_000
MAX_RUNTIME_SECONDS = 43_200


class TrainingConfig(FrozenModel):
    """Everything that decides the outcome of a run."""

    seq_len: ClassVar[int] = 512
    n_val_tokens: ClassVar[int] = 2**18

    architecture_config: BasicTransformerConfig
    optimizer_config: Annotated[SGDConfig | AdamWConfig, Field(union_mode="left_to_right")]
    train_batch_size: PositiveInt
    val_batch_size: PositiveInt
    n_evals: PositiveInt = 16
    total_train_tokens: Annotated[int, Field(gt=0, le=MAX_TOKENS)]
    max_runtime_seconds: Annotated[int, Field(ge=1, le=MAX_RUNTIME_SECONDS)]
    model_seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _counts_divide(self) -> Self:
        if self.total_train_tokens % self.tokens_per_optimizer_step:
            raise ValueError(
                f"total_train_tokens must be a multiple of {self.seq_len} * train_batch_size = "
                f"{self.tokens_per_optimizer_step}; got {self.total_train_tokens}"
            )
        if self.total_optimizer_steps % self.n_evals:
            raise ValueError(
                f"n_evals must divide the {self.total_optimizer_steps} optimizer steps; got {self.n_evals}"
            )
        if self.n_val_tokens % (self.seq_len * self.val_batch_size):
            raise ValueError(
                f"val_batch_size * {self.seq_len} must divide {self.n_val_tokens}; got {self.val_batch_size}"
            )
        return self

    @property
    def tokens_per_optimizer_step(self) -> int:
        """Tokens of one update."""
        return self.seq_len * self.train_batch_size

    @property
    def total_optimizer_steps(self) -> int:
        """Updates of the run."""
        return self.total_train_tokens // self.tokens_per_optimizer_step

    @property
    def eval_every_tokens(self) -> int:
        """Training tokens between validations."""
        return self.total_train_tokens // self.n_evals

    @property
    def optimizer_steps_per_eval(self) -> int:
        """Updates between validations."""
        return self.total_optimizer_steps // self.n_evals

    @property
    def unique_id(self) -> str:
        """20 hexadecimal digits; equal for equal configurations, whatever the order of their fields."""
        text = json.dumps(_with_class_names(self), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2s(text.encode(), digest_size=10).hexdigest()


def _with_class_names(value: Any) -> Any:
    """JSON-ready form in which every model names its class, so that AdamW and SGD never look alike."""
    if isinstance(value, BaseModel):
        kind = type(value)
        fields = {name: _with_class_names(getattr(value, name)) for name in kind.model_fields}
        return {"class": f"{kind.__module__}.{kind.__qualname__}", "fields": fields}
    return value
