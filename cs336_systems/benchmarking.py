"""What a training step costs, part by part: forward, backward, optimizer, for the course's sizes or any model.

Each repeat gets a fresh random batch; each part ends with a wait for the device; means, spreads and medians come from
`timing.py`. A size whose memory, by the formulas of `memory.py`, is not there is not tried: its row says what it would
need and what there is. A row also says what share of the product rate the step reached when that rate is given.

    model FLOPs of a step = 3 * forward products (accounting.py);   of a forward pass, once

Handout: benchmarking_script, benchmarking_mixed_precision, torch_compile. Left out: several GPUs (`parallel/`); the
memory of a compiled step, which fuses operations and keeps less than predicted. Read next: `profiling.py`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cs336_basics.accounting import forward_flops, parameter_counts
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.optimizer import AdamW
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.machine import choose_device
from cs336_basics.runs.provenance import describe_environment
from cs336_basics.runs.report import Paragraph, Report, Table, write_report
from cs336_systems.memory import MODES, check_step, has_formula, step_memory
from cs336_systems.memory_measurement import autocast, memory_limit, trace_step
from cs336_systems.timing import Timing, check_counts, time_parts


@dataclass(frozen=True)
class BenchmarkOptions:
    """How every model is measured.

    Raises:
        ValueError: an unknown mode or precision, or a count out of range.
    """

    batch_size: int = 4
    """sequences per step"""
    mode: str = "step"
    """forward (no gradients), backward (forward, loss, backward), step (these and AdamW)"""
    precision: str = "float32"
    """float32, or bfloat16 for autocast"""
    compile: bool = False
    """run the model through torch.compile; its compilation falls into the warm-ups, so it needs at least one"""
    warmups: int = 5
    """steps that are not counted"""
    repeats: int = 10
    """steps that are"""
    seed: int = 0
    """seed of weights and batches"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""

    def __post_init__(self) -> None:
        check_step(self.batch_size, self.mode, self.precision)
        check_counts(self.warmups, self.repeats)
        if self.compile and self.warmups == 0:
            raise ValueError("compile needs warmups of at least 1, for the compilation not to be timed; got warmups=0")


@dataclass(frozen=True)
class BenchmarkRow:
    """The result for one model: timings by part, or the reason why there are none."""

    name: str
    context_length: int
    parameters: int
    predicted_bytes: int
    timings: Mapping[str, Timing]
    """by part and "total"; empty when skipped"""
    peak_bytes: int | None = None
    """measured on a GPU; None elsewhere"""
    flops: int = 0
    """of the model's matrix products in one pass"""
    tokens: int = 0
    """in one pass"""
    skipped: str = ""
    """why it was not run"""

    @property
    def tokens_per_second(self) -> float | None:
        """By the median."""
        return 1e3 * self.tokens / self.timings["total"].median_ms if self.timings else None

    @property
    def tflops(self) -> float | None:
        """10^12 products and sums per second, by the median."""
        return self.flops / self.timings["total"].median_ms / 1e9 if self.timings else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"tokens_per_second": self.tokens_per_second, "tflops": self.tflops}


def run_benchmark(
    models: Sequence[tuple[str, ModelConfig]],
    options: BenchmarkOptions,
    *,
    memory_bytes: int | None = None,
    say: Callable[[str], None] | None = None,
) -> list[BenchmarkRow]:
    """Measure each model in turn, skipping those that do not fit.

    Args:
        models: (name, config); sequences have the config's context_length.
        options: how.
        memory_bytes: what may be used; what the device has free by default.
        say: takes a line of progress; prints to standard error by default.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    device, rows = choose_device(options.device), []
    for number, (name, config) in enumerate(models, start=1):
        prefix = f"[{number}/{len(models)}] {name}, context {config.context_length}"
        needed, limit = predict_bytes(config, options), memory_bytes or memory_limit(device)
        if needed > limit:
            reason = f"needs {needed / 1e9:.1f} GB, {limit / 1e9:.1f} GB are free"
            row = BenchmarkRow(name, config.context_length, _parameters(config), needed, {}, skipped=reason)
            say(f"{prefix}: skipped, {reason}")
        else:
            say(f"{prefix} ...")
            row = measure_model(name, config, options, predicted_bytes=needed)
            say(f"{prefix}: {row.timings['total'].mean_ms:.1f} ms")
        rows.append(row)
    return rows


def predict_bytes(config: ModelConfig, options: BenchmarkOptions) -> int:
    """Peak memory: the formula's where there is one, else that of a step on the meta device.

    Under bfloat16 the latter is of float32 activations, plus bfloat16 copies of all weights.
    """
    if has_formula(config):
        return step_memory(config, batch_size=options.batch_size, mode=options.mode, precision=options.precision).peak
    copies = 2 * _parameters(config) if options.precision == "bfloat16" else 0
    return trace_step(config, batch_size=options.batch_size, mode=options.mode) + copies


def measure_model(
    name: str, config: ModelConfig, options: BenchmarkOptions, *, predicted_bytes: int = 0
) -> BenchmarkRow:
    """Build the model with the options' seed and time its parts."""
    device = choose_device(options.device)
    if options.compile:
        _check_compiler(device)
    with torch.random.fork_rng(enabled=True):
        torch.manual_seed(options.seed)
        model = TransformerLM(config, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    run: Any = torch.compile(model) if options.compile else model
    generator = torch.Generator().manual_seed(options.seed)
    shape = (options.batch_size, config.context_length + 1)

    def batch(_: int) -> Tensor:
        return torch.randint(config.vocab_size, shape, generator=generator).to(device)

    parts = step_parts(run, AdamW(model.parameters()), mode=options.mode, precision=options.precision, device=device)
    seconds = time_parts(parts, batch, device=device, warmups=options.warmups, repeats=options.repeats)
    flops = options.batch_size * sum(forward_flops(config).values()) * (1 if options.mode == "forward" else 3)
    return BenchmarkRow(
        name, config.context_length, _parameters(config), predicted_bytes,
        {part: Timing.of(values) for part, values in seconds.items()},
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        flops=flops, tokens=options.batch_size * config.context_length,
    )  # fmt: skip


def step_parts(
    model: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, *, mode: str, precision: str,
    device: torch.device,
) -> list[tuple[str, Callable[[Any], Any]]]:  # fmt: skip
    """The parts of a step as (name, function); the first takes ids (batch, context + 1), each hands on to the next.

    Gradients are cleared at the end of the backward pass or of the update, so that none add up.
    """

    def forward_alone(ids: Tensor) -> None:
        with torch.no_grad(), autocast(device, precision):
            model(ids[:, :-1])

    def forward(ids: Tensor) -> Tensor:
        with autocast(device, precision):
            return cross_entropy(model(ids[:, :-1]), ids[:, 1:])

    def backward(loss: Tensor) -> None:
        loss.backward()
        if mode == "backward":
            optimizer.zero_grad()

    def update(_: None) -> None:
        optimizer.step()
        optimizer.zero_grad()

    if mode == "forward":
        return [("forward", forward_alone)]
    parts: list[tuple[str, Callable[[Any], Any]]] = [("forward", forward), ("backward", backward)]
    return parts if mode == "backward" else [*parts, ("optimizer", update)]


def part_names(mode: str) -> list[str]:
    """The parts that are timed, with "total" at the end."""
    return [*["forward", "backward", "optimizer"][: MODES.index(mode) + 1], "total"]


def benchmark_table(rows: Sequence[BenchmarkRow], mode: str) -> Table:
    """One row per model: mean and standard deviation of each part, median and spread of the whole."""
    parts = part_names(mode)
    headers = ["model", "context", "parameters", *(f"{part}, ms" for part in parts), "median (p10 to p90), ms",
               "tokens/s", "TFLOP/s", "memory predicted, GB", "measured, GB"]  # fmt: skip
    cells = []
    for row in rows:
        if row.skipped:
            times: list[Any] = [f"skipped: {row.skipped}", *[None] * len(parts), None, None]
        else:
            total = row.timings["total"]
            times = [f"{row.timings[part].mean_ms:.1f} +- {row.timings[part].std_ms:.1f}" for part in parts]
            times += [f"{total.median_ms:.1f} ({total.p10_ms:.1f} to {total.p90_ms:.1f})"]
            times += [row.tokens_per_second, row.tflops]
        measured = None if row.peak_bytes is None else row.peak_bytes / 1e9
        cells.append([row.name, row.context_length, row.parameters, *times, row.predicted_bytes / 1e9, measured])
    return Table(headers, cells, caption="Times are means +- standard deviations unless it says otherwise.")


def write_benchmark(rows: Sequence[BenchmarkRow], options: BenchmarkOptions, directory: Path) -> Path:
    """Write benchmark.json, and report.md and report.html; returns the Markdown file."""
    environment = environment_with_device(choose_device(options.device))
    write_json(
        directory / "benchmark.json",
        {"options": asdict(options), "environment": environment, "rows": [row.to_dict() for row in rows]},
    )
    about = (
        f"Mode `{options.mode}`, {options.precision}, {'compiled' if options.compile else 'eager'}, batch "
        f"{options.batch_size}; {options.warmups} warm-ups, {options.repeats} repeats, fresh inputs; on "
        f"{environment['device']}, torch {environment['torch']}, {environment['threads']} CPU threads."
    )
    report = Report("Benchmark of the training step", [Paragraph(about), benchmark_table(rows, options.mode)])
    return write_report(report, directory)[1]


def environment_with_device(device: torch.device) -> dict[str, Any]:
    """Versions and machine, with the name of the accelerator and the number of CPU threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {**describe_environment(), "device": name, "threads": torch.get_num_threads()}


def _parameters(config: ModelConfig) -> int:
    return sum(parameter_counts(config).values())


def _check_compiler(device: torch.device) -> None:
    """torch.compile makes C++ for a CPU, which needs a compiler."""
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "c++", "clang++"))):
        raise ValueError("torch.compile on a CPU needs a C++ compiler and there is none; install g++ or leave it off")
