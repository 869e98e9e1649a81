"""From the fields of a ModelConfig to the modules of `variants/`: one function per part of the model.

`model.py` builds the plain parts itself and imports this file when a config asks for more; this file in turn imports
only the variant that is asked for. Read next: the variant, or `configurable_attention.py` for everything that changes
attention.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from cs336_basics import nn_utils
from cs336_basics.layers import FeedForward, RotaryPositionalEmbedding
from cs336_basics.model_config import ModelConfig

Device = torch.device | str | None


def build_norm(config: ModelConfig, width: int, device: Device, dtype: torch.dtype | None) -> nn.Module:
    """LayerNorm, or RMSNorm without a gain."""
    from cs336_basics.variants.norms import LayerNorm, RMSNormWithoutGain

    if config.norm_type == "layernorm":
        return LayerNorm(width, config.norm_eps, device=device, dtype=dtype)
    return RMSNormWithoutGain(config.norm_eps)


def build_rotary(config: ModelConfig, device: Device) -> RotaryPositionalEmbedding:
    """Rotary positions with other pairs, another width or another length."""
    from cs336_basics.variants.rope_scaling import ScaledRotaryPositionalEmbedding

    width = config.d_head if config.latent_attention is None else config.latent_attention.rope_dim
    return ScaledRotaryPositionalEmbedding(
        config.rope_theta, width, config.context_length, device, pairs=config.rope_pairs, scaling=config.rope_scaling
    )


def build_feed_forward(config: ModelConfig, device: Device, dtype: torch.dtype | None) -> nn.Module:
    """A mixture of experts, another gate, or squared ReLU."""
    assert config.d_ff is not None
    if config.moe is not None:
        from cs336_basics.variants.mixture_of_experts import MixtureOfExperts

        experts = replace(config.moe, d_expert=config.moe.d_expert or config.d_ff)
        return MixtureOfExperts(config.d_model, experts, device=device, dtype=dtype)
    from cs336_basics.variants.activations import GatedFeedForward, squared_relu

    if config.ffn == "relu2":
        return FeedForward(config.d_model, config.d_ff, device, dtype, activation=squared_relu)
    gate = {"geglu": nn_utils.gelu, "reglu": nn_utils.relu}[config.ffn]
    return GatedFeedForward(config.d_model, config.d_ff, device, dtype, gate=gate)


def build_mixer(
    config: ModelConfig, layer: int, rotary: RotaryPositionalEmbedding | None, device: Device, dtype: torch.dtype | None
) -> nn.Module:
    """The mixer of a layer: a state space, a long convolution, latent attention, or attention with changes."""
    mixer = config.layer_mixers[layer]
    if mixer == "state_space":
        from cs336_basics.variants.state_space import SelectiveStateSpace

        assert config.state_space is not None
        return SelectiveStateSpace(config.d_model, config.state_space, device=device, dtype=dtype)
    if mixer == "long_convolution":
        from cs336_basics.variants.long_convolution import HyenaMixer

        assert config.long_convolution is not None
        return HyenaMixer(config.d_model, config.context_length, config.long_convolution, device=device, dtype=dtype)
    if config.latent_attention is not None:
        from cs336_basics.variants.latent_attention import LatentAttention

        return LatentAttention(config, rotary, device=device, dtype=dtype)
    from cs336_basics.variants.configurable_attention import ConfigurableAttention

    return ConfigurableAttention(config, layer, rotary, device=device, dtype=dtype)
