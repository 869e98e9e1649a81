"""The verbs of assignment 2 that measure: benchmark, profile, memory, roofline, mixed-precision, leaderboard-step.

Each parses its arguments, calls the library and prints; torch is imported inside, so that --help is quick.

Read next: `benchmarking.py`, `profiling.py`, `memory.py`, `roofline.py`, `leaderboard_step.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from cs336_basics.runs.command_line import parse, print_result

if TYPE_CHECKING:
    from cs336_basics.model_config import ModelConfig

Switch = tyro.conf.FlagCreatePairsOff[bool]
Precision = Literal["float32", "bfloat16"]
Mode = Literal["forward", "backward", "step"]


@dataclass(frozen=True)
class Benchmark:
    """Time forward, backward and optimizer step for sizes of the course's table or any config."""

    sizes: tuple[str, ...] = ("small",)
    """names of the edition's table, "all", or configs: TOML files, shipped names, run directories"""
    context_lengths: tuple[int, ...] = ()
    """tokens per sequence, each size at each; the edition's or the config's own by default"""
    edition: Literal[2024, 2025, 2026] = 2026
    """whose table"""
    batch_size: int | None = None
    """sequences per step; the edition's by default (16 in 2024, else 4)"""
    mode: Mode = "step"
    """forward (no gradients), backward (forward, loss, backward), step (these and AdamW)"""
    precision: Precision = "float32"
    """float32, or bfloat16 for autocast"""
    compile: Switch = False
    """run the model through torch.compile"""
    warmups: int = 5
    """steps that are not counted"""
    repeats: int = 10
    """steps that are"""
    memory_gb: float | None = None
    """memory (10^9 bytes) above which a size is skipped; what is free by default"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""
    out: Path = Path("runs/benchmark")
    """directory for benchmark.json, report.md and report.html"""
    json: Switch = False
    """print the rows as JSON instead of Markdown"""


def benchmark(argv: list[str]) -> None:
    """`cs336 systems benchmark`."""
    o = parse(Benchmark, argv, "systems benchmark", example="systems benchmark --sizes small medium --mode forward")
    from cs336_systems.benchmarking import BenchmarkOptions, run_benchmark, write_benchmark
    from cs336_systems.model_sizes import DEFAULTS, size_names

    options = BenchmarkOptions(
        batch_size=DEFAULTS[o.edition][0] if o.batch_size is None else o.batch_size, mode=o.mode,
        precision=o.precision, compile=o.compile, warmups=o.warmups, repeats=o.repeats, device=o.device,
    )  # fmt: skip
    names = [name for size in o.sizes for name in (size_names(o.edition) if size == "all" else (size,))]
    if not names:
        raise ValueError("sizes must name at least one model; got none")
    models = [
        (name, find_model(name, o.edition, context)) for name in names for context in (o.context_lengths or (None,))
    ]
    limit = None if o.memory_gb is None else int(o.memory_gb * 1e9)
    rows = run_benchmark(models, options, memory_bytes=limit)
    report = write_benchmark(rows, options, o.out)
    if o.json:
        import json

        print(json.dumps([row.to_dict() for row in rows], indent=2))
    else:
        print(report.read_text(encoding="utf-8"))


def find_model(name: str, edition: int, context_length: int | None) -> ModelConfig:
    """A model of the course's table by name, or any config by file, shipped name or run directory.

    Raises:
        ValueError: a file without a model. FileNotFoundError: nothing of that name.
    """
    import dataclasses
    import json
    import tomllib

    from cs336_basics.cli import find_config
    from cs336_basics.model_config import ModelConfig
    from cs336_basics.runs.config import config_from_dict
    from cs336_systems.model_sizes import course_model, size_names

    if name in (*size_names(edition), "2.7B", "10B"):
        return course_model(name, edition=edition, context_length=context_length)
    stored = Path(name) / "model_config.json"
    try:
        text = (stored if stored.is_file() else find_config(name)).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}, or a size: {', '.join(size_names(edition))}") from None
    values = json.loads(text) if stored.is_file() else tomllib.loads(text).get("model")
    if values is None:
        raise ValueError(f"{name} has no [model] table")
    config = config_from_dict(ModelConfig, values)
    return config if context_length is None else dataclasses.replace(config, context_length=context_length)


@dataclass(frozen=True)
class Profile:
    """Profile a training step: trace, table of functions, flame graph."""

    size: str = "small"
    """a name of the edition's table, or a config"""
    context_length: int | None = None
    """tokens per sequence"""
    edition: Literal[2024, 2025, 2026] = 2026
    """whose table"""
    batch_size: int = 4
    """sequences per step"""
    mode: Mode = "step"
    """what a step is"""
    precision: Precision = "float32"
    """float32, or bfloat16 for autocast"""
    warmups: int = 2
    """steps before the profiler starts"""
    repeats: int = 1
    """steps that it sees"""
    stacks: Switch = False
    """also record Python's frames (slower, larger)"""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one"""
    out: Path = Path("runs/profile")
    """directory for trace.json, stacks.txt, flame_graph.svg and the report"""


def profile(argv: list[str]) -> None:
    """`cs336 systems profile`."""
    o = parse(Profile, argv, "systems profile", example="systems profile --size small --context-length 128 --stacks")
    from cs336_systems.profiling import profile_step, write_profile

    config = find_model(o.size, o.edition, o.context_length)
    profiler = profile_step(
        config, batch_size=o.batch_size, mode=o.mode, precision=o.precision, device=o.device, warmups=o.warmups,
        repeats=o.repeats, stacks=o.stacks,
    )  # fmt: skip
    about = f"Size {o.size}, context {config.context_length}, batch {o.batch_size}, {o.precision}, {o.repeats} steps."
    print(write_profile(profiler, o.out, about=about).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Memory:
    """Say where the memory of a training step goes, by formula, and measure it where that is possible."""

    size: str = "small"
    """a name of the edition's table, or a config"""
    context_length: int | None = None
    """tokens per sequence"""
    edition: Literal[2024, 2025, 2026] = 2026
    """whose table"""
    batch_size: int = 4
    """sequences per step"""
    mode: Mode = "step"
    """what a step is"""
    precision: Precision = "float32"
    """float32, or bfloat16 for autocast"""
    trace: Switch = False
    """also count a float32 step on the meta device, which needs no memory (seconds to a minute)"""
    snapshot: Path | None = None
    """on a GPU, record a step into this file for pytorch.org/memory_viz"""
    json: Switch = False
    """print the result as JSON"""


def memory(argv: list[str]) -> None:
    """`cs336 systems memory`."""
    o = parse(Memory, argv, "systems memory", example="systems memory --size xl --context-length 2048 --mode backward")
    from cs336_systems.memory import block_residual_bytes, has_formula, step_memory
    from cs336_systems.memory_measurement import memory_snapshot, trace_step

    config = find_model(o.size, o.edition, o.context_length)
    values: dict[str, Any] = {}
    if has_formula(config):
        parts = step_memory(config, batch_size=o.batch_size, mode=o.mode, precision=o.precision)
        named = {"weights": parts.weights, "gradients": parts.gradients, "AdamW moments": parts.optimizer,
                 "activations kept for the backward pass": parts.activations}  # fmt: skip
        values |= {f"{name}, GB": size / 1e9 for name, size in named.items()}
        residuals = block_residual_bytes(config, batch_size=o.batch_size, precision=o.precision)
        values |= {"  of them, of a block, GB": residuals / 1e9} if o.mode != "forward" else {}
        values |= {f"alive, {name}, GB": size / 1e9 for name, size in parts.moments.items()}
        values |= {"peak, GB": parts.peak / 1e9, "peak at": parts.peak_moment}
    if o.trace or not has_formula(config):
        traced = trace_step(config, batch_size=o.batch_size, mode=o.mode)
        values |= {"peak on the meta device, float32, GB": traced / 1e9}
    if o.snapshot is not None:
        from cs336_basics.runs.machine import choose_device
        from cs336_systems.profiling import training_step

        with memory_snapshot(o.snapshot):
            training_step(
                config, batch_size=o.batch_size, mode=o.mode, precision=o.precision, device=choose_device("cuda")
            )()
        values |= {"snapshot": str(o.snapshot)}
    print_result(values, as_json=o.json)


@dataclass(frozen=True)
class Roofline:
    """Measure the machine's peaks and how near to them the model's operations come."""

    size: str = "small"
    """a name of the edition's table, or a config"""
    context_length: int | None = 256
    """tokens per sequence"""
    edition: Literal[2024, 2025, 2026] = 2026
    """whose table"""
    batch_size: int = 1
    """sequences"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the operations"""
    repeats: int = 5
    """measurements of each operation"""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one"""
    out: Path = Path("runs/roofline")
    """directory for roofline.json and the report"""


def roofline(argv: list[str]) -> None:
    """`cs336 systems roofline`."""
    o = parse(Roofline, argv, "systems roofline", example="systems roofline --size small --dtype bfloat16")
    from cs336_basics.runs.machine import choose_device
    from cs336_systems.roofline import measure_roofline, write_roofline

    config = find_model(o.size, o.edition, o.context_length)
    peaks, points = measure_roofline(
        config, batch_size=o.batch_size, device=o.device, dtype=o.dtype, repeats=o.repeats
    )  # fmt: skip
    about = f"Size {o.size}, context {config.context_length}, batch {o.batch_size}, {o.dtype}."
    report = write_roofline(peaks, points, o.out, device=choose_device(o.device), about=about)
    print(report.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class MixedPrecision:
    """Show what sums lose in half precision, and which parts of a step autocast keeps in float32."""

    dtype: Literal["float16", "bfloat16"] = "float16"
    """autocast's"""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one"""
    json: Switch = False
    """print the result as JSON"""


def mixed_precision(argv: list[str]) -> None:
    """`cs336 systems mixed-precision`."""
    o = parse(MixedPrecision, argv, "systems mixed-precision", example="systems mixed-precision --dtype bfloat16")
    from cs336_basics.runs.machine import choose_device
    from cs336_systems.mixed_precision import accumulation_results, autocast_dtypes
    from cs336_systems.roofline import DTYPES

    sums = {f"0.01 a thousand times, {name}": f"{value:.6f}" for name, value in accumulation_results().items()}
    dtypes = autocast_dtypes(choose_device(o.device), DTYPES[o.dtype])
    print_result({**sums, **{f"autocast: {name}": dtype for name, dtype in dtypes.items()}}, as_json=o.json)


@dataclass(frozen=True)
class LeaderboardStep:
    """Check and time the 2026 leaderboard's full training step."""

    entry: Literal["plain", "chunked-loss"] = "chunked-loss"
    """which of the library's own entries; others are timed by leaderboard_step.time_entry"""
    shape: Literal["toy", "full"] = "toy"
    """the board's 8B shape, or a tiny one"""
    precision: Precision = "float32"
    """float32, or bfloat16 for autocast"""
    warmups: int = 3
    """steps that are not counted"""
    repeats: int = 10
    """steps that are"""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one"""
    json: Switch = False
    """print the result as JSON"""


def leaderboard_step(argv: list[str]) -> None:
    """`cs336 systems leaderboard-step`."""
    o = parse(LeaderboardStep, argv, "systems leaderboard-step", example="systems leaderboard-step --shape toy")
    import functools

    from cs336_basics.runs.machine import choose_device
    from cs336_systems.leaderboard_step import ENTRIES, FULL_SHAPE, TOY_SHAPE, refuse_if_too_large, time_entry

    device, shape = choose_device(o.device), {"toy": TOY_SHAPE, "full": FULL_SHAPE}[o.shape]
    refuse_if_too_large(shape, device, precision=o.precision)
    result = time_entry(
        functools.partial(ENTRIES[o.entry], precision=o.precision), shape, device=device, warmups=o.warmups,
        repeats=o.repeats, tolerance=1e-3 if o.precision == "float32" else 0.15,
    )  # fmt: skip
    print_result(result.to_dict(), as_json=o.json)
