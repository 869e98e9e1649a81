"""The 2025 leaderboard: causal attention forward and backward at (16 heads, 16384 tokens, 64), bf16, on one GPU.

    python -m cs336_systems.leaderboard_attention [--backward one-pass] [--out result.json]
    TRITON_INTERPRET=1 python -m cs336_systems.leaderboard_attention --quick        (tiny, on a CPU: checks the harness)

The board's own measure is `triton.testing.do_bench` of torch.compile(F.apply) with loss o.sum(); it is reported as
do_bench_ms. Beside it stands ours (`kernels/timing.py`: inputs that change, a cold cache, a random incoming gradient
in place of ones), and before either the output and all three gradients are compared, on unseen inputs and on those of
a timed repeat, with attention in float32 computed head by head.

Work: forward 4 H T^2 d / 2 operations, backward 2.5 times that. First place on the public board: 5.364 ms on an H100.
Handout (2025): leaderboard. Left out: the 2026 board (a full training step). Read next: `kernels/timing.py`.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_systems.kernels.flash_attention import attention_reference
from cs336_systems.kernels.timing import measure, poison

Attention = Callable[[Tensor, Tensor, Tensor, bool], Tensor]
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 1e-5}
"""largest |error| / |reference| (2-norms) of an output or a gradient: a few roundings of the dtype"""


@dataclass(frozen=True)
class Board:
    """Shape and conditions."""

    heads: int = 16
    tokens: int = 16384
    d: int = 64
    dtype: torch.dtype = torch.bfloat16
    device: str = "cuda"
    repeats: int = 100
    input_sets: int = 4

    @property
    def flops(self) -> float:
        """Operations of forward and backward, half of the scores being masked."""
        return 3.5 * 4 * self.heads * self.tokens**2 * self.d / 2


QUICK = Board(heads=2, tokens=48, d=16, dtype=torch.float32, device="cpu", repeats=2, input_sets=2)


def fresh_inputs(board: Board, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Q, K, V and the gradient of the output, never used before with this seed."""
    generator = torch.Generator(device=board.device).manual_seed(seed)
    shape = (board.heads, board.tokens, board.d)
    q, k, v, d_o = (
        torch.randn(shape, generator=generator, device=board.device, dtype=board.dtype) for _ in range(4)
    )  # fmt: skip
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), d_o


def step(attention: Attention, q: Tensor, k: Tensor, v: Tensor, d_o: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients of one forward and backward pass."""
    output = attention(q, k, v, True)
    return output.detach(), *torch.autograd.grad(output, (q, k, v), d_o)


def errors(results: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """Relative error of O, dQ, dK and dV against float32 attention, one head at a time.

    Raises:
        ValueError: a result has the wrong shape or dtype, or holds NaN or infinity.
    """
    for name, result, like in zip(("O", "dQ", "dK", "dV"), results, inputs[:1] + inputs[:3], strict=True):
        if result.shape != like.shape or result.dtype != like.dtype:
            got = f"{tuple(result.shape)} {result.dtype}"
            raise ValueError(f"{name} must be {tuple(like.shape)} {like.dtype}; got {got}")
        if not result.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity: some of it was not written, or overflowed")
    wrong, total = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for head in range(inputs[0].shape[0]):
        q, k, v = (x[head : head + 1].detach().float().requires_grad_() for x in inputs[:3])
        output, _ = attention_reference(q, k, v, True)
        expected = (output, *torch.autograd.grad(output, (q, k, v), inputs[3][head : head + 1].float()))
        for i, (a, b) in enumerate(zip(results, expected, strict=True)):
            wrong[i] += (a[head : head + 1].float() - b).square().sum().double().cpu()
            total[i] += b.square().sum().double().cpu()
    return dict(zip(("O", "dQ", "dK", "dV"), (wrong / total).sqrt().tolist(), strict=True))


def check(attention: Attention, board: Board, seed: int) -> dict[str, float]:
    """Errors on inputs of this seed.

    Raises:
        ValueError: one is above the tolerance of the dtype; the message has all four.
    """
    inputs = fresh_inputs(board, seed)
    return _within(errors(step(attention, *inputs), inputs), board)


def _within(found: dict[str, float], board: Board) -> dict[str, float]:
    limit = TOLERANCE[board.dtype]
    if not all(error <= limit for error in found.values()):
        raise ValueError(f"wrong results: relative errors {found}; the limit for {board.dtype} is {limit}")
    return found


def run(attention: Attention, board: Board, *, seed: int = 0) -> dict[str, Any]:
    """Check, time, check what was timed; one JSON-ready dictionary.

    Raises:
        ValueError: the results are wrong.
    """
    before = check(attention, board, seed)
    inputs = [fresh_inputs(board, seed + 1 + i) for i in range(board.input_sets)]
    poison(torch.device(board.device), 16 * inputs[0][0].nbytes)
    timing = measure(lambda *values: step(attention, *values), inputs, repeats=board.repeats)
    timed = _within(errors(timing.last_output, inputs[timing.last_input]), board)
    return {
        "board": "attention-2025", "heads": board.heads, "tokens": board.tokens, "d": board.d,
        "dtype": str(board.dtype), **timing.numbers(), "tflops": board.flops / timing.median_ms / 1e9,
        "errors": before, "errors_of_a_timed_repeat": timed,
    }  # fmt: skip


def do_bench_ms(attention: Attention, board: Board) -> float:
    """The board's own number: the mean of do_bench(rep=10000, warmup=1000) with loss o.sum()."""
    import triton.testing

    q, k, v, _ = fresh_inputs(board, 99)

    def one() -> None:
        attention(q, k, v, True).sum().backward()

    return triton.testing.do_bench(one, rep=10000, warmup=1000, grad_to_none=[q, k, v])


def main() -> None:
    """Measure this package's kernels and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backward", choices=("two-pass", "one-pass"), default="two-pass")
    parser.add_argument("--quick", action="store_true", help="tiny, float32, on the CPU (needs TRITON_INTERPRET=1)")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--out", help="result file")
    options = parser.parse_args()
    from cs336_systems.kernels.flash_attention_triton import FlashAttentionTriton, FlashAttentionTritonOnePass

    function = FlashAttentionTriton if options.backward == "two-pass" else FlashAttentionTritonOnePass
    board = QUICK if options.quick else Board()
    if board.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --quick runs a tiny shape on the CPU")
    attention: Attention = function.apply
    if not options.eager and not options.quick:
        attention = torch.compile(function.apply, fullgraph=True)
    result = {"backward": options.backward, **run(attention, board)}
    if not options.quick:
        result |= {"do_bench_ms": do_bench_ms(attention, board), "gpu": torch.cuda.get_device_name()}
    result |= {"measured": datetime.date.today().isoformat(), "environment": describe_environment()}
    print(json.dumps(result, indent=2))
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
