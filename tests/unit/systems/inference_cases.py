"""What the tests of the inference engine share: small models, and decoding by hand without any cache."""

from __future__ import annotations

import numpy as np
import torch

from cs336_basics.generation import keep_top_k, keep_top_p
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.variants.configs import (
    LatentAttentionConfig,
    LongConvolutionConfig,
    MixtureOfExpertsConfig,
    StateSpaceConfig,
)

VOCAB, CONTEXT = 29, 24
VARIANTS = {
    "plain": {},
    "grouped": {"num_kv_heads": 2},
    "tied": {"tie_embeddings": True},
    "window": {"attention_window": 3},
    "window and attention": {"attention_window": 4, "mixers": ("window", "attention")},
    "alibi and canon": {"positions": "alibi", "canon_width": 3},
    "latent": {"latent_attention": LatentAttentionConfig(8, None, 6, 4, 6)},
    "state space": {"mixers": ("state_space",), "state_space": StateSpaceConfig(4)},
    "state space and attention": {"mixers": ("state_space", "attention"), "state_space": StateSpaceConfig(4)},
    "hyena": {"mixers": ("long_convolution",), "long_convolution": LongConvolutionConfig(2, 8)},
    "experts": {"moe": MixtureOfExpertsConfig(4, 2)},
    "learned positions": {"positions": "learned"},
    "nanochat": {
        "ffn": "relu2", "norm_gain": False, "embedding_norm": True, "qk_norm": True, "logit_softcap": 15.0,
        "smear": True, "backout": True, "value_embeddings": True, "residual_scalars": True, "value_residual": True,
    },
    "sandwich, sinks": {"norm": "sandwich", "attention_sinks": True, "attention_softcap": 4.0, "qkv_bias": True},
}  # fmt: skip


def build(dtype: torch.dtype = torch.float32, **choices) -> TransformerLM:
    """A model with large weights, so that its tokens are not all alike."""
    torch.manual_seed(3)
    sizes = {"vocab_size": VOCAB, "context_length": CONTEXT, "d_model": 16, "num_layers": 2, "num_heads": 4, "d_ff": 24}
    model = TransformerLM(ModelConfig(**{**sizes, **choices}), dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, dtype=dtype) * 0.2)
    return model.eval()


@torch.no_grad()
def full_logits(model: TransformerLM, ids: list[int]) -> torch.Tensor:
    """Logits behind the last id, from a forward pass without cache."""
    return model(torch.tensor([ids]))[0, -1]


def decode_by_hand(model, prompt, params, *, stream=0, sample=0) -> tuple[list[int], list[float]]:
    """A sample without cache or batch: loops over the vocabulary in float64, uniforms from the documented seed."""
    uniforms = np.random.default_rng(np.random.SeedSequence([params.seed, stream, sample]))
    ids, made, logprobs = list(prompt), [], []
    while len(made) < params.max_tokens and len(ids) <= model.config.context_length:
        logits = full_logits(model, ids)
        token = int(logits.argmax()) if params.temperature == 0 else _draw(logits, params, uniforms.random())
        wide = logits.double()
        ids.append(token)
        made.append(token)
        logprobs.append(float(wide[token] - torch.log(torch.exp(wide - wide.max()).sum()) - wide.max()))
    return made, logprobs


def _draw(logits: torch.Tensor, params, uniform: float) -> int:
    scaled = logits.float() / params.temperature
    scaled = scaled if params.top_k is None else keep_top_k(scaled, params.top_k)
    scaled = scaled if params.top_p is None else keep_top_p(scaled, params.top_p)
    weights = np.exp(scaled.double().numpy() - float(scaled.max()))
    target, mass = uniform * weights.sum(), 0.0
    for token, weight in enumerate(weights):
        mass += weight
        if mass > target:
            return token
    raise AssertionError("the mass falls short")
