"""The kernels of cs336_systems on a GPU, beside torch, torch.compile and Liger: time, share of the chip, memory.

    make bench-gpu         or   python benchmarks/bench_gpu_kernels.py [--only attention] [--tune] [--quick]

First the chip's own ceilings are measured, a copy and a large matrix product; then

    rmsnorm       32768 x 4096 bf16, forward and backward          GB/s, share of the copy bandwidth
    attention     (16, 16384, 64) and (16, 16384, 128) bf16 causal TFLOP/s; both backward forms, SDPA
    loss          head and cross-entropy, 8192 tokens x 4096, vocabulary 128256: time and peak memory
    matmul        8192^3 bf16                                      share of torch's rate
    swiglu, softmax, cross_entropy                                 GB/s

Every result is compared with the float32 reference before it is timed. --tune tries tiles for attention and prints the
best; put them into `flash_attention_triton.tile_sizes`. Results: results/gpu_kernels.json. --quick runs tiny shapes
(on the CPU with TRITON_INTERPRET=1) and writes nothing. A rival that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_systems import leaderboard_attention as board
from cs336_systems.kernels import flash_attention_triton as flash
from cs336_systems.kernels.cross_entropy import CrossEntropyTriton, fused_linear_cross_entropy
from cs336_systems.kernels.matmul import triton_matmul
from cs336_systems.kernels.rmsnorm import RMSNormTriton, rms_norm_reference
from cs336_systems.kernels.softmax import SoftmaxTriton, softmax_reference
from cs336_systems.kernels.swiglu import SwiGLUTriton, swiglu_reference
from cs336_systems.kernels.timing import copy_bandwidth, matmul_rate, measure

functional = torch.nn.functional
RESULT = Path(__file__).parent / "results" / "gpu_kernels.json"
Rivals = dict[str, Callable[..., Any]]


class Setting:
    """Where and at what sizes; the ceilings once measured."""

    def __init__(self, quick: bool):
        self.quick = quick
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.repeats = 2 if quick else 30
        size = 64 if quick else 8192
        self.bytes_per_s = copy_bandwidth(self.device, 2**16 if quick else 2**31)
        self.flops_per_s = matmul_rate(self.device, size, self.dtype)

    def randn(self, *shape: int, seed: int, scale: float = 1.0) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        x = torch.randn(shape, generator=generator, device=self.device) * scale
        return x.to(self.dtype).requires_grad_()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False, mode="max-autotune-no-cudagraphs")


def missing_or(package: str, build: Callable[[], Rivals], found: dict[str, Any]) -> Rivals:
    """A rival's functions, or a note that it is not here."""
    if importlib.util.find_spec(package):
        return build()
    found.setdefault("not installed", []).append(package)
    return {}


def check_close(name: str, actual: Tensor, expected: Tensor) -> None:
    error = ((actual.float() - expected.float()).norm() / expected.float().norm()).item()
    if not error < 2e-2:
        raise RuntimeError(f"{name}: relative error {error}; not timed")


def memory_bound(
    setting: Setting,
    rivals: Rivals,
    inputs: list[tuple[Tensor, ...]],
    forward: float,
    backward: float,
    oracle: Callable,
) -> dict[str, Any]:
    """Forward, and backward alone, of each rival; `forward` and `backward` are the fewest bytes each must move."""
    rows = {}
    for name, function in rivals.items():
        check_close(name, function(*inputs[0]), oracle(*inputs[0]))
        timing = measure(function, inputs, repeats=setting.repeats)
        outputs = [function(*values) for values in inputs]
        grads = [torch.randn_like(output) for output in outputs]
        wanted = [tuple(x for x in values if x.is_floating_point()) for values in inputs]
        calls = [(o, g, w) for o, g, w in zip(outputs, grads, wanted, strict=True)]
        back = measure(lambda o, g, w: torch.autograd.grad(o, w, g, retain_graph=True), calls, repeats=setting.repeats)
        rows[name] = {
            "forward": timing.numbers() | share(setting, forward, timing.median_ms),
            "backward": back.numbers() | share(setting, backward, back.median_ms),
        }
        print(f"  {name:28s} forward {rows[name]['forward']}  backward {rows[name]['backward']}", flush=True)
    return rows


def share(setting: Setting, num_bytes: float, ms: float) -> dict[str, float]:
    rate = num_bytes / (1e-3 * ms)
    return {"gb_per_s": round(rate / 1e9, 1), "share_of_copy": round(rate / setting.bytes_per_s, 3)}


def rmsnorm(setting: Setting) -> dict[str, Any]:
    rows, width = (8, 64) if setting.quick else (32768, 4096)
    inputs = [
        (setting.randn(rows, width, seed=i), setting.randn(width, seed=100 + i))
        for i in range(1 if setting.quick else 3)
    ]
    notes: dict[str, Any] = {}

    def eager(x: Tensor, g: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], g, 1e-5)

    def liger() -> Rivals:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction

        return {"liger": lambda x, g: LigerRMSNormFunction.apply(x, g, 1e-5, 0.0, "llama", False)}

    rivals: Rivals = {"ours": RMSNormTriton.apply, "torch": eager}
    if not setting.quick:
        rivals |= {"torch.compile max-autotune": compiled(rms_norm_reference)}
        rivals |= missing_or("liger_kernel", liger, notes)
    one = rows * width * inputs[0][0].element_size()
    return notes | memory_bound(setting, rivals, inputs, 2 * one, 3 * one, rms_norm_reference)


def rows_and_gates(setting: Setting) -> dict[str, Any]:
    rows, width = (4, 64) if setting.quick else (16384, 8192)
    one = rows * width * (2 if setting.dtype == torch.bfloat16 else 4)
    pairs = [(setting.randn(rows, width, seed=i), setting.randn(rows, width, seed=10 + i)) for i in range(2)]
    singles = [pair[:1] for pair in pairs]
    gate: Rivals = {"ours": SwiGLUTriton.apply, "torch": lambda a, b: functional.silu(a) * b}
    soft: Rivals = {"ours": SoftmaxTriton.apply, "torch": lambda x: torch.softmax(x, dim=-1)}
    if not setting.quick:
        gate["torch.compile max-autotune"] = compiled(swiglu_reference)
        soft["torch.compile max-autotune"] = compiled(softmax_reference)
    return {
        "swiglu": memory_bound(setting, gate, pairs, 3 * one, 5 * one, swiglu_reference),
        "softmax": memory_bound(setting, soft, singles, 2 * one, 3 * one, softmax_reference),
    }


def attention(setting: Setting) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for d in (16,) if setting.quick else (64, 128):
        shape = board.QUICK if setting.quick else board.Board(d=d, device=setting.device.type)
        rivals: dict[str, board.Attention] = {
            "ours, two passes": flash.FlashAttentionTriton.apply,
            "ours, one pass": flash.FlashAttentionTritonOnePass.apply,
            "torch SDPA": lambda q, k, v, causal: functional.scaled_dot_product_attention(
                q[None], k[None], v[None], is_causal=causal
            )[0],
        }
        for name, function in rivals.items():
            result = board.run(function, shape)
            inputs = [board.fresh_inputs(shape, 50 + i) for i in range(shape.input_sets)]
            with torch.no_grad():
                forward = measure(lambda q, k, v, _, f=function: f(q, k, v, True), inputs, repeats=shape.repeats)
            result["forward"] = forward.numbers() | {"tflops": shape.flops / 3.5 / forward.median_ms / 1e9}
            found[f"d={d} {name}"] = result
            print(f"  d={d} {name:20s} {result['median_ms']} ms, forward {forward.median_ms:.4f} ms", flush=True)
    return found


def loss(setting: Setting) -> dict[str, Any]:
    tokens, width, vocab = (16, 16, 64) if setting.quick else (8192, 4096, 128256)
    hidden = setting.randn(tokens, width, seed=0)
    weight = setting.randn(vocab, width, seed=1, scale=width**-0.5)
    targets = torch.randint(vocab, (tokens,), generator=torch.Generator().manual_seed(2)).to(setting.device)

    def eager(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
        return functional.cross_entropy((h @ w.T).float(), t)

    def in_place(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
        return CrossEntropyTriton.apply(h @ w.T, t, 0.0, True).mean()

    def fused(h: Tensor, w: Tensor, t: Tensor) -> Tensor:
        return fused_linear_cross_entropy(h, w, t, chunk_tokens=max(1, tokens // 8))

    rows = {}
    for name, function in {"torch eager": eager, "ours, in place": in_place, "ours, fused": fused}.items():
        check_close(name, function(hidden, weight, targets), eager(hidden, weight, targets))
        if setting.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if setting.device.type == "cuda" else 0

        def both(h: Tensor, w: Tensor, t: Tensor, f: Callable = function) -> tuple[Tensor, ...]:
            return torch.autograd.grad(f(h, w, t), (h, w))

        both(hidden, weight, targets)
        peak = torch.cuda.max_memory_allocated() - before if setting.device.type == "cuda" else 0
        timing = measure(both, [(hidden, weight, targets)], repeats=setting.repeats)
        rows[name] = timing.numbers() | {"peak_mib": round(peak / 2**20)}
        print(f"  {name:20s} {rows[name]}", flush=True)
    return rows


def matmul(setting: Setting) -> dict[str, Any]:
    size = 64 if setting.quick else 8192
    inputs = [
        (setting.randn(size, size, seed=i).detach(), setting.randn(size, size, seed=9 + i).detach()) for i in (0, 1)
    ]
    check_close("matmul", triton_matmul(*inputs[0]), inputs[0][0].float() @ inputs[0][1].float())
    timing = measure(triton_matmul, inputs, repeats=setting.repeats)
    rate = 2 * size**3 / (1e-3 * timing.median_ms)
    print(f"  {timing.numbers()}", flush=True)
    return timing.numbers() | {"tflops": rate / 1e12, "share_of_torch": rate / setting.flops_per_s}


def tune() -> dict[str, Any]:
    """Tiles for attention at the leaderboard's shape, each kernel by itself; wrong or impossible ones are skipped."""
    original, best = flash.tile_sizes, {}
    for name in ("forward", "one pass", "keys", "queries"):
        function = flash.FlashAttentionTritonOnePass if name == "one pass" else flash.FlashAttentionTriton
        times: dict[str, float] = {}
        for tiles in itertools.starmap(
            flash.Tiles, itertools.product((16, 32, 64, 128), (32, 64, 128), (4, 8), (1, 2, 3))
        ):
            flash.tile_sizes = lambda p, d, e, t=tiles, n=name: t if p == n else original(p, d, e)
            shape = board.Board(repeats=10, input_sets=2)
            try:
                times[str(tuple(tiles))] = board.run(function.apply, shape)["median_ms"]
            except Exception as error:  # out of resources comes in many types; the sweep says what it skipped
                print(f"  {name} {tuple(tiles)}: {type(error).__name__}", flush=True)
        flash.tile_sizes = original
        ranked = sorted(times.items(), key=lambda item: item[1])[:5]
        best[name] = ranked
        print(f"  {name}: {ranked}", flush=True)
    return best


PARTS = {"rmsnorm": rmsnorm, "attention": attention, "loss": loss, "matmul": matmul, "rows": rows_and_gates}


def main() -> None:
    """Measure, print, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--tune", action="store_true", help="try tiles for attention (minutes), write nothing")
    parser.add_argument("--quick", action="store_true", help="tiny shapes; writes nothing")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.quick:
        print("no CUDA device here: nothing measured (--quick with TRITON_INTERPRET=1 checks this script)")
        return
    if options.tune:
        tune()
        return
    setting = Setting(options.quick)
    print(
        f"copy {setting.bytes_per_s / 1e9:.0f} GB/s, matrix product {setting.flops_per_s / 1e12:.1f} TFLOP/s",
        flush=True,
    )
    results: dict[str, Any] = {}
    for name in [options.only] if options.only else PARTS:
        print(name, flush=True)
        results[name] = PARTS[name](setting)
    if options.quick or options.only:
        return
    write_json(
        RESULT,
        {
            "gpu": torch.cuda.get_device_name(), "copy_gb_per_s": setting.bytes_per_s / 1e9,
            "matmul_tflops": setting.flops_per_s / 1e12, "results": results,
            "measured": datetime.date.today().isoformat(), "environment": describe_environment(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
