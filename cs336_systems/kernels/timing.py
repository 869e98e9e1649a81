"""Honest times of GPU work: fresh inputs, a cold cache, memory poisoned beforehand, medians of many repeats.

Four ways to fool oneself, and what is done here:

- the GPU runs behind the program's back: times are taken by events on the GPU, and read after a synchronisation;
- repeats on one input measure the L2 cache: the inputs rotate, and a buffer larger than the cache is rewritten between
  repeats, outside the timed part;
- an output that nothing wrote looks right when an earlier run's memory is handed out again: free memory is filled with
  NaN before the repeats, and the caller checks the output of a timed repeat;
- compilation and the first launches belong to no repeat: warm up.

On a CPU the same function times with a clock; that mode is for checking scripts. Source: course handout
benchmarking_script; `triton.testing.do_bench`. Read next: `../leaderboard_attention.py`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

FLUSH_BYTES = 256 * 2**20
"""larger than the L2 cache of any current GPU"""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the repeats of one measurement, and what the last repeat returned."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    repeats: int
    last_input: int
    last_output: Any

    def numbers(self) -> dict[str, float | int]:
        """What goes into a result file."""
        return {
            "median_ms": round(self.median_ms, 4), "p10_ms": round(self.p10_ms, 4), "p90_ms": round(self.p90_ms, 4),
            "repeats": self.repeats,
        }  # fmt: skip


def poison(device: torch.device, num_bytes: int) -> None:
    """Fill free memory with NaN and give it back to torch's allocator, which will hand it out again."""
    if device.type == "cuda":
        torch.full((num_bytes // 4,), math.nan, device=device)
        torch.cuda.synchronize(device)


def measure(
    function: Callable[..., Any], inputs: Sequence[tuple[Any, ...]], *, warmups: int = 5, repeats: int = 30
) -> Timing:
    """Time `function(*inputs[i])`, i going round.

    Args:
        function: its result is dropped, so that its memory is free before the next repeat.
        inputs: at least one tuple, the first tensor of which says the device; use several.
        warmups, repeats: at least 1 each.

    Raises:
        ValueError: nothing to time.
    """
    if not inputs or warmups < 1 or repeats < 1:
        raise ValueError(f"inputs, warmups and repeats must be at least 1; got {len(inputs)}, {warmups}, {repeats}")
    device = next(x for x in inputs[0] if isinstance(x, torch.Tensor)).device
    for i in range(warmups):
        function(*inputs[i % len(inputs)])
    one = _one_on_gpu if device.type == "cuda" else _one_on_cpu
    flush = torch.empty(FLUSH_BYTES if device.type == "cuda" else 1, dtype=torch.int8, device=device)
    times, output = [], None
    for i in range(repeats):
        output = None
        flush.zero_()
        elapsed, output = one(function, inputs[i % len(inputs)])
        times.append(elapsed)
    deciles = statistics.quantiles(times, n=10, method="inclusive") if repeats > 1 else times * 9
    return Timing(statistics.median(times), deciles[0], deciles[-1], repeats, (repeats - 1) % len(inputs), output)


def _one_on_gpu(function: Callable[..., Any], values: tuple[Any, ...]) -> tuple[float, Any]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    output = function(*values)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end), output


def _one_on_cpu(function: Callable[..., Any], values: tuple[Any, ...]) -> tuple[float, Any]:
    start = time.perf_counter()
    output = function(*values)
    return 1000 * (time.perf_counter() - start), output


def copy_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes read and written per second by a copy within the device's memory."""
    source = [(torch.empty(num_bytes, dtype=torch.uint8, device=device).random_(),) for _ in range(2)]
    return 2 * num_bytes / (1e-3 * measure(lambda x: x.clone(), source).median_ms)


def matmul_rate(device: torch.device, size: int, dtype: torch.dtype) -> float:
    """Operations per second of torch's product of two random size x size matrices."""
    inputs = [tuple(torch.randn(size, size, device=device, dtype=dtype) for _ in range(2)) for _ in range(2)]
    return 2 * size**3 / (1e-3 * measure(torch.matmul, inputs).median_ms)
