"""How a training run is spread over processes: the options that `cs336 train` gains from this package.

They are no part of the run's own configuration: a run may go on under others, from the same checkpoints. `--strategy`
names a class of `strategies.py`; activation checkpointing and offloading go with most of them. What cannot be combined
is said before anything is started.

Left out: two strategies at a time (tensor parallel groups within data parallel ones). Read next: `strategies.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from cs336_basics.training_config import TrainConfig

Name = Literal[
    "single",
    "ddp-naive",
    "ddp-flat",
    "ddp-overlapped",
    "ddp",
    "zero1",
    "zero2",
    "fsdp",
    "tensor",
    "pipeline",
    "context",
]
SHARES_THE_BATCH = ("tensor", "pipeline", "context")
"""strategies whose processes work on one batch together"""


@dataclass(frozen=True)
class ParallelConfig:
    """Options beside the run's own.

    Raises:
        ValueError: a value out of range, told with the rule.
    """

    strategy: Name = "single"
    """how the processes that torchrun has started share the work. Each with a batch of its own: ddp (gradients averaged
    in buckets during backward; ddp-overlapped: one by one, ddp-naive and ddp-flat: after backward), zero1 (optimizer
    state split), zero2 (gradients too), fsdp (weights too). All on one batch: tensor (matrices cut), pipeline (layers
    in stages), context (sequences cut)"""
    bucket_mb: float = 25.0
    """ddp, zero1, zero2: largest message of gradients, in 10^6 bytes"""
    activation_checkpointing: str = "none"
    """what is computed again in backward instead of kept: none, all (each layer), a number (groups of so many layers),
    or nested (recursive halving)"""
    offload_optimizer: bool = False
    """keep the optimizer's state, and a copy of the weights, in CPU memory"""
    pipeline_schedule: Literal["1f1b", "gpipe"] = "1f1b"
    """pipeline: order of the passes"""
    micro_batches: int = 4
    """pipeline: parts of a batch that follow one another"""
    context_layout: Literal["zigzag", "contiguous"] = "zigzag"
    """context: which tokens a process holds; zigzag gives all the same work"""

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Name):
            raise ValueError(f"strategy={self.strategy!r} is not known; choose one of {', '.join(get_args(Name))}")
        if not self.bucket_mb > 0:
            raise ValueError(f"bucket_mb must be above 0; got {self.bucket_mb}")
        named = self.activation_checkpointing in ("none", "all", "nested")
        if not named and not (self.activation_checkpointing.isdecimal() and int(self.activation_checkpointing) > 0):
            raise ValueError(
                "activation_checkpointing must be none, all, nested, or a number of layers above 0; got "
                f"{self.activation_checkpointing!r}"
            )
        if self.micro_batches < 1:
            raise ValueError(f"micro_batches must be at least 1; got {self.micro_batches}")

    def check_run(self, config: TrainConfig) -> None:
        """Raise a ValueError where the run's own configuration asks for what the strategy cannot do."""
        compiled_away = self.strategy in ("fsdp", *SHARES_THE_BATCH) or self.activation_checkpointing != "none"
        if config.compile and compiled_away:
            what = (
                "activation checkpointing" if self.activation_checkpointing != "none" else f"strategy {self.strategy}"
            )
            raise ValueError(f"{what} cannot be compiled; use --no-compile")
        whole_logits: dict[str, float] = {"document_mask": config.document_mask, "chunked_loss": config.chunked_loss}
        if self.strategy in ("tensor", "pipeline"):
            whole_logits["z_loss"] = config.z_loss
        for name, value in whole_logits.items():
            if self.strategy in SHARES_THE_BATCH and value:
                raise ValueError(f"strategy {self.strategy} computes the plain loss only; unset {name} (now {value})")
        if self.strategy == "pipeline" and self.activation_checkpointing != "none":
            raise ValueError("a pipeline's stages do not checkpoint activations; use more micro_batches and 1f1b")
        if self.strategy == "pipeline" and self.micro_batches > config.batch_size:
            raise ValueError(
                f"micro_batches={self.micro_batches} cannot be cut from batch_size={config.batch_size}; lower it"
            )
