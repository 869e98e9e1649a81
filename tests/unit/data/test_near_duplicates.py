"""Near duplicates in files: against all pairs, in any order, by any number of processes, killed and resumed."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cs336_data.deduplication import near_duplicates
from cs336_data.deduplication.clusters import cluster_texts
from cs336_data.deduplication.compiled_clusters import CompiledClusters
from cs336_data.deduplication.minhash import MinHashConfig
from cs336_data.deduplication.near_duplicates import deduplicate_near
from cs336_data.document_files import read_lines, write_lines

# P(a pair at the threshold is missed) = (1 - 0.7^2)^60 < 1e-17: what LSH finds is what comparing all pairs finds.
SURE = MinHashConfig(num_hashes=120, num_bands=60, ngrams=3, threshold=0.7)


def random_texts(count: int, seed: int) -> list[str]:
    """Texts of 0 to 60 words, half of them made from an earlier one by some changes."""
    choice = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(500)]
    texts: list[str] = []
    for _ in range(count):
        words = choice.choices(vocabulary, k=choice.randrange(60))
        if texts and choice.random() < 0.5:
            words = choice.choice(texts).split()
            for _ in range(choice.randrange(4) if words else 0):
                words[choice.randrange(len(words))] = choice.choice(vocabulary)
            if choice.random() < 0.2:
                words = [word.upper() + "," for word in words]
        texts.append(" ".join(words))
    return texts


def all_pairs(texts: list[str], n: int, threshold: float) -> list[int]:
    """Components of the graph of all similar pairs, by spreading the smallest number until nothing changes."""
    sets = []
    for text in texts:
        words = text.lower().replace(",", "").split()
        sets.append({tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))})
    count = len(texts)
    alike = [[10 * len(a & b) >= round(10 * threshold) * len(a | b) for b in sets] for a in sets]
    label = list(range(count))
    while True:
        new = [min(label[j] for j in range(count) if alike[i][j]) for i in range(count)]
        if new == label:
            return label
        label = new


def write_parts(folder: Path, texts: list[str], sizes: list[int]) -> list[Path]:
    """Document files of the given sizes, in three formats."""
    paths, rest = [], list(enumerate(texts))
    for number, size in enumerate(sizes):
        paths.append(folder / f"part-{number}.jsonl{('', '.gz', '.zst')[number % 3]}")
        with write_lines(paths[-1]) as write:
            for place, text in rest[:size]:
                write((json.dumps({"id": str(place), "text": text, "more": [1]}) + "\n").encode())
        rest = rest[size:]
    assert not rest
    return paths


def ids(folder: Path) -> list[int]:
    """The documents of an output in order."""
    return [int(json.loads(line)["id"]) for path in sorted(folder.iterdir()) for line in read_lines(path)]


@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_those_of_all_pairs(seed):
    texts = random_texts(120, seed)
    expected = all_pairs(texts, 3, 0.7)
    assert Counter(Counter(expected).values()).keys() - {1}, "there are duplicates to find"
    assert cluster_texts(texts, SURE) == expected


@pytest.mark.parametrize("engine", ["plain", "compiled"])
def test_files_keep_the_first_of_each_cluster(tmp_path, engine):
    texts = random_texts(150, 7)
    expected = all_pairs(texts, 3, 0.7)
    paths = write_parts(tmp_path / "in", texts, [60, 0, 30, 59, 1])
    found = deduplicate_near(paths, tmp_path / "out", SURE, engine=engine, clusters_file=tmp_path / "clusters.jsonl")
    first = sorted(set(expected))
    assert ids(tmp_path / "out") == first
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [path.name for path in paths]
    sizes = Counter(expected)
    assert (found.documents, found.kept, found.largest_cluster) == (150, len(first), max(sizes.values()))
    assert found.clusters == sum(size > 1 for size in sizes.values())
    places = [f"{path.name}:{i + 1}" for path, n in zip(paths, (60, 0, 30, 59, 1), strict=True) for i in range(n)]
    listed = [json.loads(line) for line in (tmp_path / "clusters.jsonl").read_text().splitlines()]
    assert listed == [
        {"kept": places[root], "removed": [places[i] for i in range(150) if expected[i] == root and i != root]}
        for root in first if sizes[root] > 1
    ]  # fmt: skip
    original = b"".join(line for path in paths for line in read_lines(path)).splitlines()
    kept = b"".join(line for path in paths for line in read_lines(tmp_path / "out" / path.name)).splitlines()
    assert kept == [original[root] for root in first], "lines are copied byte for byte"


def test_documents_that_are_files_in_large_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("cs336_data.units._FILES_PER_UNIT", 16)
    texts = random_texts(50, 3)
    expected = all_pairs(texts, 3, 0.7)
    for number, text in enumerate(texts):
        (tmp_path / f"{number:03d}.txt").write_text(text)
    deduplicate_near(tmp_path.glob("*.txt"), tmp_path / "out", SURE, engine="compiled")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{i:03d}.txt" for i in sorted(set(expected))]


def test_order_of_inputs_idempotence_and_number_of_processes(tmp_path):
    paths = write_parts(tmp_path / "in", random_texts(300, 11), [100, 80, 70, 50])
    read = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name, inputs, processes in (("a", paths, 1), ("b", paths[::-1], 1), ("c", paths, 2))
        if deduplicate_near(inputs, tmp_path / name, SURE, engine="compiled", num_processes=processes)
    ]
    assert read[0] == read[1] == read[2]
    again = deduplicate_near((tmp_path / "a").iterdir(), tmp_path / "again", SURE, engine="compiled")
    assert again.kept == again.documents == len(ids(tmp_path / "a")) and again.clusters == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == read[0]


def test_a_bucket_of_copies_costs_one_comparison_each(tmp_path):
    """3,000 near copies of a page, all different, share buckets of 3,000: not 4.5 million comparisons."""
    page = " ".join(f"w{i}" for i in range(200))
    paths = write_parts(tmp_path / "in", [f"{page} end{i}" for i in range(3000)], [3000])
    found = deduplicate_near(paths, tmp_path / "out", engine="compiled")
    assert found.kept == 1 and found.compared < 2 * 3000 and found.identical == 0


def test_groups_of_a_bucket_against_all_pairs():
    """Sets of numbers in one bucket, similarities all over the range, and documents joined before."""
    random_sets = np.random.default_rng(0)
    for case in range(20):
        count = int(random_sets.integers(2, 25))
        sets = [np.unique(random_sets.integers(0, 12, 8)).astype(np.uint64) for _ in range(count)]
        parent = np.arange(count + 5, dtype=np.int64)
        parent[count // 2] = 0
        clusters = CompiledClusters(
            parent, sets=np.concatenate(sets), begins=np.cumsum([0, *map(len, sets)]),
            position=np.arange(count + 5), threshold=0.6,
        )  # fmt: skip
        clusters.join(np.arange(count), np.array([0, count]))
        label = [0 if i == count // 2 else i for i in range(count)]
        for _ in range(count):
            for i in range(count):
                for j in range(count):
                    both = len(np.intersect1d(sets[i], sets[j]))
                    if label[i] != label[j] and both / (len(sets[i]) + len(sets[j]) - both) >= 0.6:
                        label = [min(label[i], label[j]) if old in (label[i], label[j]) else old for old in label]
        assert clusters.roots().tolist() == [*label, *range(count, count + 5)], case


def test_empty_inputs(tmp_path):
    paths = write_parts(tmp_path / "in", [], [0, 0])
    found = deduplicate_near(paths, tmp_path / "out", engine="compiled")
    assert (found.documents, found.kept, found.largest_cluster) == (0, 0, 0)
    assert ids(tmp_path / "out") == []
    (tmp_path / "in" / "part-0.jsonl").write_text('{"text": ""}\n{"text": "\\u0000"}\n{"text": "!"}\n{"text": ""}')
    found = deduplicate_near(paths, tmp_path / "out", engine="compiled")
    assert (found.documents, found.kept) == (4, 3), "two empty documents are equal; NUL and ! are something else"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": 3}\n', r'part\.jsonl, line 2 is not a JSON object with a string "text"'),
        (b'{"text": "a"}\nplain words\n', r"part\.jsonl, line 2 is not JSON"),
        (b'{"text": "a"}\n\n', r"part\.jsonl, line 2 is not JSON"),
    ],
)
def test_lines_that_are_no_documents(tmp_path, content, message):
    (tmp_path / "part.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        deduplicate_near([tmp_path / "part.jsonl"], tmp_path / "out", engine="compiled")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_files_cut_short(tmp_path, suffix):
    path = tmp_path / f"part.jsonl.{suffix}"
    with write_lines(path) as write:
        for number in range(3000):
            write(f'{{"text": "document {random.Random(number).random()}"}}\n'.encode())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"part\.jsonl\.\w+ is damaged or cut short after line \d+"):
        deduplicate_near([path], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_gzip_holds_no_time(tmp_path):
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        with write_lines(tmp_path / name) as write:
            write(b"{}\n")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == b"{}\n"


def test_a_disk_that_fills_up_at_any_write(tmp_path, monkeypatch):
    """No final name ever holds a part, and the same call goes on to the same result."""
    paths = write_parts(tmp_path / "in", random_texts(60, 5), [30, 30])
    deduplicate_near(paths, tmp_path / "expected", SURE, engine="compiled")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir()}
    real, countdown = os.fsync, [0]

    def failing(descriptor: int) -> None:
        countdown[0] -= 1
        if countdown[0] < 0:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    for writes in range(100):
        countdown[0] = writes
        try:
            deduplicate_near(paths, tmp_path / "out", SURE, engine="compiled")
            break
        except OSError as error:
            assert error.errno == 28
        there = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert there.items() <= expected.items()
    assert writes > 3 and {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected
    assert not (tmp_path / "out.parts").exists()


KILLED = """
import sys
from pathlib import Path
from cs336_data.deduplication.minhash import MinHashConfig
from cs336_data.deduplication.near_duplicates import deduplicate_near

if __name__ == "__main__":
    config = MinHashConfig(num_hashes=120, num_bands=60, ngrams=3, threshold=0.7)
    deduplicate_near(Path(sys.argv[1]).iterdir(), sys.argv[2], config, engine="compiled")
"""


@pytest.mark.parametrize("stage", ["sizes-000001.npy", "written-000000"])
def test_killed_and_resumed(tmp_path, stage):
    """SIGKILL when a file of a stage appears; the files that are there are used, and the output is the same."""
    paths = write_parts(tmp_path / "in", random_texts(400, 13), [100] * 4)
    deduplicate_near(paths, tmp_path / "expected", SURE, engine="compiled")
    (tmp_path / "job.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path / "in"), str(tmp_path / "out")]
    run = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    parts, limit = tmp_path / "out.parts", time.monotonic() + 200
    while not (parts / stage).exists() and run.poll() is None and time.monotonic() < limit:
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.wait(10)
    (tmp_path / "out" / ".part-0.jsonl.abc.partial").write_bytes(b"torn")
    deduplicate_near(paths, tmp_path / "out", SURE, engine="compiled")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected


def test_resumed_work_is_not_done_again(tmp_path, monkeypatch):
    paths = write_parts(tmp_path / "in", random_texts(90, 17), [30] * 3)
    real, seen = near_duplicates.save_array, []

    def stop_at_third(path, array):
        seen.append(path.name)
        if len(seen) == 3:
            raise OSError(28, "No space left on device")
        real(path, array)

    monkeypatch.setattr(near_duplicates, "save_array", stop_at_third)
    with pytest.raises(OSError, match="No space"):
        deduplicate_near(paths, tmp_path / "out", SURE, engine="compiled")
    deduplicate_near(paths, tmp_path / "out", SURE, engine="compiled")
    names = [f"keys-{i:06d}.npy" for i in range(3)]
    assert seen[:4] == [*names, names[2]], "only the third unit is signed again"
    with pytest.raises(OSError, match="No space"):
        seen[:] = names[:1]
        deduplicate_near(paths, tmp_path / "out", SURE, engine="compiled")
    paths[0].write_bytes(paths[0].read_bytes() + b'{"text": "more", "id": "1000"}\n')
    deduplicate_near(paths, tmp_path / "out", SURE, engine="compiled")
    assert seen[3:6] == names and 1000 in ids(tmp_path / "out"), "inputs that have changed are signed anew"
