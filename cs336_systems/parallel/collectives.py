"""How fast the collectives of torch.distributed are here: by operation, size, number of ranks, and backend.

    algbw = size / time                     what the caller sees
    busbw = algbw * factor                  what each link carries, comparable over operations and numbers of ranks

with the factors of nccl-tests for n ranks: all-reduce 2(n-1)/n; all-gather, reduce-scatter and all-to-all (n-1)/n,
where the size is that of the whole (gathered, unscattered) tensor; broadcast 1. A repetition lasts until its slowest
rank is done, so the ranks' times are gathered and the largest counts; the figure is the median over repetitions, after
warm-ups (the first call connects the ranks). Before timing, each result is checked against what it must be.

Handout: distributed_communication_single_node. Left out: several machines (start `measure_rank` under torchrun). Read
next: `ring_all_reduce.py` for why 2(n-1)/n, `communication_accounting.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_basics.runs.report import Cell, Paragraph, Report, Table, write_report
from cs336_systems.parallel.process_group import all_gather_into, joined_group, launch, reduce_scatter_into

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all"]
Backend = Literal["gloo", "gloo-cuda", "nccl"]


@dataclass(frozen=True)
class CollectivesConfig:
    """What to measure; every combination is run.

    Raises:
        ValueError: nothing to measure, a name that is not known, or a number out of range.
    """

    operations: tuple[Operation, ...] = ("all_reduce",)
    """collectives to time"""
    sizes_mb: tuple[float, ...] = (1.0, 10.0, 100.0)
    """float32 tensor in MB (10^6 bytes), rounded down to a multiple of the ranks"""
    world_sizes: tuple[int, ...] = (2, 4)
    """numbers of ranks"""
    backends: tuple[Backend, ...] = ("gloo",)
    """gloo: tensors in CPU memory; gloo-cuda: GPU tensors through the CPU; nccl: one GPU per rank"""
    warmups: int = 5
    """untimed runs before each measurement"""
    repeats: int = 10
    """timed runs"""
    timeout_s: float = 300.0
    """limit of each collective"""

    def __post_init__(self) -> None:
        for name, choices in (("operations", get_args(Operation)), ("backends", get_args(Backend))):
            for value in getattr(self, name):
                if value not in choices:
                    raise ValueError(f"{name} must be among {', '.join(choices)}; got {value!r}")
        for name in ("operations", "sizes_mb", "world_sizes", "backends"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; name at least one")
        if min(self.sizes_mb) <= 0 or min(self.world_sizes) < 1 or self.repeats < 1 or self.warmups < 0:
            raise ValueError(
                "sizes_mb must be positive, world_sizes and repeats at least 1 and warmups at least 0; got "
                f"{self.sizes_mb}, {self.world_sizes}, {self.repeats} and {self.warmups}"
            )


@dataclass(frozen=True)
class Measurement:
    """One row: a collective of `size_bytes` over `world_size` ranks."""

    operation: Operation
    backend: Backend
    world_size: int
    size_bytes: int
    median_s: float
    fastest_s: float
    slowest_s: float

    @property
    def algbw_gb_per_s(self) -> float:
        """Size over median time, in 10^9 bytes per second."""
        return self.size_bytes / self.median_s / 1e9

    @property
    def busbw_gb_per_s(self) -> float:
        """What each link carries."""
        return self.algbw_gb_per_s * bus_factor(self.operation, self.world_size)


def bus_factor(operation: Operation, world_size: int) -> float:
    """Bytes over each rank's link, per byte of the tensor."""
    if operation == "broadcast":
        return 1.0
    passes = 2 if operation == "all_reduce" else 1
    return passes * (world_size - 1) / world_size


def measure(config: CollectivesConfig) -> list[Measurement]:
    """Start the ranks for each backend and world size, and time every operation and size.

    Raises:
        ValueError: more ranks than GPUs for NCCL, or no GPU for gloo-cuda.
        ChildFailedError: a rank failed, gave a wrong result, or waited too long.
    """
    rows = []
    for backend in config.backends:
        for world_size in config.world_sizes:
            _check_gpus(backend, world_size)
            rows += launch(_measure_in_group, world_size, config, backend)[0]
    return rows


def _check_gpus(backend: Backend, world_size: int) -> None:
    gpus = torch.cuda.device_count()
    if backend == "gloo-cuda" and not gpus:
        raise ValueError("backend 'gloo-cuda' needs a GPU, and torch finds none here; use 'gloo'")
    if backend == "nccl" and gpus < world_size:
        raise ValueError(
            f"NCCL needs one GPU per rank; got {world_size} ranks and {gpus} GPUs; use 'gloo' or fewer ranks"
        )


def _measure_in_group(config: CollectivesConfig, backend: Backend) -> list[Measurement]:
    """The life of one process; one thread, as the ranks share the processors."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if backend == "nccl" else "cpu")
    with joined_group(device=device, timeout_s=config.timeout_s):
        return measure_rank(config, backend)


def measure_rank(config: CollectivesConfig, backend: Backend) -> list[Measurement]:
    """All operations and sizes, on one rank of the default group; every rank returns the same."""
    rank, n = dist.get_rank(), dist.get_world_size()
    device = torch.device("cpu" if backend == "gloo" else f"cuda:{rank % torch.cuda.device_count()}")
    rows = []
    for operation in config.operations:
        for size_mb in config.sizes_mb:
            numel = max(1, int(size_mb * 1e6 / 4 / n)) * n
            run, result, expected = prepare(operation, numel, device)
            run()
            if not torch.equal(result, expected.expand_as(result)):
                raise AssertionError(
                    f"{operation} of {numel} numbers over {n} ranks gave a wrong result on rank {rank}"
                )
            seconds = _slowest_ranks([_time(run, device) for _ in range(config.warmups + config.repeats)])
            timed = seconds[config.warmups :]
            rows.append(Measurement(operation, backend, n, 4 * numel, statistics.median(timed), min(timed), max(timed)))
    return rows


def prepare(operation: Operation, numel: int, device: torch.device) -> tuple[Callable[[], Any], Tensor, Tensor]:
    """(what to time, tensor with its result after the first call, value that tensor must have then)."""
    rank, n = dist.get_rank(), dist.get_world_size()
    own = torch.full((numel,), float(rank + 1), device=device)
    part = own[: numel // n]
    ranks = torch.arange(1.0, n + 1, device=device)
    by_rank = ranks.repeat_interleave(numel // n)
    if operation == "all_reduce":
        return lambda: dist.all_reduce(own), own, ranks.sum()
    if operation == "broadcast":
        return lambda: dist.broadcast(own, src=0), own, ranks[:1]
    out = torch.zeros(numel, device=device)
    if operation == "all_gather":
        return lambda: all_gather_into(out, part), out, by_rank
    if operation == "reduce_scatter":
        return lambda: reduce_scatter_into(out[: numel // n], own), out[: numel // n], ranks.sum()
    return lambda: dist.all_to_all_single(out, own), out, by_rank


def _time(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds on this rank, from a common start to the end of its work."""
    dist.barrier()
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    """Wait for the GPU, where there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _slowest_ranks(seconds: list[float]) -> list[float]:
    """Per repetition, the time of the slowest rank."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, seconds)
    return [max(times) for times in zip(*gathered, strict=True)]


def write_measurements(config: CollectivesConfig, rows: list[Measurement], directory: Path) -> Path:
    """Write collectives.json and a report (HTML, Markdown) into `directory`; returns the Markdown file."""
    values = [{**asdict(r), "algbw_gb_per_s": r.algbw_gb_per_s, "busbw_gb_per_s": r.busbw_gb_per_s} for r in rows]
    environment = describe_environment()
    write_json(
        directory / "collectives.json", {"config": asdict(config), "environment": environment, "measurements": values}
    )
    machine = ", ".join(f"{name} {value}" for name, value in environment.items() if value is not None)
    about = (
        f"Float32; median over {config.repeats} repetitions of the slowest rank's time, after {config.warmups} "
        f"warm-ups. {machine}."
    )
    report = Report("Collectives").add(Paragraph(about), table(rows))
    return write_report(report, directory)[1]


def table(rows: list[Measurement]) -> Table:
    """The measurements, a line each."""
    headers = ["operation", "backend", "ranks", "MB", "median ms", "min ms", "max ms", "algbw GB/s", "busbw GB/s"]
    cells: list[list[Cell]] = [
        [
            r.operation.replace("_", "-"), r.backend, r.world_size, r.size_bytes / 1e6, *map(
                _three_digits, (r.median_s * 1e3, r.fastest_s * 1e3, r.slowest_s * 1e3, r.algbw_gb_per_s,
                                r.busbw_gb_per_s)
            ),
        ]
        for r in rows
    ]  # fmt: skip
    return Table(headers, cells)


def _three_digits(value: float) -> str:
    """For a table."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
