"""The model against plain NumPy in float64, transformers' Llama, closed-form counts and the statistics of its draws."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from dataclasses import asdict
from itertools import product

import numpy as np
import pytest
import torch

from cs336_basics import blocked_attention  # noqa: F401  (registers attention="blocked")
from cs336_basics.model import (
    Embedding,
    Linear,
    RMSNorm,
    RotaryPositionalEmbedding,
    TransformerLM,
    dropout,
    scaled_dot_product_attention,
    sinusoidal_positions,
)
from cs336_basics.model_config import ModelConfig
from tests.fixtures import numpy_transformer as oracle

SIZES = {"vocab_size": 13, "context_length": 9, "d_model": 12, "num_layers": 2, "num_heads": 3, "d_ff": 10}
CHOICES = list(
    product(("rope", "learned", "sinusoidal", "none"), ("swiglu", "gelu", "silu", "relu"), ("pre", "post", "none"))
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(config: ModelConfig, dtype: torch.dtype = torch.float64, seed: int = 0) -> TransformerLM:
    """A model all of whose weights, gains included, are drawn: ones would hide a missing factor."""
    model = TransformerLM(config, dtype=dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator(seed), dtype=torch.float64) * 0.4)
            seed += 1
    return model


def random_ids(*shape: int, vocab: int = 13, seed: int = 5) -> torch.Tensor:
    return torch.randint(vocab, shape, generator=generator(seed))


def sinusoids(positions: int, d_model: int) -> np.ndarray:
    """Vaswani et al. 2017, section 3.5, entry by entry."""
    table = np.empty((positions, d_model))
    for p, j in np.ndindex(table.shape):
        angle = p / 10000 ** (2 * (j // 2) / d_model)
        table[p, j] = math.sin(angle) if j % 2 == 0 else math.cos(angle)
    return table


def reference_logits(ids: np.ndarray, model: TransformerLM) -> np.ndarray:
    """The whole forward pass in NumPy, for every choice of the config."""
    config, weights = model.config, {k: v.double().numpy() for k, v in model.state_dict().items()}
    hidden = {"gelu": oracle.gelu, "silu": oracle.silu, "relu": lambda x: np.maximum(x, 0)}
    theta = config.rope_theta if config.positions == "rope" else None
    x = weights["token_embeddings.weight"][ids]
    if config.positions == "learned":
        x = x + weights["position_embeddings.weight"][: ids.shape[1]]
    if config.positions == "sinusoidal":
        x = x + sinusoids(ids.shape[1], config.d_model)
    for layer in range(config.num_layers):
        w = oracle.part(weights, f"layers.{layer}.")

        def attend(y, w=w):
            return oracle.self_attention(y, oracle.part(w, "attn."), config.num_heads, theta)

        def feed(y, w=w):
            if config.ffn == "swiglu":
                return (oracle.silu(y @ w["ffn.w1.weight"].T) * (y @ w["ffn.w3.weight"].T)) @ w["ffn.w2.weight"].T
            return hidden[config.ffn](y @ w["ffn.w1.weight"].T) @ w["ffn.w2.weight"].T

        if config.norm == "pre":
            x = x + attend(oracle.rmsnorm(x, w["ln1.weight"]))
            x = x + feed(oracle.rmsnorm(x, w["ln2.weight"]))
        elif config.norm == "post":
            x = oracle.rmsnorm(x + attend(x), w["ln1.weight"])
            x = oracle.rmsnorm(x + feed(x), w["ln2.weight"])
        else:
            x = x + attend(x)
            x = x + feed(x)
    if config.norm == "pre":
        x = oracle.rmsnorm(x, weights["ln_final.weight"])
    head = weights["token_embeddings.weight" if config.tie_embeddings else "lm_head.weight"]
    return x @ head.T


@pytest.mark.parametrize(("positions", "ffn", "norm"), CHOICES)
@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_logits_equal_a_float64_loop_for_every_choice(positions, ffn, norm, tie) -> None:
    config = ModelConfig(**SIZES, positions=positions, ffn=ffn, norm=norm, tie_embeddings=tie, rope_theta=100.0)
    model, ids = randomised(config), random_ids(2, 7)
    actual, expected = model(ids).detach().numpy(), reference_logits(ids.numpy(), model)
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()  # the tables of positions are float32


@pytest.mark.parametrize("attention", ["plain", "blocked"])
@pytest.mark.parametrize("positions", ["rope", "learned", "sinusoidal", "none"])
def test_no_position_sees_a_later_token(attention, positions) -> None:
    model = randomised(ModelConfig(**SIZES, positions=positions, attention=attention))
    ids = random_ids(1, 9)
    before = model(ids)
    for changed_at in range(9):
        changed = ids.clone()
        changed[0, changed_at] = (changed[0, changed_at] + 1) % 13
        difference = (model(changed) - before).abs().amax(dim=(0, 2))
        assert (difference[:changed_at] == 0).all() and difference[changed_at] > 1e-6


def test_blocked_attention_gives_the_logits_of_plain_attention() -> None:
    sizes = {**SIZES, "context_length": 150}
    plain = randomised(ModelConfig(**sizes))
    blocked = TransformerLM(ModelConfig(**sizes, attention="blocked"), dtype=torch.float64).eval()
    blocked.load_state_dict(plain.state_dict())
    ids = random_ids(2, 150)
    torch.testing.assert_close(blocked(ids), plain(ids), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_logits_equal_those_of_llama() -> None:
    """Llama turns halves (i, i + d/2), we turn neighbours (2i, 2i + 1): rows of its q and k are ours, reordered."""
    transformers = pytest.importorskip("transformers")
    vocab, d_model, heads, layers, d_ff, context, theta = 97, 48, 4, 3, 80, 32, 500.0
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    rope = rope if int(transformers.__version__.split(".")[0]) >= 5 else {"rope_theta": theta}
    torch.manual_seed(3)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocab, hidden_size=d_model, intermediate_size=d_ff, num_hidden_layers=layers,
            num_attention_heads=heads, max_position_embeddings=context, rms_norm_eps=1e-5, initializer_range=0.2,
            tie_word_embeddings=False, **rope,
        )
    ).eval()  # fmt: skip
    d_k = d_model // heads
    halves_to_pairs = torch.arange(d_k).reshape(2, d_k // 2).T.flatten()
    rows = torch.cat([head * d_k + halves_to_pairs for head in range(heads)])
    names = {
        "self_attn.q_proj": "attn.q_proj", "self_attn.k_proj": "attn.k_proj", "self_attn.v_proj": "attn.v_proj",
        "self_attn.o_proj": "attn.output_proj", "mlp.gate_proj": "ffn.w1", "mlp.down_proj": "ffn.w2",
        "mlp.up_proj": "ffn.w3", "input_layernorm": "ln1", "post_attention_layernorm": "ln2",
    }  # fmt: skip
    theirs = llama.state_dict()
    state = {"token_embeddings.weight": theirs["model.embed_tokens.weight"]}
    state |= {"ln_final.weight": theirs["model.norm.weight"], "lm_head.weight": theirs["lm_head.weight"]}
    for layer, (name, ours) in product(range(layers), names.items()):
        weight = theirs[f"model.layers.{layer}.{name}.weight"]
        state[f"layers.{layer}.{ours}.weight"] = weight[rows] if name[10:] in ("q_proj", "k_proj") else weight
    config = ModelConfig(vocab, context, d_model, layers, heads, d_ff, rope_theta=theta)
    model = TransformerLM(config).eval()
    model.load_state_dict(state)
    ids = random_ids(2, context, vocab=vocab)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), llama(ids).logits, rtol=1e-4, atol=1e-4)


# Dropout


def test_dropout_zeroes_at_its_rate_and_scales_the_rest() -> None:
    torch.manual_seed(1)
    y = dropout(torch.ones(200_000), 0.3, training=True)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    sigma = math.sqrt(0.3 * 0.7 / 200_000)
    assert abs((y == 0).double().mean().item() - 0.3) < 5 * sigma
    x = torch.randn(5, generator=generator())
    assert torch.equal(dropout(x, 0.3, training=False), x) and torch.equal(dropout(x, 0.0, training=True), x)


def test_attention_dropout_keeps_the_expectation() -> None:
    q, k, v = (torch.randn(3, 4, generator=generator(i), dtype=torch.float64) for i in range(3))
    expected = torch.softmax(q @ k.T / 2, dim=-1) @ v
    torch.manual_seed(2)
    draws = 40_000
    many = scaled_dot_product_attention(*(t.expand(draws, 3, 4) for t in (q, k, v)), pdrop=0.25)
    error = (many.mean(dim=0) - expected).abs() / (many.std(dim=0) / math.sqrt(draws))
    assert error.max() < 5, "the mean over many draws is off by more than 5 standard errors"
    assert many.std(dim=0).min() > 0.01, "nothing was dropped"


@pytest.mark.parametrize("rates", [{"attn_pdrop": 0.5}, {"residual_pdrop": 0.5}], ids=["attention", "residual"])
def test_dropout_acts_in_training_only(rates) -> None:
    dropping, plain = randomised(ModelConfig(**SIZES, **rates)), randomised(ModelConfig(**SIZES))
    ids = random_ids(2, 9)
    assert torch.equal(dropping(ids), plain(ids))
    torch.manual_seed(0)
    first, second = dropping.train()(ids), dropping(ids)
    assert not torch.allclose(first, second) and not torch.allclose(first, plain(ids))
    torch.manual_seed(0)
    assert torch.equal(dropping(ids), first), "the draws come from torch's seeded generator"


# Initialisation and sizes


def assert_truncated_normal(weight: torch.Tensor, sigma: float) -> None:
    """Cut at 3 sigma, the standard deviation is sigma * sqrt(1 - 6 phi(3) / (2 Phi(3) - 1)) = 0.98658 sigma."""
    assert weight.abs().max() <= 3 * sigma * (1 + 1e-6) and weight.abs().max() > 2.9 * sigma
    assert abs(weight.mean()) < 5 * sigma / math.sqrt(weight.numel())
    assert weight.std().item() == pytest.approx(0.98658 * sigma, rel=0.01)
    within_one_sigma = (weight.abs() < sigma).double().mean().item()
    assert within_one_sigma == pytest.approx(0.68269 / 0.99730, abs=0.006)


def test_initial_weights() -> None:
    torch.manual_seed(4)
    assert_truncated_normal(Linear(300, 500).weight, math.sqrt(2 / 800))
    assert_truncated_normal(Embedding(1000, 128).weight, 1.0)
    assert torch.equal(RMSNorm(7).weight, torch.ones(7))
    tied = TransformerLM(ModelConfig(2000, 8, 64, 1, 4, tie_embeddings=True))
    assert_truncated_normal(tied.token_embeddings.weight, 1 / 8)
    assert tied.lm_head.weight is tied.token_embeddings.weight


def test_first_loss_is_that_of_guessing() -> None:
    """Logits start near variance 1, so the loss is near ln V + 1/2, tied or not."""
    for tie in (False, True):
        torch.manual_seed(0)
        model = TransformerLM(ModelConfig(1000, 32, 64, 2, 4, tie_embeddings=tie))
        ids = random_ids(8, 33, vocab=1000)
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        assert math.log(1000) < loss < math.log(1000) + 1.1


GPT2 = {"vocab_size": 50257, "context_length": 1024}
EDITION_2024 = {"ffn": "gelu", "positions": "learned", "tie_embeddings": True}
COUNTS = [
    ({"vocab_size": 10000, "d_ff": 1344}, 22_696_448),
    ({"vocab_size": 10000, "d_ff": 2048, **EDITION_2024}, 17_838_592),
    ({**GPT2, "d_model": 768, "num_layers": 12, "num_heads": 12}, 162_148_608),
    ({**GPT2, "d_model": 1024, "num_layers": 24}, 406_539_264),
    ({**GPT2, "d_model": 1280, "num_layers": 36, "num_heads": 20, "d_ff": 3392}, 833_591_040),
    ({**GPT2, "d_model": 1600, "num_layers": 48, "num_heads": 25, "d_ff": 4288}, 1_640_452_800),
    ({**GPT2, "d_model": 1600, "num_layers": 48, "num_heads": 25, "d_ff": 6400}, 2_127_057_600),
    ({**GPT2, "d_model": 1600, "num_layers": 48, "num_heads": 25, "d_ff": 6400, **EDITION_2024}, 1_556_764_800),
]


@pytest.mark.parametrize(("sizes", "count"), COUNTS)
def test_parameter_counts(sizes, count) -> None:
    model = TransformerLM(ModelConfig(**sizes), device=torch.device("meta"))
    assert model.get_num_params() == count
    tables = sizes["vocab_size"] * model.config.d_model
    tables += model.config.context_length * model.config.d_model if model.config.positions == "learned" else 0
    assert model.get_num_params(non_embedding=True) == count - tables


@pytest.mark.parametrize(
    ("d_model", "d_ff"),
    [
        (512, 1344),
        (768, 2048),
        (1024, 2752),
        (1280, 3392),
        (1600, 4288),
    ],
)
def test_default_width_of_the_feed_forward_is_that_of_the_course(d_model, d_ff) -> None:
    assert ModelConfig(10, d_model=d_model).d_ff == d_ff
    assert ModelConfig(10, d_model=d_model, ffn="gelu").d_ff == 4 * d_model


# Positions and precision


def test_rotary_tables_at_far_positions() -> None:
    """Angles are computed in float64: in float32, position 100,000 would be off by 0.004 rad."""
    rope = RotaryPositionalEmbedding(10000.0, 8, 100_001)
    x = torch.randn(1, 8, generator=generator(), dtype=torch.float64)
    for position in (0, 1, 77_777, 100_000):
        expected = oracle.rope(x.numpy(), np.array([position]), 10000.0)
        actual = rope(x, torch.tensor([position])).numpy()
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("d_model", [8, 7])
def test_sinusoidal_positions(d_model) -> None:
    np.testing.assert_allclose(sinusoidal_positions(300, d_model).numpy(), sinusoids(300, d_model), atol=1e-4)


@pytest.mark.parametrize("positions", ["rope", "learned", "sinusoidal"])
@pytest.mark.parametrize("how", ["built", "converted"])
def test_bfloat16_is_close_to_float32(positions, how) -> None:
    sizes = {**SIZES, "d_model": 48, "d_ff": 64, "context_length": 64}
    wide = randomised(ModelConfig(**sizes, positions=positions), torch.float32)
    if how == "built":
        narrow = TransformerLM(wide.config, dtype=torch.bfloat16).eval()
        narrow.load_state_dict(wide.state_dict())
    else:
        narrow = randomised(wide.config, torch.float32).to(torch.bfloat16)
    ids = random_ids(2, 64)
    expected, actual = wide(ids), narrow(ids)
    assert actual.dtype == torch.bfloat16
    assert ((actual.float() - expected).norm() / expected.norm()).item() < 0.05
    assert torch.isfinite(actual).all()


# Limits and files


def test_context_overflow_names_the_limit() -> None:
    model = TransformerLM(ModelConfig(**SIZES))
    with pytest.raises(ValueError, match=r"context_length=9 tokens; got 10; .*shorten"):
        model(random_ids(1, 10))
    with pytest.raises(ValueError, match=r"got 12"):
        model(random_ids(1, 2), None, 10)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("tie", [False, True])
def test_from_pretrained_round_trip(tmp_path, prefix, tie) -> None:
    model = randomised(ModelConfig(**SIZES, ffn="gelu", positions="learned", tie_embeddings=tie), torch.float32)
    (tmp_path / "model_config.json").write_text(json.dumps(dataclasses.asdict(model.config)), encoding="utf-8")
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, tmp_path / "model.pt")
    loaded = TransformerLM.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded.eval()(random_ids(2, 9)), model(random_ids(2, 9)))


def test_embedding_refuses_ids_outside_the_table() -> None:
    with pytest.raises(IndexError):
        Embedding(4, 2)(torch.tensor([4]))


@pytest.mark.parametrize("typo", [{"positions": "rotary"}, {"norm": "Pre"}, {"ffn": "SwiGLU"}])
def test_config_refuses_unknown_choices(typo) -> None:
    with pytest.raises(ValueError, match=next(iter(typo.values()))):
        ModelConfig(**SIZES, **typo)


def test_a_blocked_model_loads_in_a_fresh_process(tmp_path) -> None:
    config = ModelConfig(**SIZES, attention="blocked")
    (tmp_path / "model_config.json").write_text(json.dumps(asdict(config)), encoding="utf-8")
    torch.save(TransformerLM(config).state_dict(), tmp_path / "model.pt")
    program = "import sys; from cs336_basics.model import TransformerLM; TransformerLM.from_pretrained(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, capture_output=True, timeout=120)
