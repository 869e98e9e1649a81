"""Rooflines: how fast an operation can be on this machine, and how fast it is.

    arithmetic intensity I = FLOPs / bytes moved            attainable rate = min(peak FLOP/s, I * bandwidth)

Below the ridge, peak / bandwidth, memory is the limit and only moving less helps; above it the arithmetic is. Both
peaks are measured here, by a large matrix product and a large copy, not taken from a data sheet (an H100 has a ridge of
295 FLOPs per byte in bfloat16, an H200 of 206).

The operations are those of one block of the model, its head, loss and update, counted once: inputs read and outputs
written once each, everything between kept on the chip. So a number is the most that a fused kernel could do; what
several passes over memory cost shows in the measured point below the roof.

Source: Williams, Waterman, Patterson 2009. Handout: the lecture on GPUs; pytorch_attention asks for the same picture.
Left out: caches (a small operation may run above the roof of memory). Read next: `leaderboard_step.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cs336_basics.layers import rms_norm
from cs336_basics.model import causal_attention
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import cross_entropy, silu, softmax
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.machine import choose_device
from cs336_basics.runs.plots import COLOURS
from cs336_basics.runs.report import KeyFigure, KeyFigures, Paragraph, Picture, Report, Table, write_report
from cs336_systems.benchmarking import environment_with_device
from cs336_systems.timing import time_call

if TYPE_CHECKING:
    import matplotlib.figure

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Peaks:
    """What the machine can do at its best, measured."""

    flops: float
    """per second, in a large matrix product"""
    bandwidth: float
    """bytes read and written per second in a large copy"""

    @property
    def ridge(self) -> float:
        """The intensity, in FLOPs per byte, from which on arithmetic is the limit."""
        return self.flops / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """FLOPs per second that an operation of this intensity can reach."""
        return min(self.flops, intensity * self.bandwidth)


@dataclass(frozen=True)
class Operation:
    """One operation of the model: its work, its traffic, and how to run it."""

    name: str
    flops: int
    bytes: int
    run: Callable[[], Any] | None = None

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes


@dataclass(frozen=True)
class Point:
    """An operation against the roof."""

    name: str
    flops: int
    bytes: int
    intensity: float
    attainable: float
    """FLOPs per second"""
    measured: float
    """FLOPs per second, by the median"""

    @property
    def share(self) -> float:
        """Of the attainable rate that was reached."""
        return self.measured / self.attainable


def measure_peaks(
    device: torch.device, dtype: torch.dtype, *, size: int = 2048, copy_bytes: int = 1 << 28, repeats: int = 5
) -> Peaks:
    """The rate of a square matrix product and of a copy; the best of `repeats`, since noise only slows.

    Args:
        device, dtype: where and in what the product is made.
        size: rows of the matrices; large enough to fill the device (8192 on a GPU).
        copy_bytes: length of the copy's source; well above the last cache.
        repeats: measurements of each, at least 1.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1 or copy_bytes < 4:
        raise ValueError(f"size must be at least 1 and copy_bytes at least 4; got {size} and {copy_bytes}")
    a, b, out = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
    source = torch.ones(copy_bytes // 4, device=device)
    target = torch.empty_like(source)
    product = _fastest(lambda: torch.mm(a, b, out=out), device, repeats)
    copy = _fastest(lambda: target.copy_(source), device, repeats)
    return Peaks(2 * size**3 / product, 2 * 4 * source.numel() / copy)


def _fastest(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls."""
    return min(time_call(work, device=device, warmups=1, repeats=1).mean_ms for _ in range(repeats)) / 1e3


def operation_costs(config: ModelConfig, *, batch_size: int, element_bytes: int = 4) -> dict[str, tuple[int, int]]:
    """(FLOPs, bytes) of each operation by name; see the module docstring for what is counted.

    Element-wise work counts a FLOP per multiplication, addition, division, exponential or root: 4 per element for
    RMSNorm (square, sum, scale, gain), 5 for softmax (maximum, difference, exponential, sum, division), 3 for the
    gate (SiLU's sigmoid and product, and the product), 5 for cross-entropy, 14 per parameter for AdamW (float32).

    Raises:
        ValueError: batch_size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    assert config.d_ff is not None  # filled in by ModelConfig
    tokens, d, wide, size = batch_size * config.context_length, config.d_model, config.d_ff, element_bytes
    vocab, scores = config.vocab_size, batch_size * config.num_heads * config.context_length**2

    def product(rows: int, inner: int, columns: int) -> tuple[int, int]:
        return 2 * rows * inner * columns, size * (rows * inner + inner * columns + rows * columns)

    block_weights = 4 * d * d + 3 * d * wide
    return {
        "RMSNorm": (4 * tokens * d, size * (2 * tokens * d + d)),
        "projection": product(tokens, d, d),
        "attention, fused": (4 * scores * config.d_head + 5 * scores, size * 4 * tokens * d),
        "softmax": (5 * scores, size * 2 * scores),
        "feed-forward up": product(tokens, d, wide),
        "SwiGLU gate": (3 * tokens * wide, size * 3 * tokens * wide),
        "head": product(tokens, d, vocab),
        "cross-entropy": (5 * tokens * vocab, size * tokens * vocab + 8 * tokens),
        "AdamW": (14 * block_weights, 4 * 7 * block_weights),  # reads w, g, m, v; writes w, m, v
        "decode, projection": product(1, d, d),
    }


def model_operations(
    config: ModelConfig, *, batch_size: int, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> list[Operation]:
    """The operations of `operation_costs` with this library's plain code on random inputs."""
    assert config.d_ff is not None  # filled in by ModelConfig
    generator = torch.Generator().manual_seed(seed)
    tokens, d, wide, seq = batch_size * config.context_length, config.d_model, config.d_ff, config.context_length
    parameters = 4 * d * d + 3 * d * wide

    def random(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, kind)

    x, y = random(tokens, d), random(tokens, wide)
    square, up, head, gain = random(d, d), random(wide, d), random(config.vocab_size, d), random(d)
    q, k, v = (random(batch_size, config.num_heads, seq, config.d_head) for _ in range(3))
    scores, logits = random(batch_size, config.num_heads, seq, seq), random(tokens, config.vocab_size)
    targets = torch.randint(config.vocab_size, (tokens,), generator=generator).to(device)
    weight, moments = random(parameters, kind=torch.float32), random(2, parameters, kind=torch.float32).abs_()
    gradient = random(parameters, kind=torch.float32)
    runs: dict[str, Callable[[], Any]] = {
        "RMSNorm": lambda: rms_norm(x, gain),
        "projection": lambda: x @ square.T,
        "attention, fused": lambda: causal_attention(q, k, v),
        "softmax": lambda: softmax(scores, dim=-1),
        "feed-forward up": lambda: x @ up.T,
        "SwiGLU gate": lambda: silu(y) * y,
        "head": lambda: x @ head.T,
        "cross-entropy": lambda: cross_entropy(logits, targets),
        "AdamW": lambda: _adamw(weight, gradient, *moments),
        "decode, projection": lambda: x[:1] @ square.T,
    }
    costs = operation_costs(config, batch_size=batch_size, element_bytes=dtype.itemsize)
    return [Operation(name, flops, size, runs[name]) for name, (flops, size) in costs.items()]


def _adamw(weight: torch.Tensor, gradient: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> None:
    """The update of `cs336_basics.optimizer.AdamW` on one flat tensor."""
    weight.mul_(1 - 1e-5)
    m.lerp_(gradient, 0.1)
    v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    weight.addcdiv_(m, v.sqrt().add_(1e-8), value=-1e-3)


@torch.no_grad()
def measure_points(
    operations: Sequence[Operation], peaks: Peaks, *, device: torch.device, repeats: int = 5
) -> list[Point]:
    """Run each operation and set it against the roof."""
    points = []
    for operation in operations:
        assert operation.run is not None
        seconds = time_call(operation.run, device=device, warmups=2, repeats=repeats).median_ms / 1e3
        points.append(
            Point(
                operation.name,
                operation.flops,
                operation.bytes,
                operation.intensity,
                peaks.attainable(operation.intensity),
                operation.flops / seconds,
            )  # fmt: skip
        )
    return points


def roofline_figure(peaks: Peaks, points: Sequence[Point]) -> matplotlib.figure.Figure:
    """The roof and the points below it, on logarithmic axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib; install it with: pip install matplotlib") from error
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    least = min([point.intensity for point in points] + [peaks.ridge]) / 3
    most = max([point.intensity for point in points] + [peaks.ridge]) * 3
    axes.plot(
        [least, peaks.ridge, most], [peaks.attainable(x) / 1e9 for x in (least, peaks.ridge, most)], color="black",
        linewidth=1.6, label=f"{peaks.flops / 1e9:,.0f} GFLOP/s, {peaks.bandwidth / 1e9:,.1f} GB/s",
    )  # fmt: skip
    axes.axvline(peaks.ridge, color=COLOURS[4], linestyle=":", linewidth=1, label=f"ridge {peaks.ridge:.1f} FLOP/byte")
    for number, point in enumerate(points):
        colour, marker = COLOURS[number % len(COLOURS)], "os^Dv"[number // len(COLOURS) % 5]
        axes.plot(
            [point.intensity], [point.measured / 1e9], marker, color=colour, markersize=6, linestyle="none",
            label=point.name,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("arithmetic intensity, FLOPs per byte")
    axes.set_ylabel("GFLOP/s")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside right upper", fontsize=8)
    return figure


def roofline_table(points: Sequence[Point]) -> Table:
    """One row per operation, the least intensive first."""
    headers = ["operation", "MFLOP", "MB", "FLOP/byte", "attainable, GFLOP/s", "measured, GFLOP/s", "of attainable, %"]
    rows: list[list[Any]] = [
        [p.name, p.flops / 1e6, p.bytes / 1e6, p.intensity, p.attainable / 1e9, p.measured / 1e9, 100 * p.share]
        for p in sorted(points, key=lambda point: point.intensity)
    ]
    return Table(headers, rows)


def measure_roofline(
    config: ModelConfig, *, batch_size: int, device: str = "auto", dtype: str = "float32", repeats: int = 5,
    peak_size: int | None = None, copy_bytes: int | None = None, seed: int = 0,
) -> tuple[Peaks, list[Point]]:  # fmt: skip
    """The machine's peaks and every operation of the model against them.

    Args:
        config, batch_size: the model, and how many sequences of context_length.
        device: cpu, cuda, or auto.
        dtype: one of DTYPES.
        repeats: measurements of each.
        peak_size, copy_bytes: see `measure_peaks`; by default 8192 and 4 GiB on a GPU, 2048 and 256 MiB elsewhere.

    Raises:
        ValueError: an unknown dtype, or a count out of range.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    place = choose_device(device)
    big = place.type == "cuda"
    sizes = {
        "size": peak_size or (8192 if big else 2048), "copy_bytes": copy_bytes or (1 << 32 if big else 1 << 28)
    }  # fmt: skip
    before = measure_peaks(place, DTYPES[dtype], **sizes, repeats=repeats)
    operations = model_operations(config, batch_size=batch_size, device=place, dtype=DTYPES[dtype], seed=seed)
    measured = measure_points(operations, before, device=place, repeats=repeats)
    after = measure_peaks(place, DTYPES[dtype], **sizes, repeats=repeats)  # other work may have slowed the first
    peaks = Peaks(max(before.flops, after.flops), max(before.bandwidth, after.bandwidth))
    return peaks, [replace(point, attainable=peaks.attainable(point.intensity)) for point in measured]


def roofline_alt(peaks: Peaks, points: Sequence[Point]) -> str:
    """The picture in words."""
    memory = [point.name for point in points if point.intensity < peaks.ridge]
    return (
        f"Roofline with a peak of {peaks.flops / 1e9:,.0f} GFLOP/s, {peaks.bandwidth / 1e9:.1f} GB/s and the ridge at "
        f"{peaks.ridge:.1f} FLOPs per byte; limited by memory: {', '.join(memory) or 'none'}"
    )


def write_roofline(peaks: Peaks, points: Sequence[Point], directory: Path, *, device: torch.device, about: str) -> Path:
    """Write roofline.json, report.md and report.html; returns the Markdown file."""
    values = {"peaks": asdict(peaks) | {"ridge": peaks.ridge}, "points": [asdict(point) for point in points]}
    write_json(directory / "roofline.json", {**values, "environment": environment_with_device(device)})
    figures = [
        KeyFigure("matrix product", f"{peaks.flops / 1e9:,.0f} GFLOP/s"),
        KeyFigure("copy", f"{peaks.bandwidth / 1e9:,.1f} GB/s"),
        KeyFigure("ridge", f"{peaks.ridge:.1f} FLOPs per byte"),
    ]
    picture = Picture(roofline_figure(peaks, points), "roofline", roofline_alt(peaks, points))
    report = Report("Roofline", [Paragraph(about), KeyFigures(figures), picture, roofline_table(points)])
    return write_report(report, directory)[1]
