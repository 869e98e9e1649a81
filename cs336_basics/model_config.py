"""The shape and the choices of a TransformerLM, validated. Read next: `model.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CHOICES = {
    "positions": ("rope", "learned", "sinusoidal", "none"),
    "ffn": ("swiglu", "gelu", "silu", "relu"),
    "norm": ("pre", "post", "none"),
}


@dataclass(frozen=True)
class ModelConfig:
    """Shape and choices of a TransformerLM.

    Raises:
        ValueError: a size that is not positive or does not divide, or a rate outside [0, 1).
    """

    vocab_size: int
    """number of token ids"""
    context_length: int = 256
    """longest sequence the model may see, in tokens"""
    d_model: int = 512
    """width of the residual stream"""
    num_layers: int = 4
    """number of blocks"""
    num_heads: int = 16
    """attention heads; must divide d_model"""
    d_ff: int | None = None
    """width inside the feed-forward; default 8/3 d_model rounded to a multiple of 64 for SwiGLU, else 4 d_model"""
    rope_theta: float = 10000.0
    """base wavelength of the rotary positions"""
    positions: Literal["rope", "learned", "sinusoidal", "none"] = "rope"
    """how the model knows where a token stands"""
    ffn: Literal["swiglu", "gelu", "silu", "relu"] = "swiglu"
    """feed-forward: gated SwiGLU, or two matrices around one activation"""
    norm: Literal["pre", "post", "none"] = "pre"
    """RMSNorm before each sublayer, after each residual sum, or nowhere"""
    tie_embeddings: bool = False
    """use the embedding table as the output head"""
    attn_pdrop: float = 0.0
    """dropout on attention weights"""
    residual_pdrop: float = 0.0
    """dropout on the embedding sum and on each sublayer's output"""
    attention: str = "plain"
    """name of an entry in ATTENTION_FUNCTIONS"""

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        if not self.rope_theta > 0:
            raise ValueError(f"rope_theta must be positive; got {self.rope_theta}")
        for name in ("vocab_size", "context_length", "d_model", "num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        check_heads(self.d_model, self.num_heads)
        if self.positions == "rope" and (self.d_model // self.num_heads) % 2:
            raise ValueError(
                f"rotary positions turn pairs of coordinates, so d_model/num_heads must be even; got d_model="
                f"{self.d_model}, num_heads={self.num_heads}; choose other sizes or positions='learned'"
            )
        for name in ("attn_pdrop", "residual_pdrop"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is a probability and must lie in [0, 1); got {getattr(self, name)}")
        if self.d_ff is None:
            swiglu = max(64, round(8 * self.d_model / 3 / 64) * 64)
            object.__setattr__(self, "d_ff", swiglu if self.ffn == "swiglu" else 4 * self.d_model)
        elif self.d_ff < 1:
            raise ValueError(f"d_ff must be at least 1; got {self.d_ff}")


def check_heads(d_model: int, num_heads: int) -> None:
    """Raise a ValueError unless `num_heads` divides `d_model`."""
    if num_heads < 1 or d_model % num_heads:
        below = max(num_heads, 1) * max(1, d_model // max(num_heads, 1))
        raise ValueError(
            f"num_heads must divide d_model; got d_model={d_model}, num_heads={num_heads}; "
            f"choose d_model={below} or {below + max(num_heads, 1)}"
        )
