"""Accounting by formula, against the handout's published numbers, models built on the meta device and torch's count."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cs336_basics.accounting import (
    cached_numbers,
    forward_flops,
    largest_batch,
    not_counted,
    parameter_counts,
    training_flops_per_token,
    training_memory_bytes,
)
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.variants.configs import LatentAttentionConfig
from tests.unit.basics.test_variants import ALONE, SIZES

GPT2 = {"vocab_size": 50257, "context_length": 1024}
SMALL = ModelConfig(**GPT2, d_model=768, num_layers=12, num_heads=12, d_ff=2048)
MEDIUM = ModelConfig(**GPT2, d_model=1024, num_layers=24, num_heads=16, d_ff=2752)
LARGE = ModelConfig(**GPT2, d_model=1280, num_layers=36, num_heads=20, d_ff=3392)
XL = ModelConfig(**GPT2, d_model=1600, num_layers=48, num_heads=25, d_ff=4288)
XL_LONG = ModelConfig(vocab_size=50257, context_length=16384, d_model=1600, num_layers=48, num_heads=25, d_ff=4288)
XL_2024 = ModelConfig(
    **GPT2, d_model=1600, num_layers=48, num_heads=25, d_ff=6400, ffn="gelu", positions="learned", tie_embeddings=True
)
ODD = ModelConfig(
    vocab_size=97, context_length=12, d_model=24, num_layers=3, num_heads=2, ffn="relu", norm="post",
    positions="sinusoidal",
)  # fmt: skip


# The accounting table of the handout's worked solutions, editions 2026 and (last) 2024.
@pytest.mark.parametrize(
    ("config", "parameters", "flops", "shares"),
    [
        (SMALL, 162_148_608, 2.917e11, (14.9, 13.2, 5.0, 39.8, 27.1)),
        (MEDIUM, 406_539_264, 8.302e11, (18.6, 12.4, 6.2, 50.1, 12.7)),
        (LARGE, 833_591_040, 1.769e12, (20.5, 10.9, 6.8, 54.3, 7.4)),
        (XL, 1_640_452_800, 3.517e12, (21.5, 9.2, 7.2, 57.5, 4.7)),
        (XL_LONG, 1_640_452_800, 1.336e14, (9.0, 61.7, 3.0, 24.2, 2.0)),
        (XL_2024, 1_556_764_800, 3.507e12, (21.5, 9.2, 7.2, 57.4, 4.7)),
    ],
    ids=["small", "medium", "large", "xl", "xl 16k", "xl 2024"],
)
def test_published_table(config, parameters, flops, shares):
    parts = forward_flops(config)
    total = sum(parts.values())
    assert sum(parameter_counts(config).values()) == parameters
    assert total == pytest.approx(flops, rel=5e-4)
    assert [100 * part / total for part in parts.values()] == pytest.approx(
        shares, abs=0.06
    )  # the table rounds so that it sums to 100


@pytest.mark.parametrize("config", [SMALL, XL, XL_2024, ODD], ids=["small", "xl", "xl 2024", "odd"])
def test_parameters_of_a_built_model(config):
    assert sum(parameter_counts(config).values()) == TransformerLM(config, device="meta").get_num_params()


@pytest.mark.parametrize("config", [SMALL, ODD], ids=["small", "odd"])
def test_flops_that_torch_counts(config):
    model = TransformerLM(config, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, config.context_length, dtype=torch.int64, device="meta"))
    assert sum(forward_flops(config).values()) == counter.get_total_flops()


def test_training_flops_are_three_times_the_forward_pass():
    assert training_flops_per_token(XL) * 1024 == pytest.approx(3 * 3.517e12, rel=5e-4)


# The 2026 and 2024 handouts' XL on an 80 GB card: 16.37 B + 26.25 GB and 15.52 B + 24.91 GB.
@pytest.mark.parametrize(("config", "slope", "fixed"), [(XL, 16.37, 26.25), (XL_2024, 15.52, 24.91)])
def test_training_memory(config, slope, fixed):
    one, two = (sum(training_memory_bytes(config, batch_size=b).values()) / 1e9 for b in (1, 2))
    assert two - one == pytest.approx(slope, abs=0.006)
    assert one - (two - one) == pytest.approx(fixed, abs=0.006)
    assert largest_batch(config, memory_bytes=80 * 10**9) == 3
    assert largest_batch(config, memory_bytes=10**9) == 0


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="num_tokens must be at least 1; got 0"):
        forward_flops(ODD, 0)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got -2"):
        training_memory_bytes(ODD, batch_size=-2)


# Variants


@pytest.mark.parametrize("name", ALONE)
def test_parameters_of_built_variants(name):
    config = ModelConfig(**{**SIZES, **ALONE[name]})
    assert sum(parameter_counts(config).values()) == TransformerLM(config, device="meta").get_num_params()


@pytest.mark.parametrize("name", [n for n, c in ALONE.items() if not {"value_embeddings", "smear"} & set(c)])
def test_flops_of_built_variants(name):
    """One block of queries: a window that spans the context scores every key, as the counter sees."""
    choices = {**ALONE[name]}
    choices |= {"attention_window": 10} if "attention_window" in choices else {}
    config = ModelConfig(**{**SIZES, **choices})
    model = TransformerLM(config, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, config.context_length, dtype=torch.int64, device="meta"))
    assert sum(forward_flops(config).values()) == counter.get_total_flops()


def test_a_window_is_scored_alone():
    """nanochat's convention: 12 heads d_head min(window, T) per token and layer, forward and backward."""
    long = ModelConfig(100, 2048, 768, 4, 6, attention_window=512, mixers=("window", "window", "window", "attention"))
    expected = sum(12 * 768 * width for width in (512, 512, 512, 2048))
    assert 3 * forward_flops(long)["scores and values"] / 2048 == expected


@pytest.mark.parametrize("name", ["grouped queries", "window", "window 1", "MLA", "nanochat 2026", "head_dim"])
def test_cached_numbers_of_a_decoded_sequence(name):
    """What the caches hold after 9 tokens, one at a time."""
    model = TransformerLM(ModelConfig(**{**SIZES, **ALONE[name]})).eval()
    cache = model.new_cache(1, model.config.context_length)
    for at in range(9):
        model(torch.tensor([[at]]), cache, at)
    held = 0
    for entry in cache:
        if hasattr(entry, "_kept"):
            held += sum(t.numel() for t in entry._kept)
        elif hasattr(entry, "_keys"):
            held += sum(t[..., :9, :].numel() for t in (entry._keys, entry._values))
        else:
            held += entry.value.numel()
    assert cached_numbers(model.config, 9) == held


def test_what_is_not_counted_is_named():
    assert not_counted(SMALL) == []
    latent = ModelConfig(**{**SIZES, "latent_attention": LatentAttentionConfig(), "smear": True})
    assert [note.split(":")[0] for note in not_counted(latent)] == [
        "latent attention", "gates and scalars of the residual stream",
    ]  # fmt: skip
