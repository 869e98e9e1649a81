"""RMSNorm, softmax, SwiGLU, weighted sum and matmul against torch in float64, forward and backward."""

from __future__ import annotations

import pytest
import torch

from cs336_systems.kernels import softmax as softmax_module
from cs336_systems.kernels.matmul import MatmulPyTorch, MatmulTriton, triton_matmul
from cs336_systems.kernels.rmsnorm import MAX_WIDTH, AddRMSNormTriton, RMSNormPyTorch, RMSNormTriton
from cs336_systems.kernels.softmax import SoftmaxPyTorch, SoftmaxTriton
from cs336_systems.kernels.swiglu import SwiGLUPyTorch, SwiGLUTriton
from cs336_systems.kernels.weighted_sum import WeightedSumPyTorch, WeightedSumTriton

from kernel_oracle import assert_matches, expanded, randn, transposed  # isort: skip

functional = torch.nn.functional


def rms_norm(x, g):
    return functional.rms_norm(x, x.shape[-1:], g, 1e-5)


def add_rms_norm(x, residual, g):
    return rms_norm(x + residual, g), x + residual


def softmax(x):
    return torch.softmax(x, dim=-1)


def swiglu(a, b):
    return functional.silu(a) * b


def weighted_sum(x, w):
    return x @ w


ROWS = {
    "rms_norm": (RMSNormPyTorch, RMSNormTriton, rms_norm, [(3, 5, 50), (50,)]),
    "add_rms_norm": (None, AddRMSNormTriton, add_rms_norm, [(7, 33), (7, 33), (33,)]),
    "softmax": (SoftmaxPyTorch, SoftmaxTriton, softmax, [(2, 3, 50)]),
    "swiglu": (SwiGLUPyTorch, SwiGLUTriton, swiglu, [(3, 50), (3, 50)]),
    "weighted_sum": (WeightedSumPyTorch, WeightedSumTriton, weighted_sum, [(2, 9, 130), (130,)]),
    "matmul": (MatmulPyTorch, MatmulTriton, torch.matmul, [(70, 21), (21, 67)]),
}
CASES = [(name, kind) for name in ROWS for kind in (0, 1) if ROWS[name][kind] is not None]


def problem(name: str, kind: int, request, scale: float = 1.0):
    """function, oracle, inputs and device."""
    device = request.getfixturevalue("kernel_device") if kind else "cpu"
    inputs = [randn(*shape, seed=i, scale=scale) for i, shape in enumerate(ROWS[name][3])]
    return ROWS[name][kind].apply, ROWS[name][2], inputs, device


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("grads", [None, expanded, transposed])
def test_against_float64(name, kind, grads, request):
    function, oracle, inputs, device = problem(name, kind, request)
    assert_matches(function, oracle, inputs, device=device, grads=grads)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("name", ["rms_norm", "add_rms_norm", "softmax", "weighted_sum"])
def test_small_and_large_numbers(name, scale, request):
    function, oracle, inputs, device = problem(name, 1, request, scale)
    assert_matches(function, oracle, inputs, device=device, tolerance=2e-5)


@pytest.mark.parametrize("name", ["rms_norm", "softmax", "swiglu", "weighted_sum"])
def test_inputs_that_are_not_contiguous(name, request):
    function, oracle, inputs, device = problem(name, 1, request)
    inputs[0] = transposed(inputs[0])
    assert not inputs[0].is_contiguous()
    assert_matches(function, oracle, inputs, device=device)


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (40, 3)])
def test_rms_norm_of_odd_shapes(shape, kernel_device):
    inputs = [randn(*shape, seed=0), randn(shape[-1], seed=1)]
    assert_matches(RMSNormTriton.apply, rms_norm, inputs, device=kernel_device, floor=1e-3)  # width 1: dx is nearly 0


def test_rows_that_do_not_exist(kernel_device):
    x = torch.empty(0, 8, device=kernel_device, requires_grad=True)
    g = torch.ones(8, device=kernel_device, requires_grad=True)
    RMSNormTriton.apply(x, g).sum().backward()
    assert x.grad.shape == (0, 8) and torch.equal(g.grad, torch.zeros_like(g))
    assert SoftmaxTriton.apply(x).shape == (0, 8)


def test_softmax_of_a_row_longer_than_a_block_with_masked_places(kernel_device, monkeypatch):
    monkeypatch.setattr(softmax_module, "MAX_BLOCK", 16)
    x = randn(3, 50, seed=0, scale=50.0)
    x[0, :40] = x[1, 20:] = -torch.inf
    actual = SoftmaxTriton.apply(x.to(kernel_device)).cpu()
    torch.testing.assert_close(actual.double(), torch.softmax(x.double(), dim=-1), rtol=1e-5, atol=1e-7)


def test_half_precision_does_not_overflow(kernel_device):
    """300^2 is above float16's largest number."""
    x = torch.full((2, 40), 300.0, dtype=torch.float16, device=kernel_device)
    y = RMSNormTriton.apply(x, torch.ones(40, dtype=torch.float16, device=kernel_device))
    torch.testing.assert_close(y, torch.ones_like(y))


@pytest.mark.parametrize("name", ["rms_norm", "add_rms_norm", "swiglu"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces an autograd.Function
def test_under_torch_compile(name, request):
    function, oracle, inputs, device = problem(name, 1, request)
    assert_matches(torch.compile(function, backend="aot_eager", fullgraph=True), oracle, inputs, device=device)


def test_wrong_arguments_are_named(kernel_device):
    x = torch.zeros(2, 8, device=kernel_device)
    with pytest.raises(ValueError, match=r"g \(width,\).*got x \(2, 8\), g \(7,\)"):
        RMSNormTriton.apply(x, torch.zeros(7, device=kernel_device))
    with pytest.raises(ValueError, match=f"from 1 to {MAX_WIDTH}"):
        RMSNormTriton.apply(torch.zeros(1, MAX_WIDTH + 1), torch.zeros(MAX_WIDTH + 1))
    with pytest.raises(ValueError, match=r"float32, float16 or bfloat16; got torch.float64"):
        SoftmaxTriton.apply(x.double())
    with pytest.raises(ValueError, match="one shape and dtype"):
        SwiGLUTriton.apply(x, x.half())
    with pytest.raises(ValueError, match=r"A must be \(rows, inner\)"):
        triton_matmul(x, x)


def test_bfloat16_is_refused_in_the_interpreter(kernel_device):
    if kernel_device == "cuda":
        pytest.skip("the interpreter is not in use")
    with pytest.raises(ValueError, match="interpreter computes wrongly"):
        SoftmaxTriton.apply(torch.zeros(2, 8, dtype=torch.bfloat16))


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(ROWS))
def test_bfloat16_on_the_gpu(name, request):
    """As float64 on the same rounded inputs, but for a few roundings of bfloat16."""
    function, oracle, inputs, device = problem(name, 1, request)
    inputs = [x.bfloat16() for x in inputs]
    assert_matches(function, oracle, inputs, device=device, tolerance=2e-2, grads=lambda g: g.bfloat16())
