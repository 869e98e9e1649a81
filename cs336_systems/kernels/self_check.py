"""Every kernel against its reference in float64, on this machine: the first thing to run where something looks wrong.

    python -m cs336_systems.kernels.self_check                          PyTorch forms; on a GPU the Triton forms as well
    TRITON_INTERPRET=1 python -m cs336_systems.kernels.self_check       both on a CPU

Prints JSON: kernel -> form -> the largest difference of output and gradients, as a share of the reference's largest
value. float32 leaves about 1e-6. Sizes are small and odd, so that edges of tiles are met. Read next: `rmsnorm.py`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cs336_systems.kernels import cross_entropy, flash_attention, matmul, rmsnorm, softmax, swiglu, weighted_sum
from cs336_systems.kernels import flash_attention_triton as flash_triton
from cs336_systems.kernels.triton_kernel import interpreting

_Form = Callable[..., Tensor]
TOLERANCE = 1e-4
"""a share; above it something is wrong"""


def _causal(form: _Form) -> _Form:
    return lambda Q, K, V: form(Q, K, V, True)


def _cases(targets: Tensor) -> dict[str, tuple[list[tuple[int, ...]], _Form, dict[str, _Form]]]:
    """Kernel: shapes of its inputs, its reference, its forms."""

    def with_targets(form: _Form) -> _Form:
        return lambda logits: form(logits, targets)

    return {
        "weighted sum": (
            [(37, 65), (65,)], weighted_sum.weighted_sum_reference,
            {"PyTorch": weighted_sum.WeightedSumPyTorch.apply, "Triton": weighted_sum.WeightedSumTriton.apply},
        ),
        "RMSNorm": (
            [(37, 65), (65,)], rmsnorm.rms_norm_reference,
            {"PyTorch": rmsnorm.RMSNormPyTorch.apply, "Triton": rmsnorm.RMSNormTriton.apply},
        ),
        "softmax": (
            [(37, 65)], softmax.softmax_reference,
            {"PyTorch": softmax.SoftmaxPyTorch.apply, "Triton": softmax.SoftmaxTriton.apply},
        ),
        "SwiGLU": (
            [(37, 65), (37, 65)], swiglu.swiglu_reference,
            {"PyTorch": swiglu.SwiGLUPyTorch.apply, "Triton": swiglu.SwiGLUTriton.apply},
        ),
        "cross-entropy": (
            [(37, 65)], with_targets(cross_entropy.cross_entropy_reference),
            {
                "PyTorch": with_targets(cross_entropy.CrossEntropyPyTorch.apply),
                "Triton": with_targets(cross_entropy.CrossEntropyTriton.apply),
            },
        ),
        "matmul": (
            [(37, 65), (65, 41)], matmul.matmul_reference,
            {"PyTorch": matmul.MatmulPyTorch.apply, "Triton": matmul.MatmulTriton.apply},
        ),
        "FlashAttention": (
            [(2, 45, 16), (2, 77, 16), (2, 77, 16)], lambda Q, K, V: flash_attention.attention_reference(Q, K, V, True)[0],
            {
                "PyTorch": _causal(flash_attention.FlashAttentionPyTorch.apply),
                "Triton": _causal(flash_triton.FlashAttentionTriton.apply),
            },
        ),
    }  # fmt: skip


def check_kernels(device: torch.device, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Kernel -> form -> largest difference from float64, as a share of the largest value; forms that run on `device`.

    Triton forms are left out on a CPU without the interpreter, and where Triton is not installed.
    """
    generator = torch.Generator().manual_seed(seed)
    runs_triton = importlib.util.find_spec("triton") is not None and (device.type == "cuda" or interpreting())
    targets = torch.randint(65, (37,), generator=generator).to(device)
    found: dict[str, dict[str, float]] = {}
    for name, (shapes, reference, forms) in _cases(targets).items():
        inputs = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
        expected = _values(reference, [x.double() for x in inputs])
        found[name] = {
            form: max(map(_difference, _values(function, inputs), expected))
            for form, function in forms.items()
            if runs_triton or form != "Triton"
        }
    return found


def _values(function: _Form, inputs: list[Tensor]) -> list[Tensor]:
    """Output and the gradients of the inputs, for a gradient that is different everywhere."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    output: Any = function(*leaves)
    weights = torch.linspace(-1.0, 1.0, output.numel(), dtype=output.dtype, device=output.device).view_as(output)
    output.backward(weights)
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def _difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    print(json.dumps(check_kernels(torch.device("cuda" if torch.cuda.is_available() else "cpu")), indent=2))
