"""Value residual against a per-token loop of two attention layers, finite differences and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from cs336_basics.kv_cache import KVCache
from cs336_basics.model import causal_attention
from cs336_basics.variants.value_residual import ValueResidual, mix_values


def heads(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, 7, 4, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def attend_by_loop(q: Tensor, k: Tensor, v: Tensor, first: Tensor, lam: float) -> Tensor:
    """(1 - lam) A V + lam A V_1 by its definition, token by token."""
    out = torch.zeros_like(v)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                scores = [float(q[b, h, t] @ k[b, h, s]) / math.sqrt(q.shape[-1]) for s in range(t + 1)]
                weights = [math.exp(s) for s in scores]
                for s, weight in enumerate(weights):
                    share = weight / sum(weights)
                    out[b, h, t] += share * (1 - lam) * v[b, h, s] + share * lam * first[b, h, s]
    return out


@pytest.mark.parametrize("lam", [0.5, 0.0, 1.0, -0.3, 1.7])
def test_attention_over_mixed_values_is_the_mixture_of_two_attentions(lam: float) -> None:
    q, k, v, first = (heads(seed) for seed in range(4))
    actual = causal_attention(q, k, mix_values(v, first, torch.tensor(lam, dtype=torch.float64)))
    torch.testing.assert_close(actual, attend_by_loop(q, k, v, first, lam), rtol=1e-12, atol=1e-12)


def test_gradients_against_finite_differences() -> None:
    inputs = [heads(0)[:1, :1, :3], heads(1)[:1, :1, :3], torch.tensor(0.3, dtype=torch.float64)]
    assert gradcheck(mix_values, [x.requires_grad_() for x in inputs])


def test_the_module_starts_half_and_half_and_learns_its_lambda() -> None:
    module, v, first = ValueResidual(dtype=torch.float64), heads(0), heads(1)
    torch.testing.assert_close(module(v, first), (v + first) / 2)
    target = v + 0.8 * (first - v)
    for _ in range(50):
        module.zero_grad()
        (module(v, first) - target).square().mean().backward()
        module.lam.data -= 0.2 * module.lam.grad
    assert module.lam.item() == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("pieces", [[7], [1] * 7, [3, 1, 2, 1]])
def test_mixing_before_the_cache_needs_no_first_values_of_earlier_tokens(pieces: list[int]) -> None:
    q, k, v, first = (heads(seed) for seed in range(4))
    cache, outputs = KVCache(7), []
    for q_new, k_new, v_new, first_new in zip(*(x.split(pieces, dim=2) for x in (q, k, v, first)), strict=True):
        keys, values = cache.append(k_new, mix_values(v_new, first_new, 0.4))
        outputs.append(causal_attention(q_new, keys, values))
    torch.testing.assert_close(torch.cat(outputs, dim=2), attend_by_loop(q, k, v, first, 0.4), rtol=1e-12, atol=1e-12)


def test_bfloat16_values_stay_bfloat16_under_a_float32_lambda() -> None:
    v, first = heads(0, torch.bfloat16), heads(1, torch.bfloat16)
    actual = ValueResidual()(v, first)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.double(), (v.double() + first.double()) / 2, rtol=1e-2, atol=1e-2)


def test_values_of_other_tokens_are_refused_rather_than_broadcast() -> None:
    with pytest.raises(ValueError, match=r"same tokens and heads, shape \(2, 3, 7, 4\); got \(2, 3, 1, 4\)"):
        mix_values(heads(0), heads(1)[:, :, :1], 0.5)
