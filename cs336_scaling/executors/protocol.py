"""What an executor is, and what it is asked.

`Executor` serves the 2026 queue: it starts jobs and reports through the queue. `LossSource` serves the old API and the
executors that need no training: one request, one answer, labelled with where it comes from. Read next: `law.py`,
`local.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cs336_scaling.scheduler.queue import Job
from cs336_scaling.training.training_config import TrainingConfig


@dataclass(frozen=True)
class LossRequest:
    """A run, in the terms that every source understands."""

    d_model: int
    num_layers: int
    num_heads: int
    batch_size: int
    """sequences per update"""
    learning_rate: float
    """peak"""
    train_flops: int
    """6 * non-embedding parameters * tokens"""
    seed: int = 0

    @property
    def non_embedding_parameters(self) -> int:
        """12 * layers * width^2."""
        return 12 * self.num_layers * self.d_model**2

    @property
    def tokens(self) -> float:
        """Training tokens: FLOPs / 6 N."""
        return self.train_flops / (6 * self.non_embedding_parameters)


@dataclass(frozen=True)
class LossAnswer:
    """Final validation loss of a run."""

    loss: float
    """nats per token"""
    source: str
    """measured (this very run was made), surface (a fit through measured runs), law (a formula), run (trained now)"""
    seconds: float = 1.0
    """training time that the run took or would take"""


@runtime_checkable
class LossSource(Protocol):
    """Answers requests; may take long, may be called from several threads."""

    def answer(self, request: LossRequest) -> LossAnswer:
        """The loss of one run; raises what went wrong, and then nothing is charged."""
        ...


@runtime_checkable
class Executor(Protocol):
    """Runs jobs of the queue."""

    def start(self, job: Job) -> None:
        """Begin a run and return soon; its events and result go to the queue."""
        ...

    def dead_runs(self) -> list[tuple[int, str]]:
        """(experiment, run) of started runs known to have died without a result; each is told once."""
        ...

    def close(self) -> None:
        """Let go of what belongs to this process; runs go on where they can."""
        ...


def as_loss_request(config: TrainingConfig) -> LossRequest:
    """A 2026 configuration in these terms."""
    shape = config.architecture_config
    return LossRequest(
        d_model=shape.hidden_size, num_layers=shape.num_hidden_layers, num_heads=shape.num_attention_heads,
        batch_size=config.train_batch_size, learning_rate=config.optimizer_config.lr_scheduler.peak_value,
        train_flops=6 * shape.non_embedding_parameters * config.total_train_tokens, seed=config.model_seed,
    )  # fmt: skip
