"""The choices of the larger variants, one frozen dataclass each; `ModelConfig` holds them as optional fields.

None of them imports torch, so that a configuration can be read, checked and counted anywhere. Read next: `build.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


def require_at_least(config: Any, **least: int | float) -> None:
    """Raise a ValueError for the first named field of `config` that is below its least value (None passes)."""
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and not value >= bound:
            raise ValueError(f"{type(config).__name__}.{name} must be at least {bound}; got {value}")


@dataclass(frozen=True)
class RopeScaling:
    """Rotary positions beyond the length a model was trained on; see `rope_scaling.py`."""

    kind: Literal["linear", "yarn"] = "yarn"
    """linear: every angle is divided by factor (position interpolation); yarn: only those that turn slowly"""
    factor: float = 4.0
    """how many times longer than original_context_length, at least 1"""
    original_context_length: int = 2048
    """context length of the training so far, in tokens (yarn)"""
    beta_fast: float = 32.0
    """a pair that turns at least so often within the original context keeps its angle (yarn)"""
    beta_slow: float = 1.0
    """a pair that turns at most so often is interpolated whole (yarn)"""
    attention_factor: float | None = None
    """multiplies queries and keys; default 0.1 ln(factor) + 1 for yarn, 1 for linear"""

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "yarn"):
            raise ValueError(f"RopeScaling.kind must be linear or yarn; got {self.kind!r}")
        require_at_least(self, factor=1.0, original_context_length=1)
        if not self.beta_fast > self.beta_slow > 0:
            raise ValueError(f"RopeScaling needs beta_fast > beta_slow > 0; got {self.beta_fast} and {self.beta_slow}")


@dataclass(frozen=True)
class LatentAttentionConfig:
    """Multi-head latent attention (DeepSeek-V2, 2405.04434); see `latent_attention.py`."""

    kv_rank: int = 64
    """width of the latent from which keys and values are made; it is what the cache holds"""
    q_rank: int | None = None
    """width of the latent of the queries; None projects them directly"""
    content_dim: int = 32
    """width per head of the part of queries and keys without positions"""
    rope_dim: int = 16
    """width of the rotary part: one key shared by all heads, one query each; even"""
    value_dim: int = 32
    """width per head of the values"""

    def __post_init__(self) -> None:
        require_at_least(self, kv_rank=1, q_rank=1, content_dim=1, rope_dim=2, value_dim=1)
        if self.rope_dim % 2:
            raise ValueError(f"LatentAttentionConfig.rope_dim must be even; got {self.rope_dim}")


@dataclass(frozen=True)
class MixtureOfExpertsConfig:
    """Feed-forward networks of which each token visits a few; see `mixture_of_experts.py`."""

    num_experts: int = 8
    """experts among which the router chooses"""
    top_k: int = 2
    """experts per token"""
    num_shared_experts: int = 0
    """experts that every token visits besides"""
    d_expert: int | None = None
    """width inside an expert; d_ff by default"""
    balance_loss: float = 0.01
    """weight of the load-balancing loss (Switch Transformer); 0 leaves it out"""
    z_loss: float = 1e-3
    """weight of the router's z-loss (ST-MoE); 0 leaves it out"""
    bias_balancing: bool = False
    """balance by a bias on the router's choice instead of by a loss (DeepSeek-V3)"""

    def __post_init__(self) -> None:
        require_at_least(self, num_experts=1, top_k=1, num_shared_experts=0, d_expert=1, balance_loss=0.0, z_loss=0.0)
        if self.top_k > self.num_experts:
            raise ValueError(
                f"top_k must be at most num_experts; got top_k={self.top_k}, num_experts={self.num_experts}"
            )


@dataclass(frozen=True)
class StateSpaceConfig:
    """Selective state space (Mamba); see `state_space.py`."""

    d_state: int = 16
    """numbers that each channel remembers"""
    expand: int = 2
    """channels inside, in multiples of d_model"""
    d_conv: int = 4
    """tokens that the short convolution sees"""

    def __post_init__(self) -> None:
        require_at_least(self, d_state=1, expand=1, d_conv=1)


@dataclass(frozen=True)
class LongConvolutionConfig:
    """Long convolutions whose filters a small network writes (Hyena); see `long_convolution.py`."""

    order: int = 2
    """number of convolutions with a gate each"""
    filter_dim: int = 64
    """width of the network that writes the filters"""

    def __post_init__(self) -> None:
        require_at_least(self, order=1, filter_dim=1)
