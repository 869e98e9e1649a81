"""From a model's size to what it takes: tokens, characters, shards of text, FLOPs, hours, memory.

    tokens = ratio * N        characters = tokens * characters per token        shards = ceil(characters / shard size)
    FLOPs = 6 N tokens        hours = FLOPs / (devices * peak * utilisation) / 3600

The defaults are Chinchilla's 20 tokens per parameter and nanochat's text: 4.8 characters per token, shards of 250
million characters, 1823 of them. They make 456 billion characters, 95 billion tokens, enough for 4.7 billion parameters
(and not "about 2 billion", as notes in circulation say).

The depth dial (nanochat): width 64 per layer, rounded up to whole heads of 128; weights 12 L d^2 + 2 V d. At a
vocabulary of 65,536 depth 12 has 185.6 million of them (often given as 156), 20 has 561.0, 26 has 1,082.

Memory is what weights, gradients and the two moments of AdamW take in float32, 16 bytes per weight, without activations
(`cs336 model info` counts those for a batch). Left out: prices, networks. Read next: `flops.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cs336_scaling.flops import handout_parameters, training_flops

BYTES_PER_WEIGHT = 16
NANOCHAT_SHARDS = 1823


@dataclass(frozen=True)
class Rates:
    """What turns a size into its needs."""

    tokens_per_parameter: float = 20.0
    """Chinchilla's rule; nanochat 2026 uses 12 on blocks and head, and its own sweep gave 10.5"""
    characters_per_token: float = 4.8
    """of the tokenizer on its text"""
    characters_per_shard: float = 250e6
    """of one file of text"""
    peak_flops: float = 989e12
    """of one device per second; an H100 in bfloat16 has 989e12 without sparsity"""
    utilisation: float = 0.4
    """share of the peak that training reaches (MFU), in (0, 1]; measure yours: small models reach a tenth of this"""
    devices: int = 8
    """how many work together"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive; got {value}")
        if self.utilisation > 1:
            raise ValueError(f"utilisation is a share of the peak and at most 1; got {self.utilisation}")


@dataclass(frozen=True)
class Needs:
    """What training a model takes."""

    parameters: float
    tokens: float
    characters: float
    shards: int
    flops: float
    hours: float
    memory_bytes: float
    """of weights, gradients and moments, over all devices"""


def size_model(parameters: float, rates: Rates | None = None) -> Needs:
    """What a model of so many parameters takes.

    Raises:
        ValueError: fewer than one parameter.
    """
    rates = rates or Rates()
    if not (parameters >= 1 and math.isfinite(parameters)):
        raise ValueError(f"a model has at least 1 parameter; got {parameters}")
    tokens = parameters * rates.tokens_per_parameter
    characters = tokens * rates.characters_per_token
    flops = training_flops(parameters, tokens)
    per_second = rates.devices * rates.peak_flops * rates.utilisation
    return Needs(
        parameters, tokens, characters, math.ceil(characters / rates.characters_per_shard - 1e-9), flops,
        flops / per_second / 3600, BYTES_PER_WEIGHT * parameters,
    )  # fmt: skip


def largest_model(shards: int, rates: Rates | None = None) -> float:
    """Parameters that so many shards of text are enough for, each token seen once."""
    rates = rates or Rates()
    if shards < 1:
        raise ValueError(f"shards must be at least 1; got {shards}")
    return shards * rates.characters_per_shard / rates.characters_per_token / rates.tokens_per_parameter


def model_of_depth(
    depth: int, *, vocab_size: int = 65_536, aspect_ratio: int = 64, head_dim: int = 128
) -> dict[str, int]:
    """Shape and weights that nanochat's depth dial gives.

    Args:
        depth: number of layers, at least 1.
        vocab_size: rows of the embedding and of the untied head.
        aspect_ratio: width per layer.
        head_dim: width of a head, to whose multiple d_model is rounded up.

    Returns:
        num_layers, d_model, num_heads, and weights under each rule: non_embedding, with_head, total (without norms,
        which have no weights there).
    """
    if min(depth, vocab_size, aspect_ratio, head_dim) < 1:
        raise ValueError(f"depth, vocab_size, aspect_ratio and head_dim must be at least 1; got {depth}, {vocab_size}, "
                         f"{aspect_ratio}, {head_dim}")  # fmt: skip
    heads = math.ceil(depth * aspect_ratio / head_dim)
    width = heads * head_dim
    blocks = handout_parameters(depth, width)
    return {
        "num_layers": depth, "d_model": width, "num_heads": heads, "non_embedding": blocks,
        "with_head": blocks + vocab_size * width, "total": blocks + 2 * vocab_size * width,
    }  # fmt: skip
