"""FlashAttention in PyTorch and Triton against torch in float64; several tiles each way, made small for the purpose."""

from __future__ import annotations

import math

import pytest
import torch

from cs336_basics import model
from cs336_systems.kernels import flash_attention, flash_attention_triton
from cs336_systems.kernels.flash_attention import FlashAttentionPyTorch, attention_reference, flash_causal_attention
from cs336_systems.kernels.flash_attention_triton import FlashAttentionTriton, FlashAttentionTritonOnePass, Tiles

from kernel_oracle import assert_matches, expanded, randn, transposed  # isort: skip

FUNCTIONS = [FlashAttentionPyTorch, FlashAttentionTriton, FlashAttentionTritonOnePass]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of 16 and 32, so that small problems have full, diagonal and ragged ones; each the larger one somewhere."""
    sizes = {"forward": Tiles(32, 16, 4, 1), "keys": Tiles(16, 32, 4, 1), "one pass": Tiles(32, 16, 4, 1)}
    monkeypatch.setattr(flash_attention_triton, "tile_sizes", lambda name, d, e: sizes.get(name, Tiles(16, 32, 4, 1)))
    monkeypatch.setattr(flash_attention, "QUERY_TILE", 16)
    monkeypatch.setattr(flash_attention, "KEY_TILE", 32)


def formula(q, k, v, is_causal):
    """torch only; query i of n sees the keys up to keys - n + i, query head h reads key head h // group."""
    if q.ndim == 4:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    n, m = q.shape[-2], k.shape[-2]
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if is_causal:
        scores = scores.masked_fill(torch.arange(m)[None, :] > torch.arange(n)[:, None] + m - n, -math.inf)
    return torch.softmax(scores, dim=-1) @ v, torch.logsumexp(scores, dim=-1)


def device_for(function, request) -> str:
    return "cpu" if function is FlashAttentionPyTorch else request.getfixturevalue("kernel_device")


def inputs(shape_q, shape_k, scale=1.0):
    return [randn(*shape_q, seed=0, scale=scale), randn(*shape_k, seed=1), randn(*shape_k, seed=2)]


def assert_same(function, tensors, is_causal, device, tolerance=1e-5, grads=None):
    assert_matches(
        lambda q, k, v: function.apply(q, k, v, is_causal), lambda q, k, v: formula(q, k, v, is_causal)[0], tensors,
        device=device, tolerance=tolerance, grads=grads,
    )  # fmt: skip


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shapes", [((2, 40, 16), (2, 40, 16)), ((1, 4, 35, 20), (1, 2, 53, 20))], ids=str)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_against_float64(function, shapes, is_causal, request):
    """Equal lengths without heads; ragged lengths, grouped queries and a head dimension that is no power of two."""
    assert_same(function, inputs(*shapes), is_causal, device_for(function, request))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_tiles_that_fit_exactly(function, request):
    assert_same(function, inputs((1, 64, 16), (1, 64, 16)), True, device_for(function, request))


@pytest.mark.parametrize("d", [1, 64, 128])
def test_head_dimensions(d, kernel_device):
    assert_same(FlashAttentionTriton, inputs((1, 5, d), (1, 5, d)), True, kernel_device)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_query_sees_all_keys(function, request):
    assert_same(function, inputs((2, 1, 16), (2, 33, 16)), True, device_for(function, request))


@pytest.mark.parametrize("scale", [1e-4, 100.0])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_small_and_large_scores(function, scale, request):
    """At 100 the logsumexp of some rows is below -100: padding must not turn into exp(+100)."""
    tensors = inputs((1, 20, 16), (1, 37, 16), scale)
    assert_same(function, tensors, True, device_for(function, request), tolerance=5e-4 if scale > 1 else 1e-5)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # NumPy's, in the interpreter; masked right after
@pytest.mark.parametrize("function", FUNCTIONS)
def test_scores_far_below_zero(function, request):
    """All scores near -300: a padded key with score 0 would have P = exp(300)."""
    q, k, v = inputs((1, 20, 16), (1, 37, 16))
    q, k = q.abs() + 8, -(k.abs() + 8)
    assert_same(function, [q, k, v], False, device_for(function, request), tolerance=5e-4)


@pytest.mark.parametrize("grads", [expanded, transposed])
def test_incoming_gradients_that_are_not_contiguous(grads, kernel_device):
    assert_same(FlashAttentionTriton, inputs((1, 20, 16), (1, 20, 16)), True, kernel_device, grads=grads)


def test_inputs_as_the_model_passes_them(kernel_device):
    """(batch, tokens, heads, d) with two axes swapped, and columns that are not dense."""
    tensors = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs((2, 2, 20, 16), (2, 2, 20, 16))]
    assert not tensors[0].is_contiguous()
    assert_same(FlashAttentionTriton, tensors, True, kernel_device)
    assert_same(FlashAttentionTriton, [transposed(x) for x in tensors], True, kernel_device)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_saved_tensor_is_the_logsumexp(function, request):
    device = device_for(function, request)
    tensors = inputs((2, 20, 16), (2, 20, 16))
    out = function.apply(*(x.to(device).requires_grad_() for x in tensors), True)
    found = [t for t in out.grad_fn.saved_tensors if t.shape == (2, 20)]
    assert len(found) == 1
    torch.testing.assert_close(found[0].cpu().double(), formula(*(x.double() for x in tensors), True)[1])


def test_reference_in_float64():
    tensors = [x.double() for x in inputs((1, 4, 7, 8), (1, 2, 9, 8))]
    for actual, expected in zip(attention_reference(*tensors, True), formula(*tensors, True), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces an autograd.Function
def test_under_torch_compile(kernel_device):
    compiled = torch.compile(FlashAttentionTriton.apply, backend="aot_eager", fullgraph=True)
    tensors = inputs((1, 20, 16), (1, 20, 16))
    assert_matches(
        lambda q, k, v: compiled(q, k, v, True), lambda q, k, v: formula(q, k, v, True)[0], tensors,
        device=kernel_device,
    )  # fmt: skip


@pytest.mark.parametrize("leading", [(), (3,), (2, 1, 2)])
def test_the_models_attention(leading, kernel_device):
    """The registered function takes any leading axes; the oracle is the model's plain attention in float64."""
    assert model.ATTENTION_FUNCTIONS["flash"] is flash_causal_attention
    tensors = inputs((*leading, 9, 16), (*leading, 12, 16))
    assert_matches(flash_causal_attention, model.causal_attention, tensors, device=kernel_device)


def test_a_model_with_flash_attention(kernel_device):
    config = {"vocab_size": 11, "context_length": 12, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16}
    flash = model.TransformerLM(model.ModelConfig(**config, attention="flash"), device=kernel_device)
    plain = model.TransformerLM(model.ModelConfig(**config))
    plain.load_state_dict(flash.state_dict())
    ids = torch.arange(11).reshape(1, 11)
    torch.testing.assert_close(flash(ids.to(kernel_device)).cpu(), plain(ids), rtol=1e-4, atol=1e-5)


def test_wrong_arguments_are_named(kernel_device):
    q = torch.zeros(1, 4, 16, device=kernel_device)
    with pytest.raises(ValueError, match="no dropout; got attn_pdrop=0.1"):
        flash_causal_attention(q, q, q, 0.1)
    with pytest.raises(ValueError, match="at most as many as keys"):
        FlashAttentionTriton.apply(q, q[:, :2], q[:, :2], True)
    with pytest.raises(ValueError, match="head dimensions up to 128; got 129"):
        wide = torch.zeros(1, 4, 129, device=kernel_device)
        FlashAttentionTriton.apply(wide, wide, wide)
    with pytest.raises(ValueError, match="multiple of the number of key heads"):
        FlashAttentionPyTorch.apply(torch.zeros(1, 3, 4, 8), torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8))
    with pytest.raises(ValueError, match="at least one key"):
        FlashAttentionPyTorch.apply(q.cpu(), torch.zeros(1, 0, 16), torch.zeros(1, 0, 16))
    with pytest.raises(ValueError, match="one dtype"):
        FlashAttentionPyTorch.apply(q.cpu(), q.cpu().half(), q.cpu().half())


@pytest.mark.gpu
@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS[1:])
def test_bfloat16_on_the_gpu(function, is_causal, d, monkeypatch, request):
    """With the real tiles, at lengths that are no multiple of them."""
    monkeypatch.undo()
    tensors = [x.bfloat16() for x in inputs((1, 4, 515, d), (1, 2, 700, d))]
    assert_same(function, tensors, is_causal, "cuda", tolerance=3e-2, grads=lambda g: g.bfloat16())
