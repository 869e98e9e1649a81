"""What a run costs, under each rule in use for counting its parameters and its FLOPs.

Parameters, for L layers of width d, vocabulary V and context T (a Transformer of the handout has 12 d^2 per block):

    non_embedding   the matrices inside the blocks, 12 L d^2                    (Kaplan; what the handout asks for)
    with_head       the same plus the output head V d, whose product is done    (close to what nanochat fits)
    total           every weight: embeddings, head, norms                       (Chinchilla's tables)

Training FLOPs for D tokens; a backward pass costs two forward passes, so a weight costs 6 FLOPs per token:

    6ND under each of the three counts
    matrix_products    (6 (12 L d^2 + V d) + 12 L d T) D: all products, attention counted in full
    deepseek           (72 L d^2 + 12 L d T) D: attention counted, head not

At the sizes of a course these differ several-fold (V = 32000, d = 64, L = 2: 98 thousand against 2 million parameters)
and a fit is only comparable with another of the same rule, so every answer of this package is given under each.

Handout: scaling_laws, transformer_accounting. Papers: Kaplan et al. 2020, appendix; Hoffmann et al. 2022; DeepSeek LLM
2024, section 3; Porian et al. 2024 on what the choice does to exponents. Left out: half of the attention (a causal
kernel may skip it), the optimizer (14 FLOPs per weight and step). Read next: `sizing.py`.
"""

from __future__ import annotations

from typing import Literal, get_args

from cs336_basics.accounting import forward_flops, parameter_counts
from cs336_basics.model_config import ModelConfig

CountingRule = Literal["non_embedding", "with_head", "total"]
COUNTING_RULES: tuple[CountingRule, ...] = get_args(CountingRule)
FLOPS_PER_WEIGHT_AND_TOKEN = 6


def handout_parameters(num_layers: int, d_model: int) -> int:
    """12 L d^2: the weights inside the blocks when the feed-forward has 8 d^2 of them.

    Raises:
        ValueError: a size below 1.
    """
    _at_least_one(num_layers=num_layers, d_model=d_model)
    return 12 * num_layers * d_model**2


def count_parameters(config: ModelConfig) -> dict[CountingRule, int]:
    """Parameters of a model as it is built, under each rule; a head that shares the embedding's table counts once in
    `total` and is still part of `with_head`."""
    parts = parameter_counts(config)
    blocks = parts["attention"] + parts["feed-forward"]
    return {
        "non_embedding": blocks,
        "with_head": blocks + config.vocab_size * config.d_model,
        "total": sum(parts.values()),
    }


def training_flops(num_parameters: float, num_tokens: float) -> float:
    """C = 6 N D."""
    return FLOPS_PER_WEIGHT_AND_TOKEN * num_parameters * num_tokens


def shape_flops(
    num_layers: int, d_model: int, *, vocab_size: int, context_length: int, num_tokens: float
) -> dict[str, float]:
    """Training FLOPs of a Transformer of the handout under each rule that looks at its shape.

    Args:
        num_layers: blocks.
        d_model: width.
        vocab_size: entries of the head; 0 leaves the head out.
        context_length: tokens per sequence, which attention compares with each other; 0 leaves attention out.
        num_tokens: tokens trained on.

    Returns:
        FLOPs by rule: `6ND non_embedding`, `6ND with_head`, `matrix_products`, `deepseek`.
    """
    blocks, head = handout_parameters(num_layers, d_model), vocab_size * d_model
    attention = 12 * num_layers * d_model * context_length
    return {
        "6ND non_embedding": training_flops(blocks, num_tokens),
        "6ND with_head": training_flops(blocks + head, num_tokens),
        "matrix_products": (6 * (blocks + head) + attention) * num_tokens,
        "deepseek": (6 * blocks + attention) * num_tokens,
    }


def count_flops(config: ModelConfig, num_tokens: float) -> dict[str, float]:
    """Training FLOPs of a model as it is built, on `num_tokens` tokens in full-length sequences, under each rule.

    Returns:
        FLOPs by rule: `6ND non_embedding`, `6ND with_head`, `6ND total`, `matrix_products`, `deepseek`.
    """
    counts = {f"6ND {rule}": training_flops(n, num_tokens) for rule, n in count_parameters(config).items()}
    parts = forward_flops(config)
    per_token = 3 / config.context_length  # forward and backward, over the tokens of one sequence
    products = sum(parts.values()) * per_token * num_tokens
    return {
        **counts,
        "matrix_products": products,
        "deepseek": products - parts["head"] * per_token * num_tokens,
    }


def _at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1; got {size}")
