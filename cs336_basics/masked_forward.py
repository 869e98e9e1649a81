"""The forward pass of a TransformerLM under a mask of the caller's: documents apart, or a prefix seen from both sides.

    logits = masked_logits(model, ids, document_mask(documents), document_positions(documents))

The model's own forward pass is causal by construction, so that fast attention need not look at a mask. Here the same
layers run with `scaled_dot_product_attention` and any mask. Only plain models: attention with its four projections,
pre-norm, no dropout.

Left out: key-value caches (a mask over cached tokens), variants of attention. Read next: `packing/document_mask.py`,
`objectives/prefix_lm.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cs336_basics.model import CausalMultiHeadSelfAttention, TransformerLM, scaled_dot_product_attention


def masked_logits(
    model: TransformerLM,
    token_ids: Int[Tensor, "batch seq"],
    mask: Bool[Tensor, "... seq seq"],
    positions: Int[Tensor, "... seq"] | None = None,
) -> Float[Tensor, "batch seq vocab"]:
    """Logits at each position when query q may attend to key k exactly where mask[..., q, k] is True.

    Args:
        model: a plain pre-norm model without dropout.
        token_ids: ids in [0, vocab_size).
        mask: True = may attend; (seq, seq) for all rows alike or (batch, seq, seq).
        positions: place of each token for RoPE or learned positions, (seq) or (batch, seq); 0..seq-1 by default.

    Raises:
        ValueError: the model is none of these, or a position lies past its context_length.
    """
    _check(model)
    if positions is None:
        positions = torch.arange(token_ids.shape[-1], device=token_ids.device)
    if int(positions.max()) >= model.config.context_length:
        raise ValueError(
            f"positions must be below context_length={model.config.context_length}; got {int(positions.max())}; "
            "shorten the input"
        )
    x = model.token_embeddings(token_ids)
    if model.config.positions == "learned":
        x = x + model.position_embeddings(positions)
    elif model.config.positions == "sinusoidal":
        x = x + model.sinusoids[positions].to(x.dtype)
    for block in model.layers:
        layer: Any = block
        x = x + _attend(layer.attn, layer.ln1(x), mask, positions)
        x = x + layer.ffn(layer.ln2(x))
    return model.lm_head(model.ln_final(x))


def _attend(attention: CausalMultiHeadSelfAttention, x: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    q, k, v = (
        rearrange(project(x), "... seq (heads d_k) -> ... heads seq d_k", heads=attention.num_heads)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if attention.positional_encoder is not None:
        q, k = attention.positional_encoder(q, positions), attention.positional_encoder(k, positions)
    heads = scaled_dot_product_attention(q, k, v, mask.unsqueeze(-3))
    return attention.output_proj(rearrange(heads, "... heads seq d_k -> ... seq (heads d_k)"))


def _check(model: TransformerLM) -> None:
    """Refuse models whose forward pass is another than the one above."""
    config = model.config
    plain = all(type(layer.attn) is CausalMultiHeadSelfAttention for layer in model.layers)
    extras = model.stream is not None or config.logit_softcap is not None or config.embedding_norm
    if not plain or config.norm != "pre" or extras:
        raise ValueError(
            "a mask of one's own needs a plain model (attention without variants, norm='pre', nothing on the "
            f"embedding, the stream or the logits); got {config}"
        )
    if model.training and (config.attn_pdrop or config.residual_pdrop):
        raise ValueError("a mask of one's own goes without dropout; set attn_pdrop and residual_pdrop to 0")
