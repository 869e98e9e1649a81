"""Best-fit packing: time per placement through the length index and by a scan of the buffer, and what is wasted.

    python benchmarks/bench_packing.py [--quick]

Time: documents of log-normal length go through a buffer of 100 to 100,000; each placement takes out the largest that
fits and puts in a new one. The scan is the published form (nanochat: a list, its largest fitting element, `pop`). Both
run in turns in one process, on the same documents, and must place the same ones; medians of the rounds.

Waste: share of the tokens of placed documents that was cut off at T = 2048, after the same number of rows for every
method, and what the documents left in the buffer hold. Two sources of lengths:

    lognormal    exp(6.0286 + 1.2 z), at least 2 tokens: the two parameters are chosen so that the floor (what documents
                 longer than a row lose whatever one does) is 22.9 % and greedy cutting wastes 39.4 %, the figures that
                 nanochat's loader states of its data; its own rule wastes 34.6 % there. Nothing else is known of them.
    stdlib       the files of the Python library in UTF-8 bytes / 3.5, a usual count of bytes per token
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import random
import statistics
import time
from collections.abc import Iterator

import numpy as np

from cs336_basics.corpora.stdlib_source import stdlib_files
from cs336_basics.packing.best_fit import BestFitBuffer, plan_row
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment

CAPACITY = 2049
PUBLISHED = {"greedy": 0.394, "best-fit": 0.346, "floor": 0.229}


class ScannedBuffer:
    """The published form: a list that is read from end to end for every placement."""

    def __init__(self, longest: int) -> None:
        self.entries: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, document: int, length: int) -> None:
        self.entries.append((document, length))

    def pop_largest(self, at_most: int) -> tuple[int, int] | None:
        best, best_length = -1, 0
        for place, (_, length) in enumerate(self.entries):
            if best_length < length <= at_most:
                best, best_length = place, length
        return self.entries.pop(best) if best >= 0 else None

    def pop_shortest(self) -> tuple[int, int]:
        place = min(range(len(self.entries)), key=lambda i: self.entries[i][1])
        return self.entries.pop(place)


def lognormal_lengths(count: int) -> list[int]:
    """See the module docstring."""
    return np.maximum(2, np.random.default_rng(0).lognormal(6.0286, 1.2, count).astype(int)).tolist()


def stdlib_lengths() -> list[int]:
    """Lengths of the library's files in an order drawn once."""
    lengths = [max(2, round(path.stat().st_size / 3.5) + 1) for path in stdlib_files(include_tests=True)]
    random.Random(0).shuffle(lengths)
    return lengths


def time_placements(buffer: BestFitBuffer | ScannedBuffer, lengths: list[int], count: int) -> tuple[float, list[int]]:
    """Microseconds per placement and the documents placed, into rows as they come."""
    source, placed, left = itertools.count(len(buffer)), [], CAPACITY
    started = time.perf_counter()
    for _ in range(count):
        document, length = buffer.pop_largest(left) or buffer.pop_shortest()
        placed.append(document)
        left = left - length if length < left else CAPACITY
        number = next(source)
        buffer.add(number, min(lengths[number % len(lengths)], CAPACITY))
    return (time.perf_counter() - started) / count * 1e6, placed


def compare_times(sizes: list[int], rounds: int) -> list[dict[str, float]]:
    """Both buffers at each size, in turns."""
    rows, lengths = [], lognormal_lengths(200_000)
    for size in sizes:
        microseconds: dict[str, list[float]] = {"index": [], "scan": []}
        for _ in range(rounds):
            placed = {}
            for name, kind in (("index", BestFitBuffer), ("scan", ScannedBuffer)):
                buffer = kind(CAPACITY)
                for document in range(size):
                    buffer.add(document, min(lengths[document], CAPACITY))
                count = max(20, min(2000, 2_000_000 // size))
                value, placed[name] = time_placements(buffer, lengths, count)
                microseconds[name].append(value)
            assert placed["index"] == placed["scan"], "the two buffers must place the same documents"
        medians = {f"{name}_us": round(statistics.median(values), 2) for name, values in microseconds.items()}
        rows.append({"buffer": size, **medians, "ratio": round(medians["scan_us"] / medians["index_us"], 1)})
        print(rows[-1], flush=True)
    return rows


def greedy_waste(lengths: Iterator[int], rows: int) -> float:
    """Documents in order; the one that overflows its row is cut and its end thrown away."""
    cut, done, left = 0, 0, CAPACITY
    while done < rows:
        length = next(lengths)
        cut += max(0, length - left)
        left = left - length if length < left else CAPACITY
        done += left == CAPACITY
    return cut / (cut + rows * CAPACITY)


def best_fit_waste(lengths: list[int], rows: int, *, size: int, long_documents: str, refill_by: int = 1) -> dict:
    """Share cut off after `rows` rows, and what the buffer then holds relative to what was placed."""
    buffer = BestFitBuffer(CAPACITY if long_documents == "crop" else max(lengths))
    numbers, cut = itertools.count(), 0

    def refill() -> None:
        while len(buffer) < size:
            for number in itertools.islice(numbers, refill_by):
                length = lengths[number % len(lengths)]
                buffer.add(number, min(length, CAPACITY) if long_documents == "crop" else length)

    for _ in range(rows):
        for number, placed in plan_row(buffer, refill, capacity=CAPACITY):
            cut += lengths[number % len(lengths)] - placed
    held = sum(lengths[number % len(lengths)] for number in buffer.documents())
    total = cut + rows * CAPACITY
    return {"waste": round(cut / total, 4), "held_in_buffer": round(held / total, 4)}


def padding(lengths: list[int], rows: int, *, size: int) -> float:
    """Share of the places left empty with remainder="pad", long documents cropped."""
    buffer, numbers, filled = BestFitBuffer(CAPACITY), itertools.count(), 0

    def refill() -> None:
        while len(buffer) < size:
            number = next(numbers)
            buffer.add(number, min(lengths[number % len(lengths)], CAPACITY))

    for _ in range(rows):
        filled += sum(placed for _, placed in plan_row(buffer, refill, capacity=CAPACITY, remainder="pad"))
    return round(1 - filled / (rows * CAPACITY), 5)


def compare_waste(lengths: list[int], rows: int) -> dict:
    """Every method on one source of lengths."""
    total = sum(lengths)
    result = {
        "documents": len(lengths), "mean_tokens": round(total / len(lengths), 1),
        "median_tokens": statistics.median(lengths), "rows": rows,
        "floor": round(sum(max(0, length - CAPACITY) for length in lengths) / total, 4),
        "greedy": round(greedy_waste(itertools.cycle(lengths), rows), 4),
        "published rule, buffer 1000": best_fit_waste(lengths, rows, size=1000, long_documents="wait"),
        "published rule, buffer 1000, refilled by 128": best_fit_waste(
            lengths, rows, size=1000, long_documents="wait", refill_by=128
        ),
        **{f"ours, buffer {size}": best_fit_waste(lengths, rows, size=size, long_documents="crop")
           for size in (100, 1000, 10_000) if size < len(lengths)},
        "ours, padded rows, buffer 1000: share of places empty": padding(lengths, rows, size=1000),
    }  # fmt: skip
    for name, value in result.items():
        print(f"    {name}: {value}", flush=True)
    return result


def main() -> None:
    """Measure, print, write results/packing.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, no result file")
    quick = parser.parse_args().quick
    times = compare_times([100, 1000] if quick else [100, 1000, 10_000, 100_000], rounds=1 if quick else 5)
    rows = 2_000 if quick else 50_000
    waste = {}
    for name, lengths in (("lognormal", lognormal_lengths(20_000 if quick else 500_000)), ("stdlib", stdlib_lengths())):
        print(name)
        waste[name] = compare_waste(lengths, rows if name == "lognormal" else min(rows, 5_000))
    if not quick:
        result = {"capacity": CAPACITY, "published": PUBLISHED, "microseconds_per_placement": times, "waste": waste}
        environment = {"measured": datetime.date.today().isoformat(), "environment": describe_environment()}
        write_json("benchmarks/results/packing.json", result | environment)


if __name__ == "__main__":
    main()
