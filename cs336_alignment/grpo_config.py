"""The switches of the policy-gradient trainer, and the named methods that are settings of them.

Read next: `grpo.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from cs336_alignment.advantages import Baseline, Normalizer
from cs336_alignment.kl_divergence import KlEstimator
from cs336_alignment.policy_gradient import ImportanceMethod
from cs336_basics.training_config import OptimizerConfig

TokenNormalization = Literal["sequence", "token", "constant"]

METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"baseline": "mean", "advantage_normalizer": "std", "loss_normalization": "sequence"},
    "dr_grpo": {"baseline": "mean", "advantage_normalizer": "none", "loss_normalization": "constant"},
    "dapo": {"baseline": "mean", "advantage_normalizer": "std", "loss_normalization": "token", "importance": "grpo",
             "cliprange": 0.2, "cliprange_high": 0.28, "dynamic_sampling_rounds": 3},
    "gspo": {"baseline": "mean", "advantage_normalizer": "std", "loss_normalization": "sequence",
             "importance": "gspo", "cliprange": 3e-4},
    "cispo": {"baseline": "mean", "advantage_normalizer": "std", "loss_normalization": "token",
              "importance": "cispo", "cliprange": 0.28},
    "maxrl": {"baseline": "mean", "advantage_normalizer": "mean", "loss_normalization": "constant"},
    "rloo": {"baseline": "leave_one_out", "advantage_normalizer": "none", "loss_normalization": "constant"},
    "reinforce": {"baseline": "none", "advantage_normalizer": "none", "loss_normalization": "constant"},
    "reinforce_batch_baseline": {"baseline": "batch", "advantage_normalizer": "batch_std",
                                 "loss_normalization": "constant"},
}  # fmt: skip
"""settings by method; "reinforce" on rewards of 0 and 1 is the rejection fine-tuning (RFT) of the 2026 handout"""


def rl_optimizer() -> OptimizerConfig:
    """AdamW without decay at a constant rate."""
    return OptimizerConfig(
        max_learning_rate=3e-4, schedule="constant", warmup_steps=10, betas=(0.9, 0.95), weight_decay=0.0
    )


@dataclass(frozen=True)
class GrpoConfig:
    """One run of reinforcement learning; the defaults are Dr. GRPO on policy."""

    num_steps: int = 200
    """rounds of rollouts"""
    prompts_per_step: int = 32
    """groups of a round"""
    group_size: int = 16
    """responses per prompt"""
    epochs_per_rollout: int = 1
    """passes over a round's rollouts"""
    minibatches: int = 1
    """updates per pass; more than one update per round is off policy and wants `importance`"""
    microbatch_tokens: int = 32_768
    """padded tokens of a forward pass; changes memory, not the result"""

    baseline: Baseline = "mean"
    """what is subtracted from a reward: see `advantages.py`"""
    advantage_normalizer: Normalizer = "none"
    """what it is then divided by"""
    advantage_eps: float = 1e-6
    """added to the divisor"""
    loss_normalization: TokenNormalization = "constant"
    """sum of token losses by: each response's length (sequence), all tokens of the update (token), or rows times
    normalization_constant (constant)"""
    normalization_constant: float | None = None
    """for constant: tokens per response; max_tokens by default"""
    importance: ImportanceMethod = "none"
    """how rollouts of an older policy are weighed: see `policy_gradient.py`"""
    cliprange: float | None = None
    """half-width of the clip"""
    cliprange_high: float | None = None
    """width above 1 if another"""
    ratio_cap: float | None = None
    """two-sided clip: bound of the ratio where the advantage is negative"""
    sampler_ratio_cap: float | None = None
    """truncated importance sampling between sampler and trainer; 2 is usual"""

    kl_coefficient: float = 0.0
    """weight of the divergence from the initial model; 0 keeps no copy of it"""
    kl_estimator: KlEstimator = "k3"
    """see `kl_divergence.py`"""
    mask_truncated: bool = False
    """leave responses that never ended out of the loss"""
    overlong_buffer: int = 0
    """DAPO's soft penalty: the reward falls by up to 1 over the last so many tokens before max_tokens"""
    dynamic_sampling_rounds: int = 0
    """DAPO: sample up to so many times again to replace groups whose rewards are all equal"""
    random_reward: bool = False
    """negative control: toss a coin instead of looking at the answer"""

    temperature: float = 1.0
    """of sampling; log-probs are taken at it too"""
    top_k: int | None = None
    """of sampling"""
    top_p: float | None = None
    """of sampling"""
    max_tokens: int | None = None
    """longest response; the task's by default"""

    optimizer: OptimizerConfig = field(default_factory=rl_optimizer)
    """see `cs336 train --help`"""
    eval_every: int = 25
    """steps between greedy evaluations on part of the test split"""
    eval_examples: int = 256
    """size of that part; the last evaluation takes all"""
    sample_every: int = 25
    """steps between transcripts in samples.jsonl"""
    checkpoint_every: int = 50
    """steps between checkpoints"""
    seed: int = 0
    """of prompts, samples and data"""

    def __post_init__(self) -> None:
        counts = ("num_steps", "prompts_per_step", "group_size", "epochs_per_rollout", "minibatches",
                  "microbatch_tokens", "eval_every", "eval_examples", "sample_every", "checkpoint_every")  # fmt: skip
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("overlong_buffer", "dynamic_sampling_rounds", "kl_coefficient", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, or all of a group are equal; got {self.temperature}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.minibatches > self.prompts_per_step * self.group_size:
            raise ValueError(
                f"minibatches={self.minibatches} are more than the {self.prompts_per_step * self.group_size} rollouts"
            )
        if self.updates_per_step > 1 and self.importance == "none":
            raise ValueError(
                f"{self.updates_per_step} updates per round of rollouts are off policy; choose importance='noclip', "
                "'grpo', 'gspo' or 'cispo'"
            )
        if (self.importance in ("grpo", "gspo", "cispo")) != (self.cliprange is not None):
            raise ValueError(
                f"cliprange goes with importance 'grpo', 'gspo' or 'cispo'; got {self.cliprange} with {self.importance!r}"
            )
        if self.group_size == 1 and (self.advantage_normalizer == "std" or self.baseline == "leave_one_out"):
            raise ValueError(
                "group_size=1 has neither a standard deviation nor others to compare with; sample 2 or more"
            )
        filtered = self.temperature != 1 or self.top_k is not None or self.top_p is not None
        if self.sampler_ratio_cap is not None and filtered:
            raise ValueError(
                "sampler_ratio_cap compares log-probs at temperature 1 without top_k and top_p; leave one of them out"
            )

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates per round of rollouts."""
        return self.epochs_per_rollout * self.minibatches


def method_config(method: str, **settings: Any) -> GrpoConfig:
    """The config of a named method (`METHODS`) with other settings beside it.

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    return GrpoConfig(**{**METHODS[method], **settings})
