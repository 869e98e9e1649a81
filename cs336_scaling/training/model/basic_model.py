"""Shape of the model that the 2026 service trains: a pre-norm Transformer with SwiGLU, RoPE and QK-norm.

Heads of keys and values may be fewer than heads of queries, as the handout says (the course's released server refuses
that, which its own tests contradict). Read next: `../training_config.py`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from cs336_scaling.frozen_model import FrozenModel


class BasicTransformerConfig(FrozenModel):
    """Sizes of the model; every field has to be given."""

    attention_bias: bool
    head_dim: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_attention_heads: PositiveInt
    num_hidden_layers: PositiveInt
    num_key_value_heads: PositiveInt
    rms_norm_eps: PositiveFloat
    rope_theta: PositiveInt
    tie_word_embeddings: bool
    dtype: Literal["float32", "bfloat16"]
    vocab_size: PositiveInt

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.hidden_size != self.num_attention_heads * self.head_dim:
            raise ValueError(
                f"hidden_size must be num_attention_heads * head_dim = {self.num_attention_heads * self.head_dim}; "
                f"got {self.hidden_size}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads must divide num_attention_heads={self.num_attention_heads}; "
                f"got {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions; got {self.head_dim}")
        if self.intermediate_size < self.hidden_size:
            raise ValueError(
                f"intermediate_size must be at least hidden_size={self.hidden_size}; got {self.intermediate_size}"
            )
        return self

    @property
    def non_embedding_parameters(self) -> int:
        """12 * layers * width^2, the handout's count."""
        return 12 * self.num_hidden_layers * self.hidden_size**2
