"""What a training run is made of: one frozen config, validated, stored with the run, and made command-line flags.

Read next: `training.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cs336_basics.model import ModelConfig
from cs336_basics.optimizer import (
    get_lr_cosine_schedule,
    get_lr_inverse_sqrt_schedule,
    get_lr_linear_schedule,
    get_lr_wsd_schedule,
)

APPLIES_TO = {
    "betas": ("adamw", "muon", "soap", "lion", "schedule_free"),
    "eps": ("adamw", "muon", "soap", "schedule_free"),
    "precondition_every": ("soap",),
    "relative_step": ("adafactor",),
}
"""the optimizers that have an option"""
WITH_DECAY_STEPS = ("wsd", "trapezoid")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning-rate schedule."""

    name: Literal["adamw", "muon", "soap", "lion", "adafactor", "schedule_free"] = "adamw"
    """adamw, lion, adafactor or schedule_free (AdamW) for all weights; muon for the matrices inside the blocks, soap
    for all matrices, both with adamw for the rest"""
    max_learning_rate: float = 1e-3
    """highest learning rate"""
    min_learning_rate: float | None = None
    """learning rate at the end; a tenth of the highest by default"""
    schedule: Literal["cosine", "linear", "wsd", "trapezoid", "inverse_sqrt", "constant"] = "cosine"
    """how the rate falls after warm-up: cosine, linear and wsd (warm-up, stable, decay; trapezoid is its other name)
    reach the minimum at the last step; inverse_sqrt never falls below it; constant ignores it"""
    warmup_steps: int = 100
    """steps of linear warm-up from 0"""
    decay_steps: int | None = None
    """wsd: steps of linear decay at the end; a fifth of the run by default"""
    betas: tuple[float, float] = (0.9, 0.95)
    """decay rates of the moment estimates; for lion, which the paper gives (0.95, 0.98) on language, of its momentum;
    for schedule_free, share of the average in the training weights and decay rate of the second moment"""
    eps: float = 1e-8
    """offset of the denominator, outside the root"""
    weight_decay: float = 0.1
    """share of each weight removed per step, times the learning rate"""
    weight_decay_on: Literal["all", "matrices"] = "all"
    """which weights decay: all, or only matrices other than embedding tables (no gains of norms, no vectors)"""
    precondition_every: int = 10
    """soap: steps between updates of its bases"""
    relative_step: bool = False
    """adafactor: multiply the rate by the size of the weights and bound it by 1/sqrt(step)"""
    max_grad_norm: float = 1.0
    """gradients with a larger joint norm are scaled down to it"""

    def __post_init__(self) -> None:
        if not self.max_learning_rate > 0:
            raise ValueError(f"max_learning_rate must be positive; got {self.max_learning_rate}")
        if self.min_learning_rate is not None and not 0 <= self.min_learning_rate <= self.max_learning_rate:
            raise ValueError(
                f"min_learning_rate must lie between 0 and max_learning_rate={self.max_learning_rate}; "
                f"got {self.min_learning_rate}"
            )
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative; got {self.warmup_steps}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive; got {self.max_grad_norm}; use inf for no clipping")
        if self.decay_steps is not None and self.decay_steps < 0:
            raise ValueError(f"decay_steps must not be negative; got {self.decay_steps}")
        if self.precondition_every < 1:
            raise ValueError(f"precondition_every must be at least 1; got {self.precondition_every}")
        self._check_that_options_apply()

    def _check_that_options_apply(self) -> None:
        for field_name, names in APPLIES_TO.items():
            value = getattr(self, field_name)
            if value != getattr(type(self), field_name) and self.name not in names:
                raise ValueError(
                    f"optimizer.{field_name}={value} does not apply to {self.name}, only to {', '.join(names)}; "
                    "leave it out or choose another optimizer"
                )
        if self.decay_steps is not None and self.schedule not in WITH_DECAY_STEPS:
            raise ValueError(
                f"optimizer.decay_steps={self.decay_steps} does not apply to the {self.schedule} schedule, only to "
                f"{' and '.join(WITH_DECAY_STEPS)}; leave it out or choose one of these"
            )
        if self.name == "schedule_free" and self.schedule != "constant":
            raise ValueError(
                f"schedule_free averages instead of lowering the rate, so it needs schedule='constant'; "
                f"got {self.schedule!r}"
            )

    def learning_rate(self, step: int, num_steps: int) -> float:
        """The rate for the update that follows `step` finished ones (the first update is not wasted on a rate of 0)."""
        top = self.max_learning_rate
        low = top / 10 if self.min_learning_rate is None else self.min_learning_rate
        if self.schedule == "cosine":
            return get_lr_cosine_schedule(step + 1, top, low, self.warmup_steps, num_steps)
        if self.schedule == "linear":
            return get_lr_linear_schedule(step + 1, top, low, self.warmup_steps, num_steps)
        if self.schedule == "inverse_sqrt":
            return get_lr_inverse_sqrt_schedule(step + 1, top, low, self.warmup_steps)
        if self.schedule in WITH_DECAY_STEPS:
            decay = num_steps // 5 if self.decay_steps is None else self.decay_steps
            return get_lr_wsd_schedule(step + 1, top, low, self.warmup_steps, decay, num_steps)
        return top * min(1.0, (step + 1) / max(1, self.warmup_steps))


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run; see `cs336 train --help`."""

    model: ModelConfig
    train_tokens: Path
    """token file to train on"""
    valid_tokens: Path
    """token file to validate on"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    tokenizer: Path | None = None
    """folder of the tokenizer; needed for samples, for bits per byte and for validation by documents"""
    windows: Literal["anywhere", "documents", "stream", "best-fit"] = "anywhere"
    """training windows: random, from any token on (anywhere) or from the start of a document on (documents); or in the
    order of the file, end to end (stream) or as whole documents packed into rows (best-fit)"""
    document_mask: bool = False
    """end attention and restart positions at documents' borders, so that packed documents do not see each other"""
    num_steps: int = 1000
    """optimizer updates"""
    batch_size: int = 32
    """windows per forward pass"""
    gradient_accumulation: int = 1
    """forward passes per update; the effective batch is batch_size times this"""
    z_loss: float = 0.0
    """coefficient of the mean squared logsumexp of the logits, which keeps them from drifting; PaLM has 1e-4"""
    chunked_loss: int = 0
    """compute logits and loss for so many tokens at a time instead of holding all logits at once; 0 for all"""
    ema_decay: float = 0.0
    """decay of a moving average of the weights, which is then what is validated, sampled and saved; 0 for none"""
    ema_start: Literal["corrected", "ramp", "constant"] = "corrected"
    """first steps of the average: bias-corrected, a memory that grows, or a constant rate from the initial weights"""
    seed: int = 0
    """seed of the weights, the batches and the samples"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: a GPU where there is one"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """arithmetic of forward and backward; auto is bfloat16 on GPUs that have it, else float32"""
    compile: bool = False
    """use torch.compile (needs a C++ compiler on a CPU, Triton on a GPU)"""
    log_every: int = 10
    """steps between log records"""
    eval_every: int = 200
    """steps between validations; the last step is always validated"""
    eval_tokens: int = 50_000
    """validation tokens used while training (the final validation uses all)"""
    eval_by: Literal["windows", "documents"] = "windows"
    """cut the validation tokens into windows, or start at each document's beginning"""
    checkpoint_every: int = 500
    """steps between checkpoints"""
    keep_checkpoints: int = 2
    """newest checkpoints kept"""
    sample_prompt: str = ""
    """text to continue at each validation, for people to read; empty begins a new document"""
    sample_tokens: int = 0
    """length of the samples; 0 for none"""
    tensorboard: bool = False
    """also log to TensorBoard (pip install tensorboard)"""
    wandb_project: str | None = None
    """also log to this Weights & Biases project (pip install wandb)"""

    def __post_init__(self) -> None:
        for name in (
            "num_steps", "batch_size", "gradient_accumulation", "log_every", "eval_every", "eval_tokens",
            "checkpoint_every", "keep_checkpoints",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not self.z_loss >= 0:
            raise ValueError(f"z_loss must not be negative; got {self.z_loss}")
        if self.chunked_loss < 0:
            raise ValueError(f"chunked_loss is a number of tokens, or 0 for all at once; got {self.chunked_loss}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1); got {self.ema_decay}")
        if self.ema_decay and self.optimizer.name == "schedule_free":
            raise ValueError("schedule_free averages the weights itself; set ema_decay=0 or choose another optimizer")
        if self.eval_tokens < 2:
            raise ValueError(f"eval_tokens must be at least 2 (an input and a target); got {self.eval_tokens}")
        if self.optimizer.warmup_steps >= self.num_steps:
            raise ValueError(
                f"optimizer.warmup_steps={self.optimizer.warmup_steps} must be less than num_steps={self.num_steps}; "
                "shorten the warm-up or train longer"
            )
        by_documents = self.windows in ("documents", "best-fit") or self.eval_by == "documents" or self.document_mask
        if self.tokenizer is None and (self.sample_tokens or by_documents):
            raise ValueError(
                "samples, document_mask, and windows or validation by documents, need the tokenizer; set its folder"
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update has seen."""
        return self.batch_size * self.gradient_accumulation * self.model.context_length
