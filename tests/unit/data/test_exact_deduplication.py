"""Lines, documents and Bloom filters against counters, dictionaries and the formula."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pytest

from cs336_data.deduplication import exact_lines
from cs336_data.deduplication.bloom import BloomFilter
from cs336_data.deduplication.exact_documents import deduplicate_documents
from cs336_data.deduplication.exact_lines import deduplicate_lines, split_lines
from cs336_data.document_files import read_lines, write_lines

ALPHABET = ["", "a", "b", " a", "a ", "a\r", "\r", "long line of words", "\u00e9", "\0", "\u2028x", "\x0b"]


def random_text(choice: random.Random) -> str:
    lines = [choice.choice([*ALPHABET, f"only {choice.random()}"]) for _ in range(choice.randrange(8))]
    return "\n".join(lines) + choice.choice(["", "\n", "\r\n"])


def without_end(line: str) -> str:
    line = line[:-1] if line.endswith("\n") else line
    return line[:-1] if line.endswith("\r") else line


def lines_of(text: str) -> list[str]:
    r"""Cut behind each "\n", character by character."""
    lines = [""]
    for character in text:
        lines[-1] += character
        if character == "\n":
            lines.append("")
    return lines if lines[-1] else lines[:-1]


def unique_lines(texts: list[str]) -> list[str]:
    counts = Counter(without_end(line) for text in texts for line in lines_of(text))
    return ["".join(line for line in lines_of(text) if counts[without_end(line)] == 1) for text in texts]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slice_hashes", [1 << 24, 5])
def test_lines_of_files(tmp_path, monkeypatch, seed, slice_hashes):
    monkeypatch.setattr(exact_lines, "_SLICE_HASHES", slice_hashes)
    monkeypatch.setattr("cs336_data.units._FILES_PER_UNIT", 3)
    choice = random.Random(seed)
    texts = [random_text(choice) for _ in range(7)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    counts = deduplicate_lines(tmp_path.glob("*.txt"), tmp_path / "out")
    expected = unique_lines(texts)
    assert [(tmp_path / "out" / f"{i}.txt").read_bytes().decode() for i in range(7)] == expected
    every = [without_end(line) for text in texts for line in lines_of(text)]
    assert (counts.lines, counts.kept_lines) == (len(every), sum(len(lines_of(text)) for text in expected))
    assert counts.repeated == sum(number > 1 for number in Counter(every).values())


@pytest.mark.parametrize("drop_empty", [False, True])
def test_lines_of_documents(tmp_path, drop_empty):
    choice = random.Random(9)
    texts = [random_text(choice) for _ in range(40)]
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"]
    for path, part in zip(paths, (texts[:25], texts[25:]), strict=True):
        with write_lines(path) as write:
            for text in part:
                write((json.dumps({"text": text, "id": text[:1], "metadata": {"n": 1}}) + "\n").encode())
    counts = deduplicate_lines(paths, tmp_path / "out", drop_empty=drop_empty)
    found = [json.loads(line) for path in paths for line in read_lines(tmp_path / "out" / path.name)]
    expected = [
        {"text": kept, "id": text[:1], "metadata": {"n": 1}}
        for text, kept in zip(texts, unique_lines(texts), strict=True)
        if kept.strip() or not drop_empty
    ]
    assert found == expected and 0 < len([text for text in expected if text["text"]]) < 40
    assert (counts.documents, counts.kept_documents) == (40, len(expected))


def test_lines_in_any_order_by_any_number_of_processes_and_again(tmp_path):
    choice = random.Random(3)
    paths = [tmp_path / f"{i}.jsonl" for i in range(3)]
    for path in paths:
        path.write_text("".join(json.dumps({"text": random_text(choice)}) + "\n" for _ in range(20)))
    found = []
    for name, inputs, processes in (("a", paths, 1), ("b", paths[::-1], 2)):
        deduplicate_lines(inputs, tmp_path / name, num_processes=processes)
        found.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    again = deduplicate_lines((tmp_path / "a").iterdir(), tmp_path / "again")
    found.append({path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()})
    assert found[0] == found[1] == found[2] and again.lines == again.kept_lines > 0


def test_documents_that_differ_only_in_what_is_no_utf8(tmp_path):
    for number, content in enumerate([b"caf\xe9", b"caf\xe8", b"caf\xe9"]):
        (tmp_path / f"{number}.txt").write_bytes(content)
    (tmp_path / "x.jsonl").write_text('{"text": "\\ud800"}\n{"text": "?"}\n{"text": "\\ud800"}\n')
    found = deduplicate_documents([*tmp_path.glob("*.txt"), tmp_path / "x.jsonl"], tmp_path / "out")
    assert (found.documents, found.kept) == (6, 4)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.txt", "1.txt", "x.jsonl"]


def test_split_lines():
    assert split_lines(b"\r\n\na\x0bb\r\n\x1c\nend") == [b"\r\n", b"\n", b"a\x0bb\r\n", b"\x1c\n", b"end"]
    assert split_lines(b"") == []


@pytest.mark.parametrize("bloom_error_rate", [None, 1e-9])
def test_documents(tmp_path, bloom_error_rate):
    choice = random.Random(1)
    texts = [random_text(choice) if choice.random() < 0.6 else choice.choice(["same", "same ", ""]) for _ in range(90)]
    paths = [tmp_path / f"{i}.jsonl" for i in range(3)]
    for i, path in enumerate(paths):
        lines = [json.dumps({"text": text, "id": f"{place}"}) for place, text in enumerate(texts)][30 * i : 30 * i + 30]
        path.write_text("\n".join(lines))
    counts = deduplicate_documents(paths[::-1], tmp_path / "out", bloom_error_rate=bloom_error_rate)
    first = sorted({text: place for place, text in reversed(list(enumerate(texts)))}.values())
    kept = [json.loads(line)["id"] for path in paths for line in read_lines(tmp_path / "out" / path.name)]
    assert kept == [str(place) for place in first] and (counts.documents, counts.kept) == (90, len(first))


@pytest.mark.parametrize("error_rate", [0.1, 0.01, 0.001])
def test_bloom_filter_holds_what_the_formula_says(error_rate):
    count = 50_000
    numbers = np.arange(2 * count, dtype=np.uint64)  # neither random nor spread: the filter has to mix
    seen = BloomFilter(count, error_rate)
    bits, probes = {0.1: (4.79, 3), 0.01: (9.59, 7), 0.001: (14.38, 10)}[error_rate]
    assert seen.num_bits / count == pytest.approx(bits, abs=0.01) and seen.num_probes == probes
    seen.add(numbers[:count])
    assert seen.contains(numbers[:count]).all(), "an element that was added is never missing"
    rate = seen.contains(numbers[count:]).mean()
    expected = (1 - np.exp(-probes / bits)) ** probes
    assert abs(rate - expected) < 5 * (expected / count) ** 0.5
    set_bits = np.unpackbits(seen.bits).sum() / seen.num_bits
    assert set_bits == pytest.approx(1 - np.exp(-probes / bits), abs=0.01)


def test_bloom_filter_over_a_stream():
    """Each element sees those before it, also of the same call, over the borders of blocks."""
    numbers = np.random.default_rng(0).integers(0, 15_000, 50_000, dtype=np.uint64)
    there = BloomFilter(20_000, 1e-9).add(numbers)
    known: set[int] = set()
    for number, found in zip(numbers.tolist(), there.tolist(), strict=True):
        assert found == (number in known)
        known.add(number)


@pytest.mark.parametrize("wrong", [(0, 0.1), (10, 0.0), (10, 1.0)])
def test_bloom_filter_refuses(wrong):
    with pytest.raises(ValueError, match="capacity must be at least 1|error_rate is a probability"):
        BloomFilter(*wrong)
