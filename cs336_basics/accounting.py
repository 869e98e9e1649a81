"""What a model costs before it is built: parameters, FLOPs, and memory of training, by formula.

A product of an (m, n) by an (n, p) matrix takes 2 m n p FLOPs; everything else is left out. Per layer, for T tokens:

    q, k, v   6 T d^2      scores and values   4 T^2 d      output   2 T d^2      feed-forward   2 n T d d_ff
    head      2 T d V      (once)                                                 n = 3 for SwiGLU, else 2

The causal half of the scores is counted whole, as the handout does. The backward pass costs twice the forward pass, so
training costs 3 times it; AdamW adds about 14 FLOPs per parameter and step.

Memory of one AdamW step in float32 with B sequences, nothing recomputed:

    4 P weights + 4 P gradients + 8 P moments + 4 B (L (8 T d + f T d_ff + 2 h T^2) + T d + 2 T V) bytes
    f = 4 for SwiGLU (two products, the gate, their product), else 2

Handout: transformer_accounting, adamw_accounting. Left out: parallel training, recomputation, bfloat16. Read next:
`model.py`.
"""

from __future__ import annotations

from cs336_basics.model_config import ModelConfig

ADAMW_FLOPS_PER_PARAMETER = 14


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Number of weights by part: embeddings, positions, attention, feed-forward, norms, head (0 when it is shared)."""
    d, layers = config.d_model, config.num_layers
    norms = {"pre": 2 * layers + 1, "post": 2 * layers, "none": 0}[config.norm]
    return {
        "token embeddings": config.vocab_size * d,
        "position embeddings": config.context_length * d if config.positions == "learned" else 0,
        "attention": layers * 4 * d * d,
        "feed-forward": layers * _num_ffn_matrices(config) * d * _d_ff(config),
        "norms": norms * d,
        "head": 0 if config.tie_embeddings else config.vocab_size * d,
    }


def forward_flops(config: ModelConfig, num_tokens: int | None = None) -> dict[str, int]:
    """FLOPs of the matrix products of one forward pass over one sequence, by part.

    Args:
        config: the model.
        num_tokens: length of the sequence, at least 1; context_length by default.
    """
    seq = config.context_length if num_tokens is None else num_tokens
    if seq < 1:
        raise ValueError(f"num_tokens must be at least 1; got {seq}")
    d, layers = config.d_model, config.num_layers
    return {
        "q, k, v": layers * 6 * seq * d * d,
        "scores and values": layers * 4 * seq * seq * d,
        "attention output": layers * 2 * seq * d * d,
        "feed-forward": layers * 2 * _num_ffn_matrices(config) * seq * d * _d_ff(config),
        "head": 2 * seq * d * config.vocab_size,
    }


def training_flops_per_token(config: ModelConfig) -> float:
    """Forward and backward FLOPs per token of full-length sequences."""
    return 3 * sum(forward_flops(config).values()) / config.context_length


def training_memory_bytes(config: ModelConfig, *, batch_size: int) -> dict[str, int]:
    """Bytes that one AdamW step holds at once in float32, by part.

    Args:
        config: the model.
        batch_size: sequences of context_length, at least 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    weights = sum(parameter_counts(config).values())
    seq, d = config.context_length, config.d_model
    wide = (4 if config.ffn == "swiglu" else 2) * seq * _d_ff(config)
    layer = 8 * seq * d + wide + 2 * config.num_heads * seq * seq
    activations = config.num_layers * layer + seq * d + 2 * seq * config.vocab_size
    return {
        "weights": 4 * weights,
        "gradients": 4 * weights,
        "AdamW moments": 8 * weights,
        "activations": 4 * batch_size * activations,
    }


def largest_batch(config: ModelConfig, *, memory_bytes: int) -> int:
    """The most sequences whose AdamW step fits into `memory_bytes`; 0 when not even one does."""
    parts = training_memory_bytes(config, batch_size=1)
    fixed = sum(parts.values()) - parts["activations"]
    return max(0, memory_bytes - fixed) // parts["activations"]


def _num_ffn_matrices(config: ModelConfig) -> int:
    return 3 if config.ffn == "swiglu" else 2


def _d_ff(config: ModelConfig) -> int:
    assert config.d_ff is not None  # filled in by ModelConfig
    return config.d_ff
