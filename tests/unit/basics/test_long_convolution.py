"""Long convolution against direct sums, the Hyena block against its definition, decoding against the whole."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from cs336_basics.variants.long_convolution import (
    HyenaMixer,
    ImplicitFilter,
    LongConvolutionConfig,
    convolution_step,
    fft_convolution,
)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def direct(x: Tensor, filters: Tensor) -> Tensor:
    rows = [sum(filters[t - s] * x[:, s] for s in range(t + 1)) for t in range(x.shape[1])]
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("seq", [1, 2, 3, 7, 8, 9, 33])
def test_fft_and_step_and_gradients_against_the_direct_sum(seq: int) -> None:
    at = [random(2, seq, 3).requires_grad_(), random(seq, 3, seed=1).requires_grad_()]
    actual, expected, incoming = fft_convolution(*at), direct(*at), random(2, seq, 3, seed=2)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(convolution_step(*at), expected[:, -1], rtol=1e-11, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(actual, at, incoming), torch.autograd.grad(expected, at, incoming), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_nothing_wraps_round() -> None:
    """A spike at the last position under a filter without decay: a circular convolution would show it at the start."""
    x = torch.zeros(1, 8, 1).double()
    x[0, -1] = 1000.0
    y = fft_convolution(x, torch.ones(8, 1).double())
    torch.testing.assert_close(y[0, :, 0], torch.tensor([0.0] * 7 + [1000.0]).double(), rtol=1e-12, atol=1e-10)


def mixer(max_seq_len: int = 20, d_model: int = 4, dtype: torch.dtype = torch.float64, **config: int) -> HyenaMixer:
    torch.manual_seed(0)
    return HyenaMixer(d_model, max_seq_len, LongConvolutionConfig(**{"filter_dim": 8, **config}), dtype=dtype)


def test_the_filter_against_its_formula() -> None:
    torch.manual_seed(1)
    implicit, length = ImplicitFilter(3, 50, 8, dtype=torch.float64), 50
    decays = [math.log(100) / tail for tail in (0.3, 0.9, 1.5)]
    expected = torch.zeros(length, 3).double()
    for t in range(length):
        x = [t / length]
        x += [math.cos(2 * math.pi * k * t / length) for k in range(1, 9)]
        x += [math.sin(2 * math.pi * k * t / length) for k in range(1, 9)]
        hidden = torch.sin(10 * implicit.input_proj.weight @ torch.tensor(x, dtype=torch.float64) + implicit.phases[0])
        hidden = torch.sin(10 * implicit.hidden_proj.weight @ hidden + implicit.phases[1])
        for channel, value in enumerate(implicit.output_proj.weight @ hidden):
            energy = sum(math.exp(-2 * decays[channel] * s / length) for s in range(length))
            expected[t, channel] = value * math.exp(-decays[channel] * t / length) / math.sqrt(energy)
    torch.testing.assert_close(implicit(length), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(implicit(7), expected[:7], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_block_against_its_definition(order: int) -> None:
    block, x = mixer(order=order), random(2, 9, 4)
    wide = torch.nn.functional.pad(x @ block.in_proj.weight.T, (0, 0, 2, 0))
    mixed = torch.stack(
        [
            sum(block.conv.weight[:, k] * wide[:, t + k] for k in range(3)) + block.conv.bias
            for t in range(9)
        ],
        dim=1,
    )  # fmt: skip
    z, filters = mixed[..., :4], block.filter(9)
    for n in range(order):
        long = direct(z, filters[:, 4 * n : 4 * n + 4])
        z = mixed[..., 4 * (n + 1) : 4 * (n + 2)] * (long + block.skip[n] * z)
    torch.testing.assert_close(block(x), z @ block.out_proj.weight.T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pieces", [[1] * 20, [20], [7, 1, 1, 9, 2], [1, 19], [2, 2, 16]])
@pytest.mark.parametrize("order", [1, 2])
@torch.no_grad()
def test_decoding_in_pieces_equals_the_whole(pieces: list[int], order: int) -> None:
    block, x = mixer(order=order), random(2, 20, 4)
    cache = block.new_cache(2, 20)
    y = torch.cat([block(piece, None, cache) for piece in x.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(y, block(x), rtol=1e-10, atol=1e-12)
    assert cache.length == 20


def test_leading_axes() -> None:
    block, x = mixer(), random(2, 3, 9, 4)
    expected = torch.stack([block(batch) for batch in x])
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(block(x[0, 0]), expected[0, 0], rtol=1e-10, atol=1e-12)


def test_nothing_comes_from_the_future_and_something_from_the_past() -> None:
    block, x = mixer(), random(1, 20, 4)
    y = block(x)
    for t in (0, 1, 10, 19):
        changed = x.clone()
        changed[:, t] += 1.0
        difference = (block(changed) - y).abs().amax(dim=(0, 2))
        assert difference[:t].sum() < 1e-12  # an FFT rounds everywhere
        assert difference[t:].min() > 1e-9


def test_all_weights_get_the_gradient_of_finite_differences() -> None:
    block, x = mixer(d_model=2), random(1, 5, 2)
    weights = dict(block.named_parameters())

    def output(*values: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(weights, values, strict=True)), (x,))

    assert gradcheck(output, [p.detach().requires_grad_() for p in weights.values()], fast_mode=True)


def test_a_filter_does_not_depend_on_how_much_of_it_is_used() -> None:
    block, x = mixer(), random(2, 20, 4)
    torch.testing.assert_close(block(x[:, :6]), block(x)[:, :6], rtol=1e-10, atol=1e-12)


def test_the_number_of_weights_does_not_grow_with_the_length() -> None:
    count = [sum(p.numel() for p in mixer(length).parameters()) for length in (10, 10_000)]
    assert count[0] == count[1]


def test_long_inputs_stay_finite_and_exact() -> None:
    """2048 tokens in float32 near float64, and output as large as the input, not growing with the length."""
    wide, narrow = mixer(2048, d_model=16), mixer(2048, d_model=16, dtype=torch.float32)
    narrow.load_state_dict(wide.state_dict())
    x = random(1, 2048, 16)
    small = x.float().requires_grad_()
    expected, actual = wide(x), narrow(small)
    assert ((actual.double() - expected).norm() / expected.norm()).item() < 1e-4
    assert 0.3 < (expected[:, 1500:].std() / expected[:, :100].std()).item() < 3
    actual.square().mean().backward()
    assert torch.isfinite(small.grad).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_runs_near_float64(autocast: bool) -> None:
    wide, x = mixer(100, d_model=32), random(2, 100, 32)
    block = mixer(100, d_model=32, dtype=torch.float32 if autocast else torch.bfloat16)
    block.load_state_dict(wide.state_dict())
    wide.load_state_dict(block.state_dict())  # the rounded weights: a steep sine magnifies the rounding of a phase
    x = x.bfloat16().double()
    inputs = x.float() if autocast else x.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = block(inputs)
        with torch.no_grad():
            cache = block.new_cache(2, 100)
            decoded = torch.cat([block(piece, None, cache) for piece in inputs.split([64, 1, 35], dim=1)], dim=1)
    assert y.dtype == torch.bfloat16
    expected = wide(x)
    for actual in (y, decoded):
        assert ((actual.double() - expected).norm() / expected.norm()).item() < 3e-2
    y.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters())


def test_too_long_inputs_are_refused() -> None:
    block = mixer(max_seq_len=20)
    with pytest.raises(ValueError, match="max_seq_len=20 taps; got 21 tokens"):
        block(random(1, 21, 4))
    with pytest.raises(ValueError, match="max_seq_len=20 taps; got 21 tokens"):
        block.new_cache(1, 21)
    with torch.no_grad():
        cache = block.new_cache(1, 10)
        block(random(1, 8, 4), None, cache)
        with pytest.raises(ValueError, match="the cache holds 10 tokens; got 11"):
            block(random(1, 3, 4), None, cache)


@pytest.mark.parametrize("field", ["order", "filter_dim"])
def test_bad_configurations(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1; got 0"):
        LongConvolutionConfig(**{field: 0})


def test_a_filter_without_taps_is_refused() -> None:
    with pytest.raises(ValueError, match="max_seq_len must be at least 1; got 0"):
        mixer(max_seq_len=0)
