"""The verbs `cs336 systems collectives`, `ring` and `pipeline`: measure, and draw.

Torch is imported inside, so that --help is quick. Read next: `collectives.py`, `ring_all_reduce.py`,
`pipeline_schedule.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cs336_basics.runs.command_line import parse


@dataclass(frozen=True)
class CollectivesOptions:
    """Time all-reduce and other collectives over processes of this machine."""

    operations: tuple[Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all"], ...] = (
        "all_reduce",
    )
    """collectives to time"""
    sizes_mb: tuple[float, ...] = (1.0, 10.0, 100.0)
    """float32 tensors, in MB"""
    world_sizes: tuple[int, ...] = (2, 4)
    """numbers of ranks"""
    backends: tuple[Literal["gloo", "gloo-cuda", "nccl"], ...] = ("gloo",)
    """gloo on the CPU, gloo with GPU tensors, or NCCL with a GPU per rank"""
    warmups: int = 5
    """untimed runs before each measurement"""
    repeats: int = 10
    """timed runs"""
    timeout_s: float = 300.0
    """limit of each collective"""
    out: Path | None = None
    """folder for collectives.json, report.md and report.html"""
    json: bool = False
    """print JSON instead of Markdown"""


def collectives(argv: list[str]) -> None:
    """`cs336 systems collectives`."""
    options = parse(
        CollectivesOptions, argv, "systems collectives", example="systems collectives --sizes-mb 1 10 --world-sizes 2 4"
    )
    from cs336_basics.runs.report import Report
    from cs336_basics.runs.report_markdown import render_markdown
    from cs336_systems.parallel.collectives import CollectivesConfig, measure, table, write_measurements

    values = {name: value for name, value in vars(options).items() if name not in ("out", "json")}
    config = CollectivesConfig(**values)
    rows = measure(config)
    if options.out is not None:
        write_measurements(config, rows, options.out)
    print(json.dumps([asdict(r) for r in rows], indent=2) if options.json else
          render_markdown(Report("Collectives").add(table(rows))))  # fmt: skip


@dataclass(frozen=True)
class RingOptions:
    """Draw a ring all-reduce step by step, with what each rank holds and sends."""

    ranks: int = 4
    """ranks in the ring"""
    numbers: int = 16
    """float32 numbers on each rank"""
    alternate: bool = False
    """pass whole vectors round the ring instead of chunks"""


def ring(argv: list[str]) -> None:
    """`cs336 systems ring`."""
    options = parse(RingOptions, argv, "systems ring", example="systems ring --ranks 4")
    import torch

    from cs336_systems.parallel.ring_all_reduce import alternate_ring_all_reduce, draw_ring, ring_all_reduce

    if options.ranks < 1 or options.numbers < 0:
        raise ValueError(f"--ranks must be at least 1 and --numbers 0; got {options.ranks} and {options.numbers}")
    reduce = alternate_ring_all_reduce if options.alternate else ring_all_reduce
    print(draw_ring(reduce([torch.ones(options.numbers) for _ in range(options.ranks)])))


@dataclass(frozen=True)
class PipelineOptions:
    """Draw a pipeline schedule and count its bubble and the activations it keeps."""

    schedule: Literal["gpipe", "1f1b"] = "1f1b"
    """order of the passes"""
    stages: int = 4
    """stages of the pipeline"""
    micro_batches: int = 8
    """micro-batches per step"""


def pipeline(argv: list[str]) -> None:
    """`cs336 systems pipeline`."""
    options = parse(PipelineOptions, argv, "systems pipeline", example="systems pipeline --schedule gpipe --stages 4")
    from cs336_systems.parallel.pipeline_schedule import SCHEDULES, draw_schedule, simulate

    timeline = simulate(SCHEDULES[options.schedule](options.stages, options.micro_batches))
    print(draw_schedule(timeline))
    print(f"\nbubble {timeline.bubble_fraction:.1%}; micro-batches kept at most, by stage: "
          + ", ".join(map(str, timeline.peak_in_flight)))  # fmt: skip
