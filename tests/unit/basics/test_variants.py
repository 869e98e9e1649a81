"""Every variant against loops in NumPy float64, decoded through its cache, checked for causality, alone and combined.

The model's tables of positions are float32, hence 1e-5; without rotary positions agreement is to rounding.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from cs336_basics.generation import generate
from cs336_basics.kv_cache import KVCache, WindowCache
from cs336_basics.layers import Linear, RMSNorm
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.config import config_from_dict
from cs336_basics.variants.activations import GatedFeedForward, squared_relu
from cs336_basics.variants.configs import LatentAttentionConfig, RopeScaling
from cs336_basics.variants.norms import LayerNorm, RMSNormWithoutGain
from cs336_basics.variants.score_rules import QUERY_BLOCK, ScoreRules, attention_by_rules
from tests.unit.basics import variant_oracle as oracle

SIZES = {"vocab_size": 13, "context_length": 10, "d_model": 24, "num_layers": 2, "num_heads": 4, "d_ff": 10}
NANOCHAT = {
    "ffn": "relu2", "norm_gain": False, "embedding_norm": True, "qk_norm": True, "logit_softcap": 15.0,
    "rope_pairs": "halves",
}  # fmt: skip
NANOCHAT_2026 = {
    **NANOCHAT, "num_layers": 4, "attention_window": 3, "mixers": ("window", "window", "window", "attention"),
    "rope_theta": 100_000.0, "attention_scale": 1.44, "value_embeddings": True, "residual_scalars": True,
    "smear": True, "backout": True,
}  # fmt: skip
ALONE = {
    "multi-query": {"num_kv_heads": 1},
    "grouped queries": {"num_kv_heads": 2},
    "head_dim": {"head_dim": 10},
    "bias": {"qkv_bias": True},
    "QK-norm": {"qk_norm": True},
    "attention scale": {"attention_scale": 0.3},
    "attention softcap": {"attention_softcap": 1.5},
    "sinks": {"attention_sinks": True},
    "window": {"attention_window": 3},
    "window 1": {"attention_window": 1},
    "window and attention": {"attention_window": 2, "mixers": ("window", "attention"), "num_layers": 3},
    "alibi": {"positions": "alibi"},
    "alibi, 3 heads": {"positions": "alibi", "num_heads": 3},
    "halves": {"rope_pairs": "halves"},
    "linear": {"rope_scaling": RopeScaling("linear", 3.0)},
    "yarn": {"rope_scaling": RopeScaling("yarn", 4.0, 60, 4.0, 0.5), "rope_theta": 50.0, "head_dim": 16},
    "geglu": {"ffn": "geglu"},
    "reglu": {"ffn": "reglu"},
    "relu2": {"ffn": "relu2"},
    "layernorm": {"norm_type": "layernorm"},
    "layernorm in post-norm, QK": {"norm_type": "layernorm", "norm": "post", "qk_norm": True},
    "no gain": {"norm_gain": False, "norm_eps": 0.1},
    "sandwich": {"norm": "sandwich"},
    "parallel": {"norm": "parallel"},
    "embedding norm": {"embedding_norm": True, "positions": "learned"},
    "logit softcap": {"logit_softcap": 2.0},
    "tied": {"tie_embeddings": True, "num_kv_heads": 2},
    "residual scalars": {"residual_scalars": True},
    "smear": {"smear": True},
    "backout": {"backout": True, "num_layers": 3},
    "value embeddings": {"value_embeddings": True, "num_kv_heads": 2, "num_layers": 3},
    "MLA": {"latent_attention": LatentAttentionConfig(7, None, 5, 4, 3)},
    "MLA, low-rank queries": {"latent_attention": LatentAttentionConfig(7, 6, 5, 4, 3), "rope_pairs": "halves"},
    "MLA, YaRN, layernorm": {
        "latent_attention": LatentAttentionConfig(20, 6, 3, 2, 3), "norm_type": "layernorm",
        "rope_scaling": RopeScaling("linear", 3.0),
    },
    "Qwen2.5": {"num_kv_heads": 2, "qkv_bias": True, "rope_pairs": "halves", "tie_embeddings": True, "norm_eps": 1e-6},
    "Gemma 2": {
        "num_kv_heads": 2, "norm": "sandwich", "ffn": "geglu", "attention_softcap": 5.0, "logit_softcap": 3.0,
        "attention_window": 4, "mixers": ("window", "attention"),
    },
    "gpt-oss": {"num_kv_heads": 2, "attention_sinks": True, "attention_window": 3, "mixers": ("window", "attention")},
    "nanochat 2025": {**NANOCHAT, "num_kv_heads": 2},
    "nanochat 2026": NANOCHAT_2026,
}  # fmt: skip
TOGETHER = [
    {"num_kv_heads": kv, "attention_window": window, "positions": positions, "attention_sinks": extra,
     "attention_softcap": 2.0 if extra else None, "qk_norm": extra, "qkv_bias": not extra}
    for kv, window, positions, extra in product((4, 2, 1), (None, 4), ("rope", "alibi", "none"), (False, True))
]  # fmt: skip
CASES = [*ALONE.items(), *((f"together {i}", choices) for i, choices in enumerate(TOGETHER))]
every_case = pytest.mark.parametrize("choices", [c for _, c in CASES], ids=[name for name, _ in CASES])


def randomised(choices: dict, dtype: torch.dtype = torch.float64) -> TransformerLM:
    """A model all of whose weights are drawn: zeros and ones would hide a missing factor."""
    model = TransformerLM(ModelConfig(**{**SIZES, **choices}), dtype=dtype).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=draw, dtype=torch.float64) * 0.4)
    return model


def random_ids(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randint(13, shape, generator=torch.Generator().manual_seed(seed))


@every_case
def test_logits_equal_float64_loops(choices) -> None:
    model, ids = randomised(choices), random_ids(2, 9)
    with torch.no_grad():
        actual = model(ids).numpy()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    expected = oracle.logits(ids.numpy(), weights, model.config)
    tolerance = 1e-5 if model.config.positions == "rope" else 1e-12
    assert np.abs(actual - expected).max() < tolerance * np.abs(expected).max()


@every_case
@pytest.mark.parametrize("pieces", [(4, 1, 1, 1, 1, 1, 1), (1,) * 10, (2, 3, 1, 4), (9, 1)], ids=str)
def test_decoding_through_the_cache_equals_the_full_pass(choices, pieces) -> None:
    model, ids = randomised(choices), random_ids(3, 10)
    cache, at, parts = model.new_cache(3, 10), 0, []
    with torch.no_grad():
        for count in pieces:
            parts.append(model(ids[:, at : at + count], cache, at))
            at += count
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), rtol=1e-9, atol=1e-9)


@every_case
def test_no_position_sees_a_later_token(choices) -> None:
    model, ids = randomised(choices), random_ids(1, 10)
    with torch.no_grad():
        before = model(ids)
        for changed_at in range(10):
            changed = ids.clone()
            changed[0, changed_at] = (changed[0, changed_at] + 1) % 13
            difference = (model(changed) - before).abs().amax(dim=(0, 2))
            assert (difference[:changed_at] == 0).all() and difference[changed_at] > 1e-6


@every_case
def test_gradients_reach_every_weight(choices) -> None:
    model = randomised(choices).train()
    model(random_ids(2, 10)).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    if model.config.attention_window == 1:  # one key: its weight is 1 whatever the score
        dead = [name for name in dead if "q_proj" not in name and "k_proj" not in name]
    assert not dead


@pytest.mark.parametrize("name", ["nanochat 2026", "gpt-oss", "MLA", "Qwen2.5", "smear"])
def test_generation_past_the_context_equals_recomputing(name) -> None:
    model, prompt = randomised(ALONE[name]), random_ids(3, 4)
    rows = generate(model, prompt, 15, temperature=0.0)
    for start, row in zip(prompt.tolist(), rows, strict=True):
        ids = list(start)
        for token in row:
            with torch.no_grad():
                assert token == int(model(torch.tensor([ids[-10:]]))[0, -1].argmax())
            ids.append(token)
    assert len({tuple(row) for row in rows}) > 1


# Parts


def torch_attention(q, k, v, rules: ScoreRules) -> torch.Tensor:
    """torch's kernel with an explicit mask (queries, keys) of additive scores; groups by torch's own enable_gqa."""
    queries, keys = q.shape[-2], k.shape[-2]
    distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
    seen = (distance >= 0) & (distance < (rules.window or keys))
    slopes = torch.zeros(q.shape[-3]) if rules.slopes is None else rules.slopes
    mask = (-slopes[:, None, None] * distance).double().masked_fill(~seen, -torch.inf)
    return nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


@pytest.mark.parametrize("window", [None, 1, 50, QUERY_BLOCK, 1000])
@pytest.mark.parametrize("queries", [1, QUERY_BLOCK, 3 * QUERY_BLOCK + 7])
@pytest.mark.parametrize("slopes", [False, True])
def test_rules_over_many_blocks_equal_torch(window, queries, slopes) -> None:
    draw = torch.Generator().manual_seed(1)
    q = torch.randn(2, 6, queries, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 3, queries + 40, 8, generator=draw, dtype=torch.float64, requires_grad=True) for _ in "kv")
    rules = ScoreRules(window, slopes=torch.linspace(0.01, 0.5, 6) if slopes else None)
    actual, expected = attention_by_rules(q, k, v, rules), torch_attention(q, k, v, rules)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    seed = torch.randn(actual.shape, generator=draw, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(actual, (q, k, v), seed), torch.autograd.grad(expected, (q, k, v), seed), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def saved_numbers(window: int | None, tokens: int) -> int:
    """How many numbers autograd keeps for the backward pass of one head of attention."""
    total, seen = 0, set()

    def pack(tensor):
        nonlocal total
        key = (tensor.untyped_storage().data_ptr(), tensor.shape)
        if key not in seen:
            seen.add(key)
            total += tensor.numel()
        return tensor

    q = torch.zeros(1, 1, tokens, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attention_by_rules(q, q, q, ScoreRules(window))
    return total


def test_memory_of_a_window_grows_with_the_length_not_its_square() -> None:
    window = 64
    assert saved_numbers(window, 4096) < 2.1 * saved_numbers(window, 2048)
    assert saved_numbers(window, 4096) < 6 * 4096 * (window + QUERY_BLOCK)
    assert saved_numbers(None, 4096) > 3.5 * saved_numbers(None, 2048), "without a window the square remains"


def test_a_window_cache_holds_no_more_than_the_window() -> None:
    cache, draw = WindowCache(5), torch.Generator().manual_seed(0)
    everything = torch.randn(2, 3, 40, 4, generator=draw)
    at = 0
    for count in (7, 1, 1, 2, 9, 1, 1, 18):
        keys, values = cache.append(everything[:, :, at : at + count], -everything[:, :, at : at + count])
        first = max(0, at - 4)
        at += count
        assert torch.equal(keys, everything[:, :, first:at]) and torch.equal(values, -keys)
        assert cache._kept is not None and cache._kept[0].shape[-2] == min(at, 4)


def test_which_cache_a_layer_gets() -> None:
    model = randomised({"attention_window": 3, "mixers": ("window", "attention")})
    assert [type(c) for c in model.new_cache(2, 10)] == [WindowCache, KVCache]
    assert [type(c) for c in model.new_cache(2, 3)] == [KVCache, KVCache], "nothing would ever leave the window"


def test_the_cache_of_latent_attention_is_small() -> None:
    model = randomised(ALONE["MLA"])
    cache = model.new_cache(2, 10)
    model(random_ids(2, 10), cache, 0)
    assert cache[0]._keys.shape == (2, 1, 10, 7) and cache[0]._values.shape == (2, 1, 10, 4)


def test_norms_and_activations_equal_torch() -> None:
    x = torch.randn(5, 6, 11, generator=torch.Generator().manual_seed(0)) * 3 + 1
    ours, theirs = LayerNorm(11, 1e-3), nn.LayerNorm(11, 1e-3)
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.copy_(a.copy_(torch.randn(11, generator=torch.Generator().manual_seed(1))))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(RMSNormWithoutGain(1e-3)(x), nn.RMSNorm(11, 1e-3, elementwise_affine=False)(x))
    torch.testing.assert_close(squared_relu(x), torch.relu(x) ** 2)
    narrow = x.bfloat16()
    for norm in (ours, RMSNormWithoutGain(1e-3)):
        assert torch.equal(norm(narrow), norm(narrow.float()).bfloat16()), "half precision is normalised in float32"
    geglu = GatedFeedForward(11, 7, gate=torch.tanh)
    w1, w2, w3 = (p.detach() for p in geglu.parameters())
    torch.testing.assert_close(geglu(x), (torch.tanh(x @ w1.T) * (x @ w3.T)) @ w2.T)


def test_bias_starts_at_zero_and_shifts() -> None:
    layer = Linear(4, 3, bias=True)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(x), x @ layer.weight.T)
    nn.init.normal_(layer.bias)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("choices", [{"attention_sinks": True, "num_kv_heads": 2}, {"qk_norm": True}])
def test_attention_dropout_acts_in_training_only(choices) -> None:
    dropping, plain = randomised({**choices, "attn_pdrop": 0.5}), randomised(choices)
    ids = random_ids(2, 9)
    assert torch.equal(dropping(ids), plain(ids))
    torch.manual_seed(0)
    assert not torch.allclose(dropping.train()(ids), plain(ids))


@pytest.mark.parametrize("name", ["nanochat 2026", "gpt-oss", "MLA", "Gemma 2", "layernorm", "yarn"])
def test_bfloat16_is_close_to_float32(name) -> None:
    wide = randomised(ALONE[name], torch.float32)
    narrow = randomised(ALONE[name], torch.float32).to(torch.bfloat16)
    ids = random_ids(2, 10)
    expected, actual = wide(ids), narrow(ids)
    assert actual.dtype == torch.bfloat16
    assert ((actual.float() - expected).norm() / expected.norm()).item() < 0.08
    cache = narrow.new_cache(2, 10)
    narrow(ids[:, :9], cache, 0)
    assert narrow(ids[:, 9:], cache, 9).dtype == torch.bfloat16


def test_plain_models_import_no_variant_of_the_model() -> None:
    program = """
import sys
from cs336_basics.model import ModelConfig, TransformerLM
TransformerLM(ModelConfig(9, 8, 8, 1, 2))
print(sorted(name for name in sys.modules if name.startswith("cs336_basics.variants.")))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "['cs336_basics.variants.configs']"


# Initialisation


def test_initialization_of_nanochat() -> None:
    sizes = {"vocab_size": 500, "context_length": 8, "d_model": 256, "num_heads": 4, "d_ff": 1024}
    for year in ("nanochat2025", "nanochat2026"):
        torch.manual_seed(0)
        model = TransformerLM(ModelConfig(**{**SIZES, **NANOCHAT_2026, **sizes, "initialization": year}))
        attn, ffn = model.layers[3].attn, model.layers[3].ffn
        assert not attn.output_proj.weight.any() and not ffn.w2.weight.any()
        if year == "nanochat2025":
            expected = {attn.q_proj: 1 / 16, ffn.w1: 1 / 16, model.token_embeddings: 1.0, attn.value_embedding.table: 1}
            assert not model.lm_head.weight.any()
        else:
            expected = {attn.q_proj: 1 / 16, ffn.w1: 0.4 / 16, model.token_embeddings: 0.8, model.lm_head: 0.001}
            expected |= {attn.value_embedding.table: 1 / 16}
            bound = 3**0.5 / 16
            assert bound * 0.999 < attn.q_proj.weight.abs().max() <= bound, "uniform, not normal"
            assert model.stream.stream_scale.tolist() == pytest.approx([1.15, 1.15 - 0.1 / 3, 1.15 - 0.2 / 3, 1.05])
            assert model.stream.embedding_scale.tolist() == pytest.approx([0.20, 0.15, 0.10, 0.05])
        for module, std in expected.items():
            assert module.weight.std().item() == pytest.approx(std, rel=0.02)


# Configuration


@every_case
def test_configs_survive_json(choices) -> None:
    config = ModelConfig(**{**SIZES, **choices})
    assert config_from_dict(ModelConfig, json.loads(json.dumps(asdict(config)))) == config


def test_a_variant_is_saved_and_loaded(tmp_path) -> None:
    model = randomised(ALONE["MLA, low-rank queries"], torch.float32)
    (tmp_path / "model_config.json").write_text(json.dumps(asdict(model.config)), encoding="utf-8")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    loaded = TransformerLM.from_pretrained(tmp_path).eval()
    assert loaded.config == model.config and torch.equal(loaded(random_ids(2, 9)), model(random_ids(2, 9)))


REFUSED = [
    ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads; got num_heads=4, num_kv_heads=3"),
    ({"attention_window": 0}, "attention_window must be at least 1; got 0"),
    ({"attention_softcap": 0.0}, "attention_softcap must be positive; got 0"),
    ({"logit_softcap": -1.0}, "logit_softcap must be positive; got -1"),
    ({"head_dim": 5}, "must be even"),
    ({"mixers": ()}, "at least one mixer"),
    ({"mixers": ("windows",)}, "mixers must be among .*; got 'windows'"),
    ({"mixers": ("window",)}, "'window' and a value for attention_window go together"),
    ({"attention_window": 4, "mixers": ("attention",)}, "go together"),
    ({"mixers": ("state_space",)}, "'state_space' and a value for state_space go together"),
    ({"positions": "alibi", "rope_scaling": RopeScaling()}, "rope_scaling .*got positions='alibi'"),
    ({"norm_type": "layernorm", "norm_gain": False}, "norm_gain=False is offered for"),
    ({"latent_attention": LatentAttentionConfig(), "num_kv_heads": 2}, "num_kv_heads does not apply"),
    ({"latent_attention": LatentAttentionConfig(), "attention_window": 2}, "attention_window does not apply"),
    ({"latent_attention": LatentAttentionConfig(), "positions": "alibi"}, "rotary part; got positions='alibi'"),
    ({"initialization": "xavier"}, "initialization must be one of .*'xavier'"),
    ({"positions": "rotary"}, "alibi.*'rotary'"),
]


@pytest.mark.parametrize(("choices", "words"), REFUSED, ids=[str(list(c)) for c, _ in REFUSED])
def test_combinations_that_make_no_sense_are_refused(choices, words) -> None:
    with pytest.raises(ValueError, match=words):
        ModelConfig(**{**SIZES, **choices})


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: RopeScaling("ntk"), "linear.*'ntk'|'ntk'.*linear"),
        (lambda: RopeScaling(factor=0.5), "factor must be at least 1.0; got 0.5"),
        (lambda: RopeScaling(beta_fast=1.0, beta_slow=2.0), "beta_fast > beta_slow > 0; got 1.0 and 2.0"),
        (lambda: LatentAttentionConfig(rope_dim=3), "rope_dim must be even; got 3"),
        (lambda: LatentAttentionConfig(kv_rank=0), "kv_rank must be at least 1; got 0"),
    ],
)
def test_settings_of_variants_are_checked(build, words) -> None:
    with pytest.raises((ValueError, TypeError), match=f"(?s){words}"):  # the suite's own type checks may come first
        build()


def test_an_unknown_key_names_its_nearest_neighbour() -> None:
    values = asdict(ModelConfig(**SIZES, latent_attention=LatentAttentionConfig()))
    values["latent_attention"]["kv_rnk"] = values["latent_attention"].pop("kv_rank")
    with pytest.raises(ValueError, match=r"latent_attention.kv_rnk .*did you mean latent_attention.kv_rank"):
        config_from_dict(ModelConfig, values)


def test_auxiliary_losses_are_summed() -> None:
    model = randomised({})
    assert model.auxiliary_loss() is None
    model.layers[0].ffn.auxiliary_loss = torch.tensor(2.0)
    assert model.auxiliary_loss() == 2.0
    model.layers[1].attn.auxiliary_loss = torch.tensor(3.0)
    assert model.auxiliary_loss() == 5.0


def test_norm_eps_is_used_everywhere() -> None:
    norms = [m for m in randomised({"norm_eps": 0.3, "qk_norm": True}).modules() if isinstance(m, RMSNorm)]
    assert len(norms) == 2 * 4 + 1 and all(m.eps == 0.3 for m in norms)
    assert replace(ModelConfig(9), norm_eps=1e-6).norm_eps == 1e-6
