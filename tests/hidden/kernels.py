"""Assignment 2, kernels: against autograd in float64 with all scores in memory, on fresh shapes and inputs."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, Case

from .comparing import arrays, call, difference, part

Rng = np.random.Generator
ATTENTION = {kind: f"get_flashattention_autograd_function_{kind}" for kind in ("pytorch", "triton")}
RMSNORM = {kind: f"get_rmsnorm_autograd_function_{kind}" for kind in ("pytorch", "triton")}
TOLERANCE = {"atol": 2e-3, "rtol": 2e-3}
EPS = 1e-5


def kinds() -> list[str]:
    """Triton's cases are asked where Triton is installed; without a GPU its interpreter runs them."""
    return ["pytorch", "triton"] if importlib.util.find_spec("triton") else ["pytorch"]


def normal(rng: Rng, *shape: int, scale: float = 1.0) -> np.ndarray:
    """float32 normal numbers."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def attention_oracle(tensors: list[np.ndarray], causal: bool, weight: np.ndarray | None) -> dict[str, Any]:
    """Output, logsumexp and gradients in float64."""
    import torch

    q, k, v = (torch.from_numpy(t).double().requires_grad_() for t in tensors)
    scores = torch.einsum("bqd,bkd->bqk", q, k) / q.shape[-1] ** 0.5
    if causal:
        later = torch.arange(k.shape[1])[None, :] > torch.arange(q.shape[1])[:, None]
        scores = scores.masked_fill(later, float("-inf"))
    out = torch.softmax(scores, -1) @ v
    (out.sum() if weight is None else (out * torch.from_numpy(weight)).sum()).backward()
    lse, grads = torch.logsumexp(scores, -1), [t.grad.numpy() for t in (q, k, v) if t.grad is not None]
    return {"out": out.detach().numpy(), "lse": lse.detach().numpy(), "gradients": grads}


def _attention_case(
    rng: Rng,
    id: str,
    text: str,
    *,
    kind: str = "pytorch",
    queries: int = 128,
    keys: int = 128,
    d: int = 32,
    causal: bool | None = False,
    scale: float = 1.0,
    backward: bool = False,
    expanded: bool = False,
    watch: bool = False,
) -> Case:
    """A case of flash attention; causal None leaves the argument out."""
    shapes = ((2, queries, d), (2, keys, d), (2, keys, d))
    tensors = [normal(rng, *shape, scale=scale if number == 0 else 1.0) for number, shape in enumerate(shapes)]
    weight = None if expanded else normal(rng, 2, queries, d)
    inputs = {
        "getter": ATTENTION[kind], "tensors": tensors, "flags": [] if causal is None else [causal], "weight": weight,
        "saved_shape": [2, queries], "watch": watch, "backward": backward,
    }  # fmt: skip

    def is_large(answer: Answer) -> list[bool]:
        """Whether all scores are saved; whether half of all scores of the two batch entries are held at once."""
        sizes, largest = part(answer, "saved_sizes", list), part(answer, "largest", int) if watch else 0
        return [max(sizes, default=0) >= 2 * queries * keys, largest > queries * keys]

    def judge(answer: Answer) -> str | None:
        right = attention_oracle(tensors, bool(causal), weight)
        if backward:
            return _gradients(answer, right["gradients"], ("Q", "K", "V"))
        if problem := difference(answer.get("out"), right["out"], **TOLERANCE, what="output"):
            return problem
        saved = arrays(answer, "saved")
        if len(saved) != 1:
            return f"{len(saved)} saved tensors of shape (batch, queries), expected one: the logsumexp L"
        saves_all, holds_all = is_large(answer)
        if saves_all:
            return "all scores are saved for backward"
        if holds_all:
            return "forward holds all scores at once instead of a tile of them"
        return difference(saved[0], right["lse"], **TOLERANCE, what="saved logsumexp L")

    def compared(answer: Answer) -> list[Any]:
        return [answer.get("gradients")] if backward else [answer.get("out"), answer.get("saved"), is_large(answer)]

    return Case(id, text, "autograd_function", inputs, judge, compared)


def _gradients(answer: Answer, right: list[np.ndarray], names: tuple[str, ...], **tolerances: float) -> str | None:
    given = part(answer, "gradients", list)
    for name, mine, expected in zip(names, given, right, strict=True):
        if mine is None:
            return f"no gradient of {name}"
        if problem := difference(mine, expected, what=f"gradient of {name}", **{**TOLERANCE, **tolerances}):
            return problem
    return None


def flash_forward(rng: Rng) -> list[Case]:
    cases = [
        _attention_case(rng, "plain", "softmax(Q K^T / sqrt(d)) V and L, the natural logarithm of sum exp(S)"),
        _attention_case(rng, "causal", "a query sees keys up to its own place in the whole sequence", causal=True),
        _attention_case(rng, "large", "scores in the hundreds do not overflow", scale=60.0),
        _attention_case(rng, "more-keys", "other numbers of queries and keys", queries=64, keys=256),
        _attention_case(rng, "by-default", "not causal unless asked", causal=None, d=16),
        _attention_case(rng, "memory", "tiles: never all scores at once", queries=512, keys=512, d=16, watch=True),
    ]
    if "triton" in kinds():
        for causal in (False, True):
            id, text = ("triton-causal", "the Triton kernel, causal") if causal else ("triton", "the Triton kernel")
            cases.append(_attention_case(rng, id, text, kind="triton", causal=causal))
    return cases


def flash_backward(rng: Rng) -> list[Case]:
    def case(id: str, text: str, **settings: Any) -> Case:
        return _attention_case(rng, id, text, backward=True, **settings)

    cases = [
        case("plain", "dQ, dK, dV from the saved L"),
        case("causal", "masked scores pass no gradient", causal=True),
        case("sharp", "gradients of sharp attention", scale=4.0, causal=True, d=16),
        case("expanded", "an output gradient that is one number expanded", expanded=True, causal=True, d=16),
        case("more-keys", "other numbers of queries and keys", queries=64, keys=256),
    ]
    if "triton" in kinds():
        cases.append(case("triton", "backward of the class with the Triton kernel", kind="triton", causal=True))
    return cases


def rmsnorm_oracle(x: np.ndarray, gain: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, dx, dg in float64 by hand."""
    x, gain, grad = (t.astype(np.float64) for t in (x, gain, grad))
    root = np.sqrt((x * x).mean(-1, keepdims=True) + EPS)
    normed = x / root
    scaled = grad * gain
    d_x = (scaled - normed * (scaled * normed).mean(-1, keepdims=True)) / root
    return normed * gain, d_x, (grad * normed).reshape(-1, x.shape[-1]).sum(0)


def _rmsnorm_inputs(rng: Rng, shape: tuple[int, ...], scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return normal(rng, *shape, scale=scale), normal(rng, shape[-1]) + np.float32(1), normal(rng, *shape)


SHAPES = [((3, 5, 24), 1.0), ((7, 40), 0.01), ((2, 1, 3, 64), 30.0)]
"""widths that are no power of two, small inputs, where eps counts, and large ones"""


def _rmsnorm_class(rng: Rng, *, backward: bool) -> list[Case]:
    cases = []
    for kind in kinds():
        for number, (shape, scale) in enumerate(SHAPES if kind == "pytorch" else SHAPES[:2]):
            x, gain, grad = _rmsnorm_inputs(rng, shape, scale)
            inputs = {
                "getter": RMSNORM[kind], "tensors": [x, gain], "flags": [], "weight": grad, "saved_shape": None,
                "watch": False, "backward": backward,
            }  # fmt: skip

            def judge(answer: Answer, x: Any = x, gain: Any = gain, grad: Any = grad) -> str | None:
                y, d_x, d_g = rmsnorm_oracle(x, gain, grad)
                if backward:
                    return _gradients(answer, [d_x, d_g], ("x", "g"), atol=2e-4 * max(1.0, float(abs(d_x).max())))
                return difference(answer.get("out"), y, atol=1e-4, rtol=1e-4, what="output")

            what = (
                "gradients of x and g, by apply(x, g)" if backward else "x g / sqrt(mean of x^2 + 1e-5), by apply(x, g)"
            )
            key = "gradients" if backward else "out"
            compared = lambda answer, key=key: answer.get(key)  # noqa: E731
            cases.append(Case(f"{kind}-{number + 1}", what, "autograd_function", inputs, judge, compared))
    return cases


def triton_rmsnorm_forward(rng: Rng) -> list[Case]:
    return _rmsnorm_class(rng, backward=False)


def triton_rmsnorm_backward(rng: Rng) -> list[Case]:
    return _rmsnorm_class(rng, backward=True)


def _jvp(rng: Rng, function: str, which: int, text: str) -> list[Case]:
    cases = []
    for number, (shape, scale) in enumerate(SHAPES):
        x, gain, grad = _rmsnorm_inputs(rng, shape, scale)
        arguments = {"grad_output": grad, "x": x, "g": gain}
        expected = lambda x=x, gain=gain, grad=grad: rmsnorm_oracle(x, gain, grad)[which]  # noqa: E731
        size = float(abs(expected()).max())
        cases.append(call(f"shape-{number + 1}", text, function, arguments, expected, atol=1e-4 * size, rtol=1e-3))
    return cases


def rmsnorm_jvp_g(rng: Rng) -> list[Case]:
    return _jvp(rng, "rmsnorm_backward_g_pytorch", 2, "the gradient of g: a sum over all rows")


def rmsnorm_jvp_x(rng: Rng) -> list[Case]:
    return _jvp(rng, "rmsnorm_backward_x_pytorch", 1, "the gradient of x: directly, and through the root of the mean")
