"""muP leaves the base model alone and keeps activations moving alike at every width."""

from __future__ import annotations

import pytest
import torch

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.optimizer import AdamW
from cs336_scaling.mup import apply_mup, coordinate_check, mup_config, mup_groups, width_exponents


def config(width, **changes):
    values = {"vocab_size": 64, "context_length": 16, "d_model": width, "num_layers": 2, "num_heads": 4}
    return ModelConfig(**{**values, "d_ff": 2 * width, **changes})


def test_at_the_base_width_nothing_changes():
    base = config(32)
    assert mup_config(base, base) == base
    torch.manual_seed(0)
    model = TransformerLM(base)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    apply_mup(model, base)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name])
    groups = mup_groups(model.named_parameters(), width_ratio=1.0, learning_rate=0.01, weight_decay=0.1)
    assert {(g["lr"], g["weight_decay"]) for g in groups} == {(0.01, 0.1)}


def test_groups_hold_every_weight_once_and_keep_rate_times_decay():
    model = TransformerLM(config(64))
    groups = mup_groups(model.named_parameters(), width_ratio=4.0, learning_rate=0.01, weight_decay=0.1)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    wide, rest = groups
    assert model.lm_head.weight in set(wide["params"]) and all(p.dim() == 2 for p in wide["params"])
    assert any(p is model.token_embeddings.weight for p in rest["params"])
    assert wide["lr"] == 0.0025 and wide["lr"] * wide["weight_decay"] == pytest.approx(0.001)
    AdamW(groups)


def test_the_head_is_that_of_a_multiplier():
    """logits / m with the base's rate and initialization, against m in the weight and rate / m: the same under Adam."""
    base, wide = config(16), config(64)
    torch.manual_seed(0)
    model = TransformerLM(wide)
    w0 = model.lm_head.weight.detach().clone()
    std = (2 / (16 + 64)) ** 0.5 / (2 / (64 + 64)) ** 0.5
    apply_mup(model, base)
    mine, theirs = model.lm_head.weight, torch.nn.Parameter(w0 * std)
    x = torch.randn(8, 64)
    steps = ((mine, 1.0, AdamW([mine], lr=0.01 / 4, eps=1e-30, weight_decay=0.0)),
             (theirs, 0.25, AdamW([theirs], lr=0.01, eps=1e-30, weight_decay=0.0)))  # fmt: skip
    for _ in range(3):
        for weight, multiplier, optimizer in steps:
            optimizer.zero_grad()
            (multiplier * x @ weight.T).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(mine, 0.25 * theirs, rtol=1e-4, atol=1e-6)


def test_coordinate_check():
    widths = (32, 64, 128, 256)
    ids = torch.randint(64, (8, 17), generator=torch.Generator().manual_seed(0))
    configs = [config(width) for width in widths]
    plain = width_exponents(coordinate_check(configs, ids, learning_rate=0.01), widths)
    scaled = width_exponents(coordinate_check(configs, ids, learning_rate=0.01, base=configs[0]), widths)
    assert plain["logits"] > 0.35 and plain["block 1"] > 0.25, plain
    for place, slope in scaled.items():  # below 0: the part of the head's random start, which dies out as 1/sqrt(width)
        assert -0.3 < slope < 0.1, (place, scaled)


def test_what_muP_cannot_carry_is_refused():  # noqa: N802
    with pytest.raises(ValueError, match="num_layers"):
        mup_config(config(32, num_layers=3), config(32))
    with pytest.raises(ValueError, match="tie_embeddings"):
        mup_config(config(32, tie_embeddings=True), config(32))
