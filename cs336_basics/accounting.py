"""What a model costs before it is built: parameters, FLOPs, and memory of training, by formula.

A product of an (m, n) by an (n, p) matrix takes 2 m n p FLOPs; everything else is left out. Per layer, for T tokens:

    q, k, v   6 T d^2      scores and values   4 T^2 d      output   2 T d^2      feed-forward   2 n T d d_ff
    head      2 T d V      (once)                                                 n = 3 for gated ones, else 2

The causal half of the scores is counted whole, as the handout does. The backward pass costs twice the forward pass, so
training costs 3 times it; AdamW adds about 14 FLOPs per parameter and step.

Memory of one AdamW step in float32 with B sequences, nothing recomputed:

    4 P weights + 4 P gradients + 8 P moments + 4 B (L (8 T d + f T d_ff + 2 h T^2) + T d + 2 T V) bytes
    f = 4 for gated feed-forwards (two products, the gate, their product), else 2

With fewer key heads, a window, a latent or experts the same products are counted at their own sizes; a windowed layer
scores min(window, T) keys per query. `not_counted` names what is left out of a given config.

Handout: transformer_accounting, adamw_accounting. Left out: parallel training, recomputation, bfloat16. Read next:
`model.py`.
"""

from __future__ import annotations

from cs336_basics.model_config import GATED, ModelConfig

ADAMW_FLOPS_PER_PARAMETER = 14
SMEAR_CHANNELS, GATE_CHANNELS = 24, 12
"""inputs of the gates of smear and of value embeddings"""


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Number of weights by part: embeddings, positions, attention, feed-forward, norms, head (0 when it is shared)."""
    d, layers = config.d_model, range(config.num_layers)
    per_block = {"pre": 2, "post": 2, "none": 0, "sandwich": 4, "parallel": 1}[config.norm]
    outside = (config.norm not in ("post", "none")) + config.embedding_norm
    counts = {
        "token embeddings": config.vocab_size * d,
        "position embeddings": config.context_length * d if config.positions == "learned" else 0,
        "attention": sum(_mixer_weights(config, layer) for layer in layers),
        "feed-forward": config.num_layers * _feed_forward_weights(config),
        "norms": (per_block * config.num_layers + outside) * _norm_weights(config, d),
        "head": 0 if config.tie_embeddings else config.vocab_size * d,
    }
    tables = sum(_has_value_embedding(config, layer) for layer in layers)
    counts |= {"value embeddings": tables * config.vocab_size * config.kv_heads * config.d_head} if tables else {}
    scalars = 2 * config.num_layers * config.residual_scalars + config.backout
    scalars += config.smear * (1 + min(SMEAR_CHANNELS, d))
    return counts | ({"residual stream": scalars} if scalars else {})


def forward_flops(config: ModelConfig, num_tokens: int | None = None) -> dict[str, int]:
    """FLOPs of the matrix products of one forward pass over one sequence, by part.

    Args:
        config: the model.
        num_tokens: length of the sequence, at least 1; context_length by default.
    """
    seq = config.context_length if num_tokens is None else num_tokens
    if seq < 1:
        raise ValueError(f"num_tokens must be at least 1; got {seq}")
    layers = range(config.num_layers)
    flops = {
        "q, k, v": 2 * seq * sum(_projections_in(config, layer) for layer in layers),
        "scores and values": sum(_score_flops(config, layer, seq) for layer in layers),
        "attention output": 2 * seq * sum(_projection_out(config, layer) for layer in layers),
        "feed-forward": config.num_layers * 2 * seq * _active_feed_forward_weights(config),
        "head": 2 * seq * config.d_model * config.vocab_size,
    }
    others = sum(_mixer_weights(config, layer) for layer in layers if not _attends(config, layer))
    return flops | ({"other mixers": 2 * seq * others} if others else {})


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
    heads = 2 * (config.num_heads + config.kv_heads) * config.d_head  # q, k, v and the result
    wide = (4 if config.ffn in GATED else 2) * seq * _active_width(config)
    scores = sum(2 * config.num_heads * seq * _keys(config, layer, seq) for layer in range(config.num_layers))
    activations = config.num_layers * (seq * (4 * d + heads) + wide) + scores + seq * d + 2 * seq * config.vocab_size
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


def cached_numbers(config: ModelConfig, num_tokens: int | None = None) -> int:
    """How many numbers decoding keeps per sequence after `num_tokens` (context_length by default) in its caches."""
    seq = config.context_length if num_tokens is None else num_tokens
    total = 0
    for layer, mixer in enumerate(config.layer_mixers):
        if config.latent_attention is not None and _attends(config, layer):
            total += seq * (config.latent_attention.kv_rank + config.latent_attention.rope_dim)
        elif _attends(config, layer):
            assert mixer == "attention" or config.attention_window is not None
            kept = seq if mixer == "attention" else min(seq, (config.attention_window or 0) - 1)
            total += 2 * kept * config.kv_heads * config.d_head
    return total + config.smear * config.d_model


def not_counted(config: ModelConfig) -> list[str]:
    """What the numbers for this config leave out, beyond what the module docstring says of every model."""
    notes = []
    if any(not _attends(config, layer) for layer in range(config.num_layers)):
        notes.append(
            "state spaces and long convolutions: each weight counts once per token; their scans, convolutions, state "
            "and activations do not"
        )
    if config.moe is not None:
        notes.append("experts: what the router moves, and activations of the routing")
    if config.latent_attention is not None:
        notes.append("latent attention: activations of the latents; decoding with absorbed projections")
    gates = config.value_embeddings or config.smear or config.residual_scalars or config.backout
    return [*notes, "gates and scalars of the residual stream: FLOPs and activations"] if gates else notes


def _attends(config: ModelConfig, layer: int) -> bool:
    return config.layer_mixers[layer] in ("attention", "window")


def _keys(config: ModelConfig, layer: int, seq: int) -> int:
    """Keys scored per query."""
    if not _attends(config, layer):
        return 0
    window = config.attention_window if config.layer_mixers[layer] == "window" else None
    return seq if window is None else min(window, seq)


def _score_flops(config: ModelConfig, layer: int, seq: int) -> int:
    latent, pairs = config.latent_attention, 2 * seq * _keys(config, layer, seq) * config.num_heads
    return pairs * (2 * config.d_head if latent is None else latent.content_dim + latent.rope_dim + latent.value_dim)


def _projections_in(config: ModelConfig, layer: int) -> int:
    """Matrix weights between a layer's input and its queries, keys and values."""
    if not _attends(config, layer):
        return 0
    d, heads, latent = config.d_model, config.num_heads, config.latent_attention
    if latent is None:
        return d * (heads + 2 * config.kv_heads) * config.d_head
    query_width = heads * (latent.content_dim + latent.rope_dim)
    query = d * query_width if latent.q_rank is None else latent.q_rank * (d + query_width)
    up = latent.kv_rank * heads * (latent.content_dim + latent.value_dim)
    return query + d * (latent.kv_rank + latent.rope_dim) + up


def _projection_out(config: ModelConfig, layer: int) -> int:
    if not _attends(config, layer):
        return 0
    width = config.d_head if config.latent_attention is None else config.latent_attention.value_dim
    return config.num_heads * width * config.d_model


def _mixer_weights(config: ModelConfig, layer: int) -> int:
    """All weights of a layer's mixer but the tables of value embeddings."""
    if not _attends(config, layer):
        return _weights_when_built(config, layer, "attn")
    weights = _projections_in(config, layer) + _projection_out(config, layer)
    if config.latent_attention is not None:
        ranks = (config.latent_attention.kv_rank, config.latent_attention.q_rank)
        return weights + sum(_norm_weights(config, rank) for rank in ranks if rank is not None)
    weights += config.qkv_bias * (config.num_heads + 2 * config.kv_heads) * config.d_head
    weights += config.qk_norm * 2 * _norm_weights(config, config.d_head) + config.attention_sinks * config.num_heads
    if _has_value_embedding(config, layer):
        weights += min(GATE_CHANNELS, config.d_model) * config.kv_heads
    if config.value_residual:
        return _weights_when_built(config, layer, "attn.value_residual") + weights
    return weights


def _has_value_embedding(config: ModelConfig, layer: int) -> bool:
    return config.value_embeddings and _attends(config, layer) and (config.num_layers - 1 - layer) % 2 == 0


def _norm_weights(config: ModelConfig, width: int) -> int:
    return {"rmsnorm": width, "layernorm": 2 * width}[config.norm_type] if config.norm_gain else 0


def _feed_forward_weights(config: ModelConfig) -> int:
    if config.moe is not None:
        return _weights_when_built(config, 0, "ffn")
    return _active_feed_forward_weights(config)


def _active_feed_forward_weights(config: ModelConfig) -> int:
    """Weights of a feed-forward that a token meets: with experts, the router, the chosen and the shared ones."""
    if config.moe is not None:
        return config.d_model * (config.moe.num_experts + 3 * _active_width(config))
    return (3 if config.ffn in GATED else 2) * config.d_model * _active_width(config)


def _active_width(config: ModelConfig) -> int:
    assert config.d_ff is not None  # filled in by ModelConfig
    if config.moe is None:
        return config.d_ff
    return (config.moe.top_k + config.moe.num_shared_experts) * (config.moe.d_expert or config.d_ff)


def _weights_when_built(config: ModelConfig, layer: int, part: str) -> int:
    """Weights of a part without a formula here: it is built on torch's meta device, which holds no numbers."""
    from cs336_basics.model import make_block, make_rotary

    block = make_block(config, layer, make_rotary(config, "meta"), "meta", None)
    return sum(p.numel() for name, p in block.named_parameters() if name.startswith(f"{part}."))
