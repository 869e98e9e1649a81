"""Timing without fooling oneself: warm-ups, synchronisation, a spread beside the mean.

    warm up w times;   n times:  prepare; wait for the device; t0; work; wait for the device; t1

A GPU call returns before its work is done, so without the wait one measures the queueing. The first calls are slow
(allocation, autotuning, caches) and do not count. Inputs are prepared outside the timed part and may be fresh each
time, so that nothing can be remembered from the last.

Handout: benchmarking_script. Left out: clocks and power limits of the device, which no program can hold still. Read
next: `benchmarking.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """What a few measurements of the same work say, in milliseconds."""

    mean_ms: float
    std_ms: float
    """sample standard deviation; 0 for one measurement"""
    median_ms: float
    p10_ms: float
    p90_ms: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Summary of at least one measurement, given in seconds."""
        if not seconds:
            raise ValueError("a timing needs at least one measurement; got none")
        values = [1e3 * second for second in seconds]
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(
            statistics.fmean(values), std, statistics.median(values), quantile(values, 0.1), quantile(values, 0.9),
            len(values),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between the ordered values; share 0 is the least, 1 the greatest."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def check_counts(warmups: int, repeats: int) -> None:
    """Raise a ValueError unless there are no fewer than 0 warm-ups and 1 repeat."""
    if warmups < 0:
        raise ValueError(f"warmups must be at least 0; got {warmups}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1; got {repeats}")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given; nothing to do on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def time_parts(
    parts: Sequence[tuple[str, Callable[[Any], Any]]],
    prepare: Callable[[int], Any],
    *,
    device: torch.device,
    warmups: int,
    repeats: int,
) -> dict[str, list[float]]:
    """Seconds of each part of a repeated piece of work, and of the whole under "total".

    Args:
        parts: (name, function) in order; each function takes what the one before returned, the first what `prepare`
            returned.
        prepare: makes the input of repeat number i (warm-ups count too), outside the timed part.
        device: where the work is done; waited for after each part.
        warmups: passes that are not counted, at least 0.
        repeats: passes that are, at least 1.

    Raises:
        ValueError: a count out of range.
    """
    check_counts(warmups, repeats)
    seconds: dict[str, list[float]] = {name: [] for name in (*(name for name, _ in parts), "total")}
    for repeat in range(warmups + repeats):
        value = prepare(repeat)
        synchronize(device)
        times = [time.perf_counter()]
        for _, work in parts:
            value = work(value)
            synchronize(device)
            times.append(time.perf_counter())
        if repeat >= warmups:
            for (name, _), start, end in zip(parts, times, times[1:], strict=False):
                seconds[name].append(end - start)
            seconds["total"].append(times[-1] - times[0])
    return seconds


def time_call(
    work: Callable[[], Any], *, device: torch.device | str = "cpu", warmups: int = 2, repeats: int = 5
) -> Timing:
    """Time one function without inputs."""
    parts: list[tuple[str, Callable[[Any], Any]]] = [("work", lambda _: work())]
    seconds = time_parts(parts, lambda _: None, device=torch.device(device), warmups=warmups, repeats=repeats)
    return Timing.of(seconds["work"])
