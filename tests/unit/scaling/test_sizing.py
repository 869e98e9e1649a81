"""Sizes against published tables and against models as they are built."""

from __future__ import annotations

import pytest

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_scaling.flops import count_flops, count_parameters, handout_parameters, shape_flops
from cs336_scaling.sizing import NANOCHAT_SHARDS, Rates, largest_model, model_of_depth, size_model


@pytest.mark.parametrize(
    ("parameters", "tokens", "characters", "shards"),
    [(156e6, 3.1e9, 15e9, 60), (561e6, 11.2e9, 54e9, 216), (1.0e9, 20e9, 96e9, 384), (1.5e9, 30e9, 144e9, 576),
     (7.6e9, 152e9, 730e9, 2919)],
)  # fmt: skip
def test_the_nanochat_table(parameters, tokens, characters, shards):
    """The table in circulation says 2,920 in its last row: 730 / 0.25, divided after rounding 729.6 up."""
    needs = size_model(parameters)
    assert needs.tokens == pytest.approx(tokens, rel=0.01) and needs.characters == pytest.approx(characters, rel=0.01)
    assert needs.shards == shards


def test_the_errors_of_the_table_are_avoided():
    assert model_of_depth(12)["total"] == pytest.approx(185.6e6, rel=1e-3)  # not 156
    assert model_of_depth(20)["total"] == pytest.approx(561.0e6, rel=1e-3)
    assert model_of_depth(26)["total"] == pytest.approx(1082e6, rel=1e-3)
    assert largest_model(NANOCHAT_SHARDS) == pytest.approx(4.7e9, rel=0.02)  # not "about 2"


@pytest.mark.parametrize(("depth", "width", "heads"), [(12, 768, 6), (20, 1280, 10), (26, 1664, 13), (13, 896, 7)])
def test_the_depth_dial_rounds_up_to_whole_heads(depth, width, heads):
    shape = model_of_depth(depth)
    assert (shape["d_model"], shape["num_heads"]) == (width, heads)


def test_chinchilla_is_itself():
    """70B on 1.4T tokens took 5.9e23 FLOPs; at 1e15 useful FLOPs per second that is 163,000 hours."""
    needs = size_model(70e9, Rates(peak_flops=2e15, utilisation=0.5, devices=1))
    assert needs.tokens == 1.4e12 and needs.flops == pytest.approx(5.88e23)
    assert needs.hours == pytest.approx(163_333, rel=1e-3)
    assert needs.memory_bytes == 16 * 70e9


def test_bad_sizes_are_refused():
    for call in (lambda: size_model(0), lambda: largest_model(0), lambda: model_of_depth(0), lambda: Rates(devices=0),
                 lambda: Rates(utilisation=1.5)):  # fmt: skip
        with pytest.raises(ValueError, match="at least|positive|at most 1"):
            call()


def test_counts_are_those_of_the_built_model():
    config = ModelConfig(vocab_size=100, context_length=16, d_model=48, num_layers=3, num_heads=4, d_ff=128)
    weights = {name: p.numel() for name, p in TransformerLM(config).named_parameters()}
    matrices = sum(n for name, n in weights.items() if name.startswith("layers.") and "ln" not in name)
    head = weights["lm_head.weight"]
    assert count_parameters(config) == {
        "non_embedding": matrices, "with_head": matrices + head, "total": sum(weights.values())
    }  # fmt: skip
    assert matrices == handout_parameters(3, 48)


def test_two_ways_to_count_flops_agree_on_the_course_model():
    config = ModelConfig(vocab_size=100, context_length=16, d_model=48, num_layers=3, num_heads=4, d_ff=128)
    built = count_flops(config, 1e6)
    formula = shape_flops(3, 48, vocab_size=100, context_length=16, num_tokens=1e6)
    for rule in formula:
        assert built[rule] == pytest.approx(formula[rule], rel=1e-12), rule
    assert formula["deepseek"] == (72 * 3 * 48**2 + 12 * 3 * 48 * 16) * 1e6


def test_the_counting_rule_decides_at_small_sizes():
    """V = 32000, d = 64, L = 2: 98 thousand without the head, 2.05 million more with it."""
    config = ModelConfig(vocab_size=32_000, context_length=64, d_model=64, num_layers=2, num_heads=4, d_ff=171)
    counts = count_parameters(config)
    assert counts["non_embedding"] == pytest.approx(98_304, rel=0.005)
    assert counts["with_head"] - counts["non_embedding"] == 2_048_000
