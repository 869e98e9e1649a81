"""Problems linear ... transformer_lm: every layer and the whole model against outputs of an independent NumPy model.

The committed outputs were computed in float64 (see tests/fixtures/README.md). Tolerances: atol 1e-5 for single layers
and 1e-4 for deeper ones in 2026, about 1e-6 in 2025; rtol 1e-4 everywhere but for the whole model.
"""

from __future__ import annotations

import math

import pytest
import torch

from .assertions import assert_close, assert_implemented, is_close
from .fixtures import model_files
from .fixtures.model_files import (
    BATCH,
    CONTEXT_LENGTH,
    D_FF,
    D_MODEL,
    NUM_HEADS,
    NUM_LAYERS,
    QUERIES,
    THETA,
    VOCAB_SIZE,
)

EDITION_2025 = pytest.mark.edition2025
SINGLE = pytest.mark.parametrize(
    "atol", [pytest.param(1e-5, id="2026"), pytest.param(1e-6, id="2025", marks=EDITION_2025)]
)
DEEP = pytest.mark.parametrize(
    "atol", [pytest.param(1e-4, id="2026"), pytest.param(3e-6, id="2025", marks=EDITION_2025)]
)
ROPE_HINT = (
    "RoPE turns interleaved pairs (x0, x1), (x2, x3), ... by position * theta^(-2k/d), k = 0 .. d/2 - 1, from position "
    "0; not the halves (x0, x_d/2)"
)


@pytest.fixture(scope="module")
def rope_model():
    """Weights, inputs and outputs of the 2025 and 2026 architecture."""
    return model_files.load("model_rope")


@pytest.fixture(scope="module")
def learned_model():
    """Weights, inputs and outputs of the 2024 architecture."""
    return model_files.load("model_learned")


def layer_weights(model, prefix: str = "layers.0.") -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in model["weights"].items() if name.startswith(prefix)}


def projections(model) -> dict[str, torch.Tensor]:
    attention = layer_weights(model, "layers.0.attn.")
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "output_proj"}
    return {f"{letter}_proj_weight": attention[f"{name}.weight"] for letter, name in names.items()}


def run_lm(adapters, model, ids: torch.Tensor, weights: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    return adapters.run_transformer_lm(
        vocab_size=VOCAB_SIZE,
        context_length=CONTEXT_LENGTH,
        d_model=D_MODEL,
        num_layers=NUM_LAYERS["model_rope"],
        num_heads=NUM_HEADS,
        d_ff=D_FF,
        rope_theta=THETA,
        weights=model["weights"] if weights is None else weights,
        in_indices=ids,
    )


@SINGLE
def test_linear(adapters, rope_model, atol):
    weight = layer_weights(rope_model)["ffn.w1.weight"]
    actual = adapters.run_linear(d_in=D_MODEL, d_out=D_FF, weights=weight, in_features=rope_model["inputs"]["x"])
    assert_close(
        actual, rope_model["outputs"]["linear"], atol=atol, hint="y = W x with W of shape (d_out, d_in), no bias"
    )


@SINGLE
def test_embedding(adapters, rope_model, atol):
    table = rope_model["weights"]["token_embeddings.weight"]
    ids = rope_model["inputs"]["ids"]
    actual = adapters.run_embedding(vocab_size=VOCAB_SIZE, d_model=D_MODEL, weights=table, token_ids=ids)
    assert_close(
        actual, rope_model["outputs"]["embedding"], atol=atol, hint="row i of the table is the vector of token i"
    )


@DEEP
def test_rmsnorm(adapters, rope_model, atol):
    gain = layer_weights(rope_model)["ln1.weight"]
    actual = adapters.run_rmsnorm(d_model=D_MODEL, eps=1e-5, weights=gain, in_features=rope_model["inputs"]["x"])
    assert_close(actual, rope_model["outputs"]["rmsnorm"], atol=atol, hint="x g / sqrt(mean(x^2) + eps)")


def test_rmsnorm_eps_is_inside_the_root(adapters):
    """With x = 0.001 and eps = 1e-5 the place of eps decides the first digit."""
    x = torch.full((1, 4), 1e-3)
    actual = adapters.run_rmsnorm(d_model=4, eps=1e-5, weights=torch.ones(4), in_features=x)
    assert_close(actual, x / math.sqrt(1e-6 + 1e-5), atol=1e-5, hint="eps is added to mean(x^2) under the root")


def test_rmsnorm_computes_in_float32(adapters):
    """x = 300 squares to 90000, beyond float16; the result returns in float16."""
    x = torch.full((2, 8), 300.0, dtype=torch.float16)
    actual = adapters.run_rmsnorm(d_model=8, eps=1e-5, weights=torch.ones(8), in_features=x)
    assert_close(actual, torch.ones(2, 8), atol=1e-3, hint="upcast to float32 before squaring")
    assert actual.dtype == torch.float16, f"return the dtype of the input, float16; got {actual.dtype}"


@SINGLE
def test_swiglu(adapters, rope_model, atol):
    ffn = {f"{n}_weight": layer_weights(rope_model, "layers.0.ffn.")[f"{n}.weight"] for n in ("w1", "w2", "w3")}
    actual = adapters.run_swiglu(d_model=D_MODEL, d_ff=D_FF, **ffn, in_features=rope_model["inputs"]["x"])
    hint = "W2 (SiLU(W1 x) * W3 x): the activation belongs to W1, W3 is the linear gate"
    assert_close(actual, rope_model["outputs"]["feedforward"], atol=3 * atol, hint=hint)


@SINGLE
def test_silu(adapters, atol):
    x = torch.tensor([-100.0, -20.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 20.0, 100.0])
    expected = [value / (1 + math.exp(-value)) for value in x.tolist()]
    assert_close(adapters.run_silu(x), expected, atol=atol, hint="x * sigmoid(x), without overflow at -100")


@SINGLE
def test_scaled_dot_product_attention(adapters, rope_model, device, atol):
    q, k, v, mask = (rope_model["inputs"][name].to(device) for name in ("q", "k", "v", "mask"))
    actual = adapters.run_scaled_dot_product_attention(Q=q, K=k, V=v, mask=mask)
    if is_close(actual, adapters.run_scaled_dot_product_attention(Q=q, K=k, V=v, mask=None)):
        pytest.fail("the mask has no effect")
    hint = "softmax(Q K^T / sqrt(d_k)) V; mask True = this query may attend to this key"
    assert_close(actual, rope_model["outputs"]["attention"], atol=atol, hint=hint)


@SINGLE
def test_4d_scaled_dot_product_attention(adapters, rope_model, device, atol):
    """(batch, head, seq, d): any number of leading axes."""
    inputs = {name: value.to(device) for name, value in rope_model["inputs"].items()}
    q, k, v = (torch.stack(inputs[name].chunk(2, dim=-1), dim=1) for name in "qkv")
    mask = inputs["mask"][:, None].expand(-1, 2, -1, -1)
    actual = adapters.run_scaled_dot_product_attention(Q=q, K=k, V=v, mask=mask)
    assert_close(actual, rope_model["outputs"]["attention_4d"], atol=atol, hint="all leading axes are batch axes")


def test_scaled_dot_product_attention_without_mask(adapters, device):
    """Equal keys: the mean of the values."""
    q, k = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 5, 4)
    v = torch.arange(10.0).reshape(2, 5, 1)
    actual = adapters.run_scaled_dot_product_attention(Q=q.to(device), K=k.to(device), V=v.to(device))
    assert_close(actual, v.mean(dim=1, keepdim=True).expand(2, 3, 1), atol=1e-5, hint="mask None attends to every key")


def test_scaled_dot_product_attention_fully_masked_rows_are_zero(adapters, device):
    q, k, v = (torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(i)).to(device) for i in range(3))
    mask = torch.tensor([[True, False, False], [False, False, False], [True, True, True]], device=device)
    actual = adapters.run_scaled_dot_product_attention(Q=q, K=k, V=v, mask=mask)
    assert_close(actual[:, 1], torch.zeros(1, 4), atol=0, hint="a query that may attend to nothing gets zeros, not NaN")
    assert_close(actual[:, 0], v[:, 0], atol=1e-6, hint="a query that may attend to one key gets its value")


@SINGLE
def test_rope(adapters, rope_model, atol):
    x, positions = rope_model["inputs"]["x"], torch.arange(QUERIES)
    actual = adapters.run_rope(
        d_k=D_MODEL, theta=THETA, max_seq_len=CONTEXT_LENGTH, in_query_or_key=x, token_positions=positions
    )
    assert_close(actual, rope_model["outputs"]["rope"], atol=atol, hint=ROPE_HINT)


def test_rope_pairs_are_interleaved(adapters):
    """The unit vector x0 at position 1 turns towards x1; towards x2 would be the half-split convention."""
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    actual = adapters.run_rope(
        d_k=4, theta=10000.0, max_seq_len=4, in_query_or_key=x, token_positions=torch.tensor([1])
    )
    if is_close(actual, [[math.cos(1), 0.0, math.sin(1), 0.0]]):
        pytest.fail(f"this is the half-split convention. {ROPE_HINT}")
    assert_close(actual, [[math.cos(1), math.sin(1), 0.0, 0.0]], atol=1e-6, hint=ROPE_HINT)


def test_rope_starts_at_position_zero(adapters):
    x = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(3))
    actual = adapters.run_rope(d_k=8, theta=100.0, max_seq_len=4, in_query_or_key=x, token_positions=torch.tensor([0]))
    assert_close(actual, x, atol=1e-7, hint="position 0 is not turned at all")


@pytest.mark.parametrize("leading", [(), (1,), (2,)], ids=["seq", "1_seq", "batch_seq"])
def test_rope_positions_broadcast(adapters, rope_model, leading):
    """Positions (seq,), (1, seq) and (batch, seq) for x (batch, seq, d); any order of positions."""
    order = torch.tensor([7, 3, 0, 11, 1, 2, 9, 4, 5, 6, 8, 10])
    x, expected = (rope_model[group][name][:2, order] for group, name in (("inputs", "x"), ("outputs", "rope")))
    actual = adapters.run_rope(
        d_k=D_MODEL,
        theta=THETA,
        max_seq_len=CONTEXT_LENGTH,
        in_query_or_key=x,
        token_positions=order.expand(*leading, QUERIES),
    )
    assert_close(actual, expected, atol=1e-5, hint="row t is turned by token_positions[..., t]")


@SINGLE
def test_multihead_self_attention(adapters, rope_model, atol):
    actual = adapters.run_multihead_self_attention(
        d_model=D_MODEL, num_heads=NUM_HEADS, **projections(rope_model), in_features=rope_model["inputs"]["x"]
    )
    hint = (
        "causal, no RoPE; head n owns rows n d_k .. (n+1) d_k of the projections; scale by sqrt(d_k), not sqrt(d_model)"
    )
    assert_close(actual, rope_model["outputs"]["self_attention"], atol=atol, hint=hint)


@SINGLE
@pytest.mark.parametrize(
    "positions", [None, torch.arange(QUERIES), torch.arange(QUERIES)[None]], ids=["none", "t", "1_t"]
)
def test_multihead_self_attention_with_rope(adapters, rope_model, positions, atol):
    actual = adapters.run_multihead_self_attention_with_rope(
        d_model=D_MODEL,
        num_heads=NUM_HEADS,
        max_seq_len=CONTEXT_LENGTH,
        theta=THETA,
        **projections(rope_model),
        in_features=rope_model["inputs"]["x"],
        token_positions=positions,
    )
    hint = f"RoPE of width d_model / num_heads on queries and keys, not values; positions None = 0, 1, ... {ROPE_HINT}"
    assert_close(actual, rope_model["outputs"]["self_attention_rope"], atol=2 * atol, hint=hint)


@DEEP
def test_transformer_block(adapters, rope_model, atol):
    actual = adapters.run_transformer_block(
        d_model=D_MODEL,
        num_heads=NUM_HEADS,
        d_ff=D_FF,
        max_seq_len=CONTEXT_LENGTH,
        theta=THETA,
        weights=layer_weights(rope_model),
        in_features=rope_model["inputs"]["x"],
    )
    hint = "pre-norm: y = x + attention(ln1 x), then y + ffn(ln2 y); RMSNorm eps 1e-5"
    assert_close(actual, rope_model["outputs"]["block"], atol=atol, hint=hint)


def test_transformer_lm(adapters, rope_model):
    actual = run_lm(adapters, rope_model, rope_model["inputs"]["ids"])
    hint = "embedding, blocks, ln_final, lm_head; return logits, no softmax; the embedding is not tied and not scaled"
    assert_close(actual, rope_model["outputs"]["lm"], atol=1e-4, rtol=1e-3, hint=hint)


@pytest.mark.parametrize("length", [1, 6, CONTEXT_LENGTH - 1])
def test_transformer_lm_truncated_input(adapters, rope_model, length):
    """Fewer tokens than context_length; a causal model gives the same logits for a prefix."""
    actual = run_lm(adapters, rope_model, rope_model["inputs"]["ids"][:, :length])
    hint = "the causal mask and the positions follow the length of the input, not context_length"
    assert_close(actual, rope_model["outputs"]["lm"][:, :length], atol=1e-4, rtol=1e-3, hint=hint)


@pytest.mark.parametrize("position", [0, 7, CONTEXT_LENGTH - 1])
def test_transformer_lm_is_causal(adapters, rope_model, position):
    """Another token at one position must change its own logits and may change later ones only."""
    ids = rope_model["inputs"]["ids"]
    changed = ids.clone()
    changed[:, position] = (changed[:, position] + 1) % VOCAB_SIZE
    difference = (run_lm(adapters, rope_model, ids) - run_lm(adapters, rope_model, changed)).abs().amax(dim=(0, 2))
    assert difference[position] > 1e-3, f"the logits at position {position} do not see the token there"
    assert (difference[:position] < 1e-5).all(), (
        f"positions before {position} see a later token: the mask is not causal"
    )


def test_transformer_lm_rows_of_a_batch_are_independent(adapters, rope_model):
    ids = rope_model["inputs"]["ids"]
    alone = torch.cat([run_lm(adapters, rope_model, row[None]) for row in ids])
    assert alone.shape == (BATCH, CONTEXT_LENGTH, VOCAB_SIZE)
    assert_close(run_lm(adapters, rope_model, ids), alone, atol=1e-5, hint="no mixing over the batch axis")


@pytest.mark.parametrize("change", ["missing", "additional"])
def test_transformer_lm_state_dict_is_strict(adapters, rope_model, change):
    """The model owns exactly the keys of the handout, so RoPE tables are non-persistent buffers."""
    weights = dict(rope_model["weights"])
    if change == "missing":
        del weights["ln_final.weight"]
    else:
        weights["layers.0.attn.extra.weight"] = torch.ones(1)
    with pytest.raises((RuntimeError, KeyError, ValueError, AssertionError)) as refusal:
        run_lm(adapters, rope_model, rope_model["inputs"]["ids"], weights)
        pytest.fail(f"a state dict with a {change} key was accepted; load weights with load_state_dict(strict=True)")
    assert_implemented(refusal.value)


# Signatures of 2024.


@pytest.mark.edition2024
def test_gelu(adapters):
    """Against math.erf; the tanh approximation differs by up to 5e-4."""
    x = torch.linspace(-6, 6, 97)
    expected = [0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x.tolist()]
    assert_close(adapters.run_gelu(x), expected, atol=1e-6, hint="the exact form with erf, not the tanh approximation")


@pytest.mark.edition2024
def test_positionwise_feedforward(adapters, learned_model):
    actual = adapters.run_positionwise_feedforward(
        d_model=D_MODEL,
        d_ff=D_FF,
        weights=layer_weights(learned_model, "layers.0.ffn."),
        in_features=learned_model["inputs"]["x"],
    )
    assert_close(actual, learned_model["outputs"]["feedforward"], atol=3e-6, hint="W2 GELU(W1 x), no bias")


@pytest.mark.edition2024
def test_rmsnorm_2024(adapters, learned_model):
    weights = {"weight": layer_weights(learned_model)["ln1.weight"]}
    actual = adapters.run_rmsnorm(d_model=D_MODEL, eps=1e-5, weights=weights, in_features=learned_model["inputs"]["x"])
    assert_close(actual, learned_model["outputs"]["rmsnorm"], atol=1e-6, hint="2024 passes a dict with the key weight")


@pytest.mark.edition2024
@pytest.mark.parametrize("pdrop", [0.0, None])
def test_scaled_dot_product_attention_2024(adapters, rope_model, pdrop):
    """The keyword pdrop marks 2024, where mask True means: may NOT attend."""
    q, k, v, mask = (rope_model["inputs"][name] for name in ("q", "k", "v", "mask"))
    actual = adapters.run_scaled_dot_product_attention(K=k, Q=q, V=v, mask=~mask, pdrop=pdrop)
    hint = "edition 2024: mask True = masked out, the opposite of 2025 and 2026"
    assert_close(actual, rope_model["outputs"]["attention"], atol=1e-6, hint=hint)


@pytest.mark.edition2024
def test_multihead_self_attention_2024(adapters, learned_model):
    d_head = D_MODEL // NUM_HEADS
    attention = layer_weights(learned_model, "layers.0.attn.")
    weights = {
        f"{x}_heads.{n}.weight": attention[f"{x}_proj.weight"][n * d_head : (n + 1) * d_head]
        for x in "qkv"
        for n in range(NUM_HEADS)
    }
    actual = adapters.run_multihead_self_attention(
        d_model=D_MODEL,
        num_heads=NUM_HEADS,
        attn_pdrop=0.0,
        weights=weights | {"output_proj.weight": attention["output_proj.weight"]},
        in_features=learned_model["inputs"]["x"],
    )
    assert_close(actual, learned_model["outputs"]["self_attention"], atol=1e-6, hint="heads in order, causal, no RoPE")


@pytest.mark.edition2024
def test_transformer_block_2024(adapters, learned_model):
    actual = adapters.run_transformer_block(
        d_model=D_MODEL,
        num_heads=NUM_HEADS,
        d_ff=D_FF,
        attn_pdrop=0.0,
        residual_pdrop=0.0,
        weights=layer_weights(learned_model),
        in_features=learned_model["inputs"]["x"],
    )
    assert_close(actual, learned_model["outputs"]["block"], atol=3e-6, hint="pre-norm block with GELU and no positions")


@pytest.mark.edition2024
@pytest.mark.parametrize("length", [CONTEXT_LENGTH, 6])
def test_transformer_lm_2024(adapters, learned_model, length):
    actual = adapters.run_transformer_lm(
        vocab_size=VOCAB_SIZE,
        context_length=CONTEXT_LENGTH,
        d_model=D_MODEL,
        num_layers=NUM_LAYERS["model_learned"],
        num_heads=NUM_HEADS,
        d_ff=D_FF,
        attn_pdrop=0.0,
        residual_pdrop=0.0,
        weights=learned_model["weights"],
        in_indices=learned_model["inputs"]["ids"][:, :length],
    )
    hint = "learned position embeddings are added to the token embeddings; GELU; the head equals the embedding"
    assert_close(actual, learned_model["outputs"]["lm"][:, :length], atol=1e-4, rtol=1e-3, hint=hint)
