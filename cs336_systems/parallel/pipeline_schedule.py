"""Pipeline schedules as data: in which order a stage runs the forward and backward passes of its micro-batches.

    GPipe   all forwards, then all backwards; a stage keeps the activations of all M micro-batches
    1F1B    stage s of S runs S-1-s forwards ahead, then one forward, one backward, ...; it keeps S-s at most

A schedule is one list of `Pass`es per stage. `simulate` plays it against a clock: a forward waits for the stage
before, a backward for the stage after. Both schedules take (M + S - 1)(f + b) for passes of f and b seconds, and of
that stand still the share

    bubble = (S - 1) / (M + S - 1)

1F1B does not shorten the bubble; it bounds the memory, so that M can grow. GPipe: Huang et al. 2019; 1F1B: Narayanan
et al. 2019 and 2021 (PipeDream-Flush). Left out: interleaved stages and zero-bubble schedules; the time of sending.
Read next: `pipeline_parallel.py`, which runs a schedule on real processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["forward", "backward"]


@dataclass(frozen=True)
class Pass:
    """One micro-batch through one stage, one way."""

    kind: Kind
    micro_batch: int


Schedule = Sequence[Sequence[Pass]]


def gpipe_schedule(num_stages: int, num_micro_batches: int) -> Schedule:
    """All forwards in order, then all backwards in order, on every stage."""
    _check(num_stages, num_micro_batches)
    forwards = [Pass("forward", m) for m in range(num_micro_batches)]
    backwards = [Pass("backward", m) for m in range(num_micro_batches)]
    return [forwards + backwards for _ in range(num_stages)]


def one_forward_one_backward_schedule(num_stages: int, num_micro_batches: int) -> Schedule:
    """Warm-up forwards, alternating passes, the remaining backwards; see the module docstring."""
    _check(num_stages, num_micro_batches)
    schedule = []
    for stage in range(num_stages):
        ahead = min(num_stages - 1 - stage, num_micro_batches)
        passes = [Pass("forward", m) for m in range(ahead)]
        for m in range(num_micro_batches - ahead):
            passes += [Pass("forward", m + ahead), Pass("backward", m)]
        passes += [Pass("backward", m) for m in range(num_micro_batches - ahead, num_micro_batches)]
        schedule.append(passes)
    return schedule


SCHEDULES = {"gpipe": gpipe_schedule, "1f1b": one_forward_one_backward_schedule}
"""the schedules by name"""


@dataclass(frozen=True)
class TimedPass:
    """A pass with its place on the clock."""

    work: Pass
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """What `simulate` found: each stage's passes in order."""

    stages: tuple[tuple[TimedPass, ...], ...]

    @property
    def duration(self) -> float:
        """From the first pass's start to the last one's end."""
        return max(timed.end for stage in self.stages for timed in stage)

    @property
    def bubble_fraction(self) -> float:
        """Share of stages x duration in which a stage stands still."""
        busy = sum(timed.end - timed.start for stage in self.stages for timed in stage)
        return 1.0 - busy / (self.duration * len(self.stages))

    @property
    def peak_in_flight(self) -> tuple[int, ...]:
        """Per stage, most micro-batches at once whose activations wait for their backward pass."""
        peaks = []
        for stage in self.stages:
            held, peak = 0, 0
            for timed in stage:
                held += 1 if timed.work.kind == "forward" else -1
                peak = max(peak, held)
            peaks.append(peak)
        return tuple(peaks)


def simulate(schedule: Schedule, *, forward_time: float = 1.0, backward_time: float = 2.0) -> Timeline:
    """Start each pass as soon as its stage is free and its input has been computed.

    Args:
        schedule: a list of passes per stage.
        forward_time, backward_time: seconds (or any unit) of a pass on each stage; sending is free.

    Raises:
        ValueError: the stages wait for each other for ever, or a pass is missing or given twice.
    """
    check_schedule(schedule)
    ends: dict[tuple[int, Pass], float] = {}
    stages: list[list[TimedPass]] = [[] for _ in schedule]
    advanced = True
    while advanced:
        advanced = False
        for stage, passes in enumerate(schedule):
            while len(stages[stage]) < len(passes):
                work = passes[len(stages[stage])]
                inputs = _inputs(stage, work, len(schedule))
                if not all(key in ends for key in inputs):
                    break
                free = stages[stage][-1].end if stages[stage] else 0.0
                start = max([free, *(ends[key] for key in inputs)])
                end = start + (forward_time if work.kind == "forward" else backward_time)
                ends[stage, work] = end
                stages[stage].append(TimedPass(work, start, end))
                advanced = True
    for stage, passes in enumerate(schedule):
        if len(stages[stage]) < len(passes):
            raise ValueError(f"deadlock: stage {stage} waits for ever before its {passes[len(stages[stage])]}")
    return Timeline(tuple(map(tuple, stages)))


def _inputs(stage: int, work: Pass, num_stages: int) -> list[tuple[int, Pass]]:
    """What must have ended before `work` can start on `stage`."""
    if work.kind == "forward":
        return [(stage - 1, work)] if stage > 0 else []
    own = (stage, Pass("forward", work.micro_batch))
    return [own] if stage == num_stages - 1 else [own, (stage + 1, work)]


def check_schedule(schedule: Schedule) -> int:
    """The number of micro-batches; a ValueError unless every stage has each pass of each of them exactly once.

    Neighbours must also agree on the order of forwards and on that of backwards, because messages arrive in the order
    in which they were sent.
    """
    if not schedule or not schedule[0]:
        raise ValueError("a schedule needs at least one stage with at least one micro-batch")
    num_micro_batches = len(schedule[0]) // 2
    for kind in ("forward", "backward"):
        orders = [[work.micro_batch for work in passes if work.kind == kind] for passes in schedule]
        for stage, order in enumerate(orders):
            if sorted(order) != list(range(num_micro_batches)):
                raise ValueError(
                    f"stage {stage} must run one {kind} for each of 0..{num_micro_batches - 1}; got {order}"
                )
            if order != orders[0]:
                raise ValueError(f"stages must agree on the order of {kind}s; stage 0 has {orders[0]}, {stage} {order}")
    return num_micro_batches


def bubble_fraction(num_stages: int, num_micro_batches: int) -> float:
    """(S - 1) / (M + S - 1), for GPipe and 1F1B alike."""
    _check(num_stages, num_micro_batches)
    return (num_stages - 1) / (num_micro_batches + num_stages - 1)


def _check(num_stages: int, num_micro_batches: int) -> None:
    """A ValueError unless both are positive."""
    if num_stages < 1 or num_micro_batches < 1:
        raise ValueError(
            f"a pipeline needs at least one stage and one micro-batch; got {num_stages} and {num_micro_batches}"
        )


def draw_schedule(timeline: Timeline, *, cell: float = 1.0) -> str:
    """A row per stage, a column per `cell` units of time: "F3" forward and "B3" backward of micro-batch 3, "." idle.

    A pass over several cells repeats its name; cells show what runs at their start.
    """
    num_cells = round(timeline.duration / cell)
    width = max(len(str(timed.work.micro_batch)) for stage in timeline.stages for timed in stage) + 2
    lines = []
    for index, stage in enumerate(timeline.stages):
        row = ["." for _ in range(num_cells)]
        for timed in stage:
            for column in range(round(timed.start / cell), round(timed.end / cell)):
                row[column] = f"{timed.work.kind[0].upper()}{timed.work.micro_batch}"
        lines.append(f"stage {index:<3} " + "".join(text.ljust(width) for text in row).rstrip())
    return "\n".join(lines)
