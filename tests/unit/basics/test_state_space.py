"""Selective state space: scan against loop and convolution, block against a per-token loop and transformers' Mamba."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from cs336_basics.variants import state_space
from cs336_basics.variants.short_convolution import ShortConvolution
from cs336_basics.variants.state_space import (
    SelectiveStateSpace,
    StateSpaceConfig,
    linear_scan,
    selective_scan,
    selective_step,
)

LENGTHS = [1, 2, 3, 5, 8, 13, 31, 64, 100]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def scan_by_loop(a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    states = []
    for t in range(b.shape[1]):
        initial = a[:, t] * initial + b[:, t]
        states.append(initial)
    return torch.stack(states, dim=1)


@pytest.mark.parametrize("seq", LENGTHS)
def test_scan_and_gradients_against_the_loop(seq: int) -> None:
    at = [random(2, seq, 3, 2).sigmoid(), random(2, seq, 3, 2, seed=1), random(2, 3, 2, seed=2)]
    at = [x.detach().requires_grad_() for x in at]
    before = [x.detach().clone() for x in at]
    actual, expected, incoming = linear_scan(*at), scan_by_loop(*at), random(2, seq, 3, 2, seed=3)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)
    mine = torch.autograd.grad(actual, at, incoming)
    theirs = torch.autograd.grad(expected, at, incoming)
    for a, b, name in zip(mine, theirs, ("a", "b", "initial"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
    assert all(torch.equal(x, y) for x, y in zip(at, before, strict=True))


def test_scan_against_finite_differences() -> None:
    at = [random(1, 5, 2).sigmoid(), random(1, 5, 2, seed=1), random(1, 2, seed=2)]
    assert gradcheck(linear_scan, [x.requires_grad_() for x in at])


def test_scan_with_decays_that_vanish_or_grow() -> None:
    """Zeros (the state is dropped) and numbers above one: nothing is divided by a decay."""
    a = torch.tensor([0.0, 1e-300, 1.5, 1.0, 0.0, 2.0, 1.0]).double()[None, :, None]
    b, initial = random(1, 7, 1), random(1, 1, seed=1)
    torch.testing.assert_close(linear_scan(a, b, initial), scan_by_loop(a, b, initial), rtol=1e-13, atol=0)


def scan_inputs(seq: int) -> dict[str, Tensor]:
    return {
        "u": random(2, seq, 3), "delta": random(2, seq, 3, seed=1).exp(), "A": -random(3, 4, seed=2).exp(),
        "B": random(2, seq, 4, seed=3), "C": random(2, seq, 4, seed=4), "initial": random(2, 3, 4, seed=5),
    }  # fmt: skip


def selective_by_loop(u, delta, A, B, C, initial) -> Tensor:
    """y by the two lines of the definition, one token, channel and state at a time."""
    y = torch.zeros_like(u)
    for b in range(u.shape[0]):
        for d in range(u.shape[2]):
            h = initial[b, d].tolist()
            for t in range(u.shape[1]):
                step = float(delta[b, t, d])
                for n in range(A.shape[1]):
                    h[n] = math.exp(step * float(A[d, n])) * h[n] + step * float(B[b, t, n]) * float(u[b, t, d])
                    y[b, t, d] += float(C[b, t, n]) * h[n]
    return y


@pytest.mark.parametrize("seq", [1, 6, 7, 20])
@pytest.mark.parametrize("block", [1, 7, 64])
def test_selective_scan_and_step_against_the_definition(monkeypatch, seq: int, block: int) -> None:
    monkeypatch.setattr(state_space, "BLOCK", block)
    inputs = scan_inputs(seq)
    expected = selective_by_loop(**inputs)
    y, last = selective_scan(**inputs)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    state, outputs = inputs["initial"], []
    for t in range(seq):
        now = {name: inputs[name][:, t] for name in ("u", "delta", "B", "C")}
        output, state = selective_step(**now, A=inputs["A"], initial=state)
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs, dim=1), expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(last, state, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("block", [2, 3, 64])
def test_selective_scan_against_finite_differences(monkeypatch, block: int) -> None:
    monkeypatch.setattr(state_space, "BLOCK", block)
    inputs = scan_inputs(5)
    names = list(inputs)
    assert gradcheck(
        lambda *at: selective_scan(**dict(zip(names, at, strict=True))), [x.requires_grad_() for x in inputs.values()]
    )


def test_with_constant_parameters_the_scan_is_a_convolution() -> None:
    seq, u = 150, random(2, 150, 3)
    delta, A, B, C = random(3, seed=1).exp(), -random(3, 4, seed=2).exp(), random(4, seed=3), random(4, seed=4)
    lag = torch.arange(seq)[:, None, None]
    kernel = (C * torch.exp(lag * delta[:, None] * A) * delta[:, None] * B).sum(dim=-1)  # (seq, 3)
    expected = torch.zeros_like(u)
    for t in range(seq):
        for s in range(t + 1):
            expected[:, t] += kernel[t - s] * u[:, s]
    everywhere = {"delta": delta.expand(2, seq, 3), "B": B.expand(2, seq, 4), "C": C.expand(2, seq, 4)}
    y, _ = selective_scan(u, **everywhere, A=A, initial=torch.zeros(2, 3, 4).double())
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_short_convolution_against_torch(width: int) -> None:
    torch.manual_seed(0)
    ours, x = ShortConvolution(5, width, dtype=torch.float64), random(2, 9, 5)
    theirs = nn.Conv1d(5, 5, width, groups=5, padding=width - 1, dtype=torch.float64)
    theirs.load_state_dict({"weight": ours.weight[:, None], "bias": ours.bias})
    y, tail = ours(x, ours.new_tail(2))
    torch.testing.assert_close(y, theirs(x.mT)[..., :9].mT)
    assert torch.equal(tail, x[:, 9 - width + 1 :])


def mixer(seed: int = 0, d_model: int = 6, dtype: torch.dtype = torch.float64, **config: int) -> SelectiveStateSpace:
    torch.manual_seed(seed)
    block = SelectiveStateSpace(d_model, StateSpaceConfig(**config), dtype=dtype)
    block.delta_bias.data += 4.0  # steps near 1: a state that turns over within these short sequences
    return block


def test_the_block_against_its_definition_token_by_token() -> None:
    block, x = mixer(d_state=3, expand=2, d_conv=3), random(2, 8, 6)
    d, y = 12, torch.zeros(2, 8, 6).double()
    for b in range(2):
        h, past = torch.zeros(d, 3).double(), [torch.zeros(d).double()] * 2
        for t in range(8):
            wide = block.in_proj.weight @ x[b, t]
            past.append(wide[:d])
            u = sum(block.conv.weight[:, k] * past[-3 + k] for k in range(3)) + block.conv.bias
            u, z = u / (1 + torch.exp(-u)), wide[d:] / (1 + torch.exp(-wide[d:]))
            low, B, C = (block.x_proj.weight @ u).split([1, 3, 3])
            delta = torch.log(1 + torch.exp(block.delta_proj.weight @ low + block.delta_bias))
            h = torch.exp(-delta[:, None] * torch.exp(block.A_log)) * h + (delta * u)[:, None] * B
            y[b, t] = block.out_proj.weight @ ((h @ C + block.D * u) * z)
    torch.testing.assert_close(block(x), y, rtol=1e-10, atol=1e-12)


def test_transformers_mamba_with_the_same_weights() -> None:
    mamba = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    config = pytest.importorskip("transformers").MambaConfig(
        hidden_size=32, state_size=4, expand=2, conv_kernel=3, num_hidden_layers=1
    )
    theirs, ours = mamba.MambaMixer(config, 0).eval(), mixer(d_model=32, dtype=torch.float32, d_state=4, d_conv=3)
    names = {"x_proj.weight": "x_proj.weight", "in_proj.weight": "in_proj.weight", "out_proj.weight": "out_proj.weight",
             "dt_proj.weight": "delta_proj.weight", "dt_proj.bias": "delta_bias", "conv1d.bias": "conv.bias",
             "conv1d.weight": "conv.weight", "A_log": "A_log", "D": "D"}  # fmt: skip
    state = ours.state_dict()
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    theirs.load_state_dict({name: state[mine].reshape(shapes[name]) for name, mine in names.items()})
    x = random(2, 150, 32, dtype=torch.float32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pieces", [[1] * 20, [20], [7, 1, 1, 9, 2], [1, 19], [2, 2, 16]])
def test_decoding_in_pieces_equals_the_whole(pieces: list[int]) -> None:
    block, x = mixer(), random(2, 20, 6)
    cache = block.new_cache(2, 20)
    y = torch.cat([block(piece, None, cache) for piece in x.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(y, block(x), rtol=1e-10, atol=1e-12)
    assert cache.length == 20
    assert cache.state.shape == (2, 12, 16)
    assert cache.tail.shape == (2, 3, 12)


def test_leading_axes() -> None:
    block, x = mixer(), random(2, 3, 9, 6)
    expected = torch.stack([block(batch) for batch in x])
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(block(x[0, 0]), expected[0, 0], rtol=1e-10, atol=1e-12)


def test_nothing_comes_from_the_future_and_something_from_the_past() -> None:
    block, x = mixer(), random(1, 100, 6)
    block.delta_bias.data -= 4.0  # back to small steps: a long memory
    y = block(x)
    for t in (0, 1, 50, 63, 64, 99):
        changed = x.clone()
        changed[:, t] += 1.0
        difference = (block(changed) - y).abs().amax(dim=(0, 2))
        assert not difference[:t].any()
        assert difference[t:].min() > 1e-9


def test_all_weights_get_the_gradient_of_finite_differences() -> None:
    block, x = mixer(d_state=2, d_conv=2), random(1, 5, 6)
    weights = dict(block.named_parameters())

    def output(*values: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(weights, values, strict=True)), (x,))

    assert gradcheck(output, [p.detach().requires_grad_() for p in weights.values()], fast_mode=True)


def test_long_inputs_stay_finite_and_exact() -> None:
    """2048 tokens, large inputs: float32 near float64, gradients finite."""
    wide, x = mixer(d_state=4), 20 * random(1, 2048, 6)
    narrow = mixer(d_state=4, dtype=torch.float32)
    narrow.load_state_dict(wide.state_dict())
    small = x.float().requires_grad_()
    expected, actual = wide(x), narrow(small)
    assert ((actual.double() - expected).norm() / expected.norm()).item() < 1e-4
    actual.square().mean().backward()
    assert torch.isfinite(small.grad).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_runs_near_float64(autocast: bool) -> None:
    wide, x = mixer(d_model=32), random(2, 130, 32)
    block = mixer(d_model=32, dtype=torch.float32 if autocast else torch.bfloat16)
    block.load_state_dict(wide.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = block(x.float() if autocast else x.bfloat16())
        cache = block.new_cache(2, 130)
        pieces = x.float() if autocast else x.bfloat16()
        decoded = torch.cat([block(piece, None, cache) for piece in pieces.split([64, 1, 65], dim=1)], dim=1)
    assert y.dtype == torch.bfloat16
    assert cache.state.dtype == torch.float32
    expected = wide(x)
    for actual in (y, decoded):
        assert ((actual.double() - expected).norm() / expected.norm()).item() < 3e-2
    y.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters())


def test_steps_begin_between_a_thousandth_and_a_tenth() -> None:
    torch.manual_seed(0)
    block = SelectiveStateSpace(64, StateSpaceConfig())
    steps = torch.nn.functional.softplus(block.delta_bias)
    assert steps.min() >= 0.999e-3
    assert steps.max() <= 1.001e-1
    assert steps.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.3)
    torch.testing.assert_close(block.A_log.exp(), torch.arange(1, 17).float().expand(128, -1))


@pytest.mark.parametrize("field", ["d_state", "expand", "d_conv"])
def test_bad_configurations(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1; got 0"):
        StateSpaceConfig(**{field: 0})


def test_a_convolution_without_taps_is_refused() -> None:
    with pytest.raises(ValueError, match="width d_conv of at least 1; got 0"):
        ShortConvolution(4, 0)
