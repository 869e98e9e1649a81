"""A million short documents deduplicated on two cores: recall and precision against planted truth, time, memory.

    python benchmarks/bench_dedup_million.py [--documents 1000000] [--folder runs/bench-dedup] [--quick]

Documents of 40 to 160 words, drawn at random from 51,840 words with Zipf's law. 70% are new. Of the others each is made
from a new one, so that its true similarity to it is known exactly, from the sets of 5-grams:

    10%   equal but for case and punctuation                              J = 1
    10%   some words replaced, at random places                           any J, from near 1 down to about 0.4
    10%   a part of it cut off at the end                                 J = the share that is left

Planted truth: the similarities of all documents made from one source are computed, and connected by those of at least
the threshold, 0.8; all but the first of a connected set are duplicates. Recall is the share of duplicates that was
removed, precision the share of the removed that are duplicates. For copies beside their source alone, the share removed
is compared with what LSH should find, 1 - (1 - J^8)^14; other copies of the source can help to find more.

Memory is the sum over all processes of the job, sampled every 50 ms: of resident sets (pages that two processes share
count twice) and of proportional shares. The benchmark goes on where it was interrupted, its input and the job itself;
time is then that of the last run only, and said to be.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_data.deduplication.lsh import candidate_probability
from cs336_data.deduplication.minhash import MinHashConfig
from cs336_data.deduplication.near_duplicates import deduplicate_near
from cs336_data.document_files import write_lines

RESULT = Path(__file__).parent / "results" / "dedup_million.json"
PER_FILE, N, THRESHOLD = 50_000, 5, 0.8
KINDS = ("new", "equal", "edited", "cut")


def make_file(path: Path, number: int, count: int) -> None:
    """A document file; beside it each document's kind, the first connected with it, its similarity to its source."""
    random = np.random.default_rng([336, number])
    vocabulary = _vocabulary()
    ranks = 1 / np.arange(10, len(vocabulary) + 10)
    words = random.choice(len(vocabulary), size=160 * count // 3, p=ranks / ranks.sum())
    kinds = random.choice(4, size=count, p=[0.7, 0.1, 0.1, 0.1])
    kinds[0] = 0
    families: list[list[tuple[int, list[int]]]] = []
    truth = np.zeros(count, dtype=[("kind", "i1"), ("first", "i4"), ("similarity", "f4")])
    with write_lines(path) as write:
        for place, kind in enumerate(kinds.tolist()):
            if kind == 0:
                begin = int(random.integers(len(words) - 160))
                document = words[begin : begin + int(random.integers(40, 161))].tolist()
                # A stretch of words may be drawn twice: a word of its own in each shingle keeps documents apart.
                document[2::4] = [len(vocabulary) + place] * len(document[2::4])
                families.append([(place, document)])
                similarity = 0.0
            else:
                family = families[int(random.integers(len(families)))]
                document = _changed(family[0][1], kind, random, len(vocabulary))
                similarity = _similarity(family[0][1], document)
                family.append((place, document))
            truth[place] = (kind, place, similarity)
            text = " ".join(vocabulary[w] if w < len(vocabulary) else f"q{number}x{w}" for w in document)
            if kind == 1:
                text = text.upper().replace(" ", ", ", 5)
            write((json.dumps({"id": f"{number}-{place}", "text": text}) + "\n").encode())
    for family in families:
        for place, first in _connected(family):
            truth["first"][place] = first
    np.save(path.with_suffix(".npy"), truth)


def _connected(family: list[tuple[int, list[int]]]) -> list[tuple[int, int]]:
    """(place, first place connected with it) of each document of a family."""
    first = {place: place for place, _ in family}
    for i, (place, document) in enumerate(family):
        for other, earlier in family[:i]:
            if first[place] != first[other] and _similarity(document, earlier) >= THRESHOLD:
                low, high = sorted((first[place], first[other]))
                first = {p: low if f == high else f for p, f in first.items()}
    return list(first.items())


def _vocabulary() -> list[str]:
    onsets = [f"{a}{b}" for a in "bcdfglmnprst" for b in ("a", "e", "i", "o", "u", "ai", "ou", "ea")]
    ends = ("", "n", "r", "s", "th", "ld", "mp", "ck", "ft")
    rests = [f"{x}{y}{z}" for x in "bdgklmnrstvz" for y in "aeiou" for z in ends]
    return [onset + rest for rest in rests for onset in onsets]


def _changed(document: list[int], kind: int, random: np.random.Generator, new: int) -> list[int]:
    if kind == 2:
        document = list(document)
        for place in random.integers(len(document), size=int(random.integers(1, 9))).tolist():
            document[place] = int(random.integers(new))
    if kind == 3:
        document = document[: max(N, int(len(document) * random.uniform(0.5, 1)))]
    return document


def _similarity(first: Sequence[int], second: Sequence[int]) -> float:
    sets = [{tuple(document[i : i + N]) for i in range(len(document) - N + 1)} for document in (first, second)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def make_input(folder: Path, documents: int, processes: int) -> list[Path]:
    """The document files; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = [PER_FILE] * (documents // PER_FILE) + [documents % PER_FILE] * bool(documents % PER_FILE)
    paths = [folder / f"part-{number:03d}.jsonl" for number in range(len(counts))]
    missing = [
        (path, number, count)
        for number, (path, count) in enumerate(zip(paths, counts, strict=True))
        if not path.with_suffix(".npy").exists()
    ]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for _ in pool.starmap(make_file, missing, chunksize=1):
            pass
    return paths


class MemoryMeter:
    """Peak memory of this process and all below it, while the block runs."""

    def __init__(self) -> None:
        self.peak_rss_mb = self.peak_pss_mb = 0.0
        self.peak_processes = 0
        self._end = threading.Event()

    def __enter__(self) -> MemoryMeter:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            sums = np.zeros(2)
            processes = _tree(os.getpid())
            for pid in processes:
                try:
                    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                except OSError:
                    continue
                found = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
                sums += found["Rss"], found["Pss"]
            self.peak_rss_mb = max(self.peak_rss_mb, sums[0] / 1024)
            self.peak_pss_mb = max(self.peak_pss_mb, sums[1] / 1024)
            self.peak_processes = max(self.peak_processes, len(processes))


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [below for child in task.read_text().split() for below in _tree(int(child))]
        except OSError:
            continue
    return found


def judge(paths: list[Path], kept: Path, config: MinHashConfig) -> dict[str, Any]:
    """Recall and precision of what was removed, by kind and by similarity."""
    truth = [np.load(path.with_suffix(".npy")) for path in paths]
    starts = np.cumsum([0, *map(len, truth)])
    stays = np.zeros(starts[-1], dtype=bool)
    for path, start in zip(paths, starts, strict=False):
        with open(kept / path.name, "rb") as file:
            places = [int(json.loads(line)["id"].split("-")[1]) for line in file]
        stays[start + np.array(places, dtype=int)] = True
    kinds = np.concatenate([t["kind"] for t in truth])
    similarity = np.concatenate([t["similarity"] for t in truth]).astype(float)
    duplicate = np.concatenate([t["first"] != np.arange(len(t)) for t in truth])
    removed = ~stays
    chance: Any = candidate_probability(similarity, num_bands=config.num_bands, num_rows=config.num_rows)  # type: ignore
    close = similarity >= THRESHOLD
    edges = [0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0001]
    return {
        "planted_duplicates": int(duplicate.sum()),
        "removed": int(removed.sum()),
        "recall": round(float(removed[duplicate].mean()), 5),
        "precision": round(float(duplicate[removed].mean()), 5),
        "removed_without_being_duplicates": int((removed & ~duplicate).sum()),
        "recall_by_kind": {KINDS[k]: round(float(removed[(kinds == k) & duplicate].mean()), 5) for k in (1, 2, 3)},
        "close_to_their_source": {
            "documents": int(close.sum()),
            "removed": round(float(removed[close].mean()), 5),
            "candidates_by_theory": round(float(chance[close].mean()), 5),
        },
        "by_similarity_to_source": [
            {
                "from": low,
                "to": min(high, 1.0),
                "documents": int(chosen.sum()),
                "duplicates": round(float(duplicate[chosen].mean()), 4),
                "removed": round(float(removed[chosen].mean()), 4),
                "candidates_by_theory": round(float(chance[chosen].mean()), 4),
            }
            for low, high in pairwise(edges)
            if (chosen := (kinds > 1) & (similarity >= low) & (similarity < high)).any()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-dedup"), help="for input and output, 1.5 GB")
    parser.add_argument("--num-processes", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--quick", action="store_true", help="20,000 documents in a temporary folder, nothing written")
    o = parser.parse_args()
    if o.quick:
        o.documents, o.folder = 20_000, Path(tempfile.mkdtemp())
    paths = make_input(o.folder / "in", o.documents, o.num_processes)
    config, resumed = MinHashConfig(), (o.folder / "out.parts").exists()
    with MemoryMeter() as meter:
        begin, cpu = time.perf_counter(), os.times()
        found = deduplicate_near(
            paths, o.folder / "out", config, num_processes=o.num_processes, engine="compiled", progress=True
        )
        wall, after = time.perf_counter() - begin, os.times()
    result = {
        "measured": datetime.date.today().isoformat(), "documents": o.documents, "processes": o.num_processes,
        "megabytes": round(sum(path.stat().st_size for path in paths) / 1e6, 1), "config": asdict(config),
        "resumed": resumed, "wall_s": round(wall, 1), "cpu_s": round(sum(after[:4]) - sum(cpu[:4]), 1),
        "documents_per_s": round(o.documents / wall), "peak_rss_mb": round(meter.peak_rss_mb),
        "peak_pss_mb": round(meter.peak_pss_mb), "peak_processes": meter.peak_processes,
        "found": asdict(found), **judge(paths, o.folder / "out", config), "environment": describe_environment(),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if not o.quick:
        write_json(RESULT, result)
    if not o.keep:
        shutil.rmtree(o.folder)


if __name__ == "__main__":
    main()
