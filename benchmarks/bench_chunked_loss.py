"""The chunked language-model loss against the plain one and against torch's cross_entropy: time and memory.

    python benchmarks/bench_chunked_loss.py [--repeats 5] [--quick]

Forward and backward of head and loss, from hidden states to both gradients: 2048 tokens, d_model 256, vocabulary
32,000, float32, 1 thread, in CPU seconds (all logits: 262 MB). Every rival runs in a process of its own; its peak is
the resident memory's high-water mark above what library and one small call took. The processes take turns, `--repeats`
rounds of them, so that other work on the machine hits all alike; medians of time and of peak are compared.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cs336_basics.chunked_loss import chunked_cross_entropy
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment

D_MODEL, VOCAB = 256, 32_000
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def torch_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What most training code does."""
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden, weight), targets)


def chunked(chunk_tokens: int) -> Loss:
    """Our chunked loss with one size of chunk."""
    return lambda h, w, t: chunked_cross_entropy(h, w, t, chunk_tokens=chunk_tokens)[0]


RIVALS: dict[str, Loss] = {
    "torch linear + cross_entropy": torch_loss,
    "ours, plain": lambda h, w, t: cross_entropy(h @ w.T, t),
    "ours, chunks of 512": chunked(512),
    "ours, chunks of 128": chunked(128),
    "ours, chunks of 32": chunked(32),
}


def high_water_mb() -> float:
    """Peak resident memory of this process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "no VmHWM in /proc/self/status"
    return int(found[1]) / 1024


def step(loss: Loss, tokens: int) -> tuple[float, float, float]:
    """(CPU seconds, loss, norm of both gradients) of one forward and backward pass on fixed random inputs."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, D_MODEL, generator=generator, requires_grad=True)
    weight = (torch.randn(VOCAB, D_MODEL, generator=generator) / D_MODEL**0.5).requires_grad_()
    targets = torch.randint(VOCAB, (tokens,), generator=generator)
    started = time.process_time()
    value = loss(hidden, weight, targets)
    value.backward()
    seconds = time.process_time() - started
    assert hidden.grad is not None and weight.grad is not None
    return seconds, value.item(), float(hidden.grad.norm() + weight.grad.norm())


def measure(name: str, tokens: int) -> None:
    """One process: a small call, then one measured; prints seconds, peak and the numbers to compare."""
    torch.set_num_threads(1)
    step(RIVALS[name], 32)
    before = high_water_mb()
    seconds, value, norm = step(RIVALS[name], tokens)
    print(json.dumps({"seconds": seconds, "peak_mb": high_water_mb() - before, "loss": value, "grad_norm": norm}))


def main() -> None:
    """Measure, print a table, write results/chunked_loss.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of 256 tokens, no result file")
    parser.add_argument("--measure", choices=RIVALS, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=2048, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.tokens)
        return
    tokens, repeats = (256, 1) if arguments.quick else (arguments.tokens, arguments.repeats)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in RIVALS}
    for _ in range(repeats):
        for name in RIVALS:
            command = [sys.executable, __file__, "--measure", name, "--tokens", str(tokens)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout))
    rows, rival = {}, found["torch linear + cross_entropy"]
    for name, results in found.items():
        seconds = statistics.median(r["seconds"] for r in results)
        rows[name] = {
            "median_cpu_s": round(seconds, 3), "min_cpu_s": round(min(r["seconds"] for r in results), 3),
            "peak_mb": round(statistics.median(r["peak_mb"] for r in results), 1),
            "speed_ratio_to_torch": round(statistics.median(r["seconds"] for r in rival) / seconds, 3),
            "relative_difference_of_gradient_norm": abs(results[0]["grad_norm"] / rival[0]["grad_norm"] - 1),
        }  # fmt: skip
        print(f"{name:30s} {rows[name]}")
    if not arguments.quick:
        result = {"tokens": tokens, "d_model": D_MODEL, "vocab": VOCAB, "repeats": repeats, "rows": rows}
        write_json(
            "benchmarks/results/chunked_loss.json",
            result | {"measured": datetime.date.today().isoformat(), "environment": describe_environment()},
        )


if __name__ == "__main__":
    main()
