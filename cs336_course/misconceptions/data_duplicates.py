"""Wrong deduplication of lines and documents, as settings of two small implementations. Read next: `diagnosis.py`."""

from __future__ import annotations

import itertools
import unicodedata
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from cs336_course.misconceptions.bank import Misconception, wrong

PRIME = (1 << 31) - 1


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_lines(), *_documents()]


def deduplicate_lines(paths: list[Path], target: Path, how: str) -> None:
    """Write each file without the repeated lines; right with `how` = ""."""

    def key(line: bytes) -> bytes:
        if how == "ends-compared":
            return line
        content = line.rstrip(b"\r\n")
        return {"stripped": content.strip(), "lower-case": content.lower()}.get(how, content)

    def split(data: bytes) -> list[bytes]:
        if how == "text":
            data.decode()
        if how == "unicode-lines":
            return [
                line.encode("utf-8", "surrogateescape")
                for line in data.decode("utf-8", "surrogateescape").splitlines(keepends=True)
            ]
        return [line + b"\n" for line in data.split(b"\n")[:-1]] + (
            [data.split(b"\n")[-1]] if data.split(b"\n")[-1] else []
        )

    contents = {path: split(path.read_bytes()) for path in paths}
    counts: Counter[bytes] = Counter()
    for lines in contents.values():
        keys = [key(line) for line in lines]
        counts.update(set(keys) if how == "once-per-file" else keys)
    seen: set[bytes] = set()
    target.mkdir(parents=True, exist_ok=True)
    for path, lines in contents.items():
        own = Counter(map(key, lines))
        kept = []
        for line in lines:
            count = own[key(line)] if how == "files-apart" else counts[key(line)]
            first = key(line) not in seen
            seen.add(key(line))
            blank = not line.strip()
            if count == 1 or (how == "first-kept" and first) or (how == "blank-kept" and blank):
                kept.append(b"" if how == "blank-dropped" and blank else line)
        if how == "sorted":
            kept.sort()
        if how == "end-added" and kept and not kept[-1].endswith(b"\n"):
            kept[-1] += b"\n"
        if kept or how != "empty-dropped":
            (target / path.name).write_bytes(
                b"".join(line.strip() + b"\n" if how == "stripped-written" else line for line in kept)
            )


def _lines() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def run_exact_line_deduplication(input_files: list[Any], output_directory: Any) -> None:
            deduplicate_lines([Path(path) for path in input_files], Path(output_directory), how)

        return wrong(
            "exact_deduplication", how, says, example, run_exact_line_deduplication=run_exact_line_deduplication
        )

    return [
        entry("first-kept", "the first copy of a repeated line is kept", "one line in two files"),
        entry("files-apart", "lines are counted in each file for itself", "one line in two files"),
        entry("once-per-file", "a line counts once per file, so that one repeated within a file stays", "one line twice in a file"),
        entry("stripped", "spaces at the ends of lines are not compared", "`a` and `  a`"),
        entry("lower-case", "capital letters are not compared", "`a` and `A`"),
        entry("ends-compared", "the line feed is compared too, so that a last line without one is another line", "`a` at the end of a file without a line feed"),
        entry("end-added", "a line feed is added to the last line", "a file without one at its end"),
        entry("stripped-written", "lines are written without the spaces at their ends", "a line that begins with spaces"),
        entry("empty-dropped", "files that become empty are not written", "two equal files"),
        entry("blank-kept", "blank lines stay, though they occur more than once", "two blank lines"),
        entry("blank-dropped", "a single blank line is removed", "one blank line"),
        entry("sorted", "the order of the lines is lost", "the lines b, a"),
        entry("text", "files are read as UTF-8, which raises for other bytes", "the byte E9"),
        entry("unicode-lines", "str.splitlines also splits at form feeds and U+2028", "a line with a form feed in it"),
    ]  # fmt: skip


def words_of(text: str, how: str) -> list[str]:
    """Normalised words."""
    text = text if how == "case" else text.lower()
    text = unicodedata.normalize("NFC" if how == "accents" else "NFD", text)
    found = []
    for character in text:
        category = unicodedata.category(character)
        if category == "Mn" and how != "accents":
            continue
        is_mark = category[0] in "PS"
        if is_mark and how == "punctuation-kept":
            found.append(character)
        elif is_mark and how == "punctuation-removed":
            continue
        else:
            found.append(" " if is_mark or category[0] in "ZC" else character)
    return "".join(found).split(" ") if how == "single-spaces" else "".join(found).split()


def shingles_of(text: str, n: int, how: str) -> list[Any]:
    """n-grams of words, repetitions included."""
    if how == "characters":
        return [text[i : i + n] for i in range(max(1, len(text) - n + 1))]
    if how == "raw":
        words = text.split(" ")
    else:
        words = words_of(text, how)
    n = {"always-five": 5, "one-longer": n + 1, "single-words": 1}.get(how, n)
    if len(words) < n and how in ("short-merged", "short-lost"):
        return []
    if not words:
        return [text]
    return [tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))]


def similarity(first: list[Any], second: list[Any], how: str) -> float:
    """Jaccard similarity, or what is taken for it."""
    if not first or not second:
        return 1.0 if how == "short-merged" and not first and not second else 0.0
    if how == "multisets":
        counts, others = Counter(first), Counter(second)
        return sum((counts & others).values()) / sum((counts | others).values())
    a, b = set(first), set(second)
    if how == "containment":
        return len(a & b) / min(len(a), len(b))
    if how == "dice":
        return 2 * len(a & b) / (len(a) + len(b))
    return len(a & b) / len(a | b)


def signatures(sets: list[list[Any]], num_hashes: int, how: str) -> np.ndarray:
    """MinHash signatures (documents, num_hashes) by random affine functions."""
    rng = np.random.default_rng(0)
    slopes, shifts = rng.integers(1, PRIME, num_hashes), rng.integers(0, PRIME, num_hashes)
    if how == "one-function":
        slopes[:], shifts[:] = slopes[0], shifts[0]
    rows = []
    for shingles in sets:
        keys = np.array([zlib.crc32(repr(shingle).encode()) % PRIME for shingle in set(shingles)], dtype=np.int64)
        values = (
            (np.outer(slopes, keys) % PRIME + shifts[:, None]) % PRIME
            if len(keys)
            else np.zeros((num_hashes, 1), np.int64)
        )
        rows.append(values.max(axis=1) if how == "maximum" else values.min(axis=1))
    return np.array(rows)


def candidates(signed: np.ndarray, num_bands: int, how: str) -> set[tuple[int, int]]:
    """Pairs that share a band."""
    count = len(signed)
    if how == "all-pairs":
        return set(itertools.combinations(range(count), 2))
    if how == "rows-for-bands":
        num_bands = max(1, signed.shape[1] // num_bands)
    found: set[tuple[int, int]] = set()
    for band in np.array_split(np.arange(signed.shape[1]), num_bands)[: 1 if how == "one-band" else None]:
        buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        for document in range(count):
            buckets[signed[document, band].tobytes()].append(document)
        for bucket in buckets.values():
            found |= set(itertools.combinations(bucket, 2))
    return found


def deduplicate_documents(paths: list[Path], target: Path, how: str, *, num_hashes: int, num_bands: int, ngrams: int, threshold: float) -> None:  # fmt: skip
    """Copy one document of each cluster; right with `how` = ""."""
    texts = [path.read_bytes().decode() for path in paths]
    sets = [shingles_of(text, ngrams, how) for text in texts]
    signed = signatures(sets, num_hashes, how)
    threshold = 0.8 if how == "threshold-fixed" else threshold
    alike = set()
    for a, b in candidates(signed, num_bands, how):
        value = float((signed[a] == signed[b]).mean()) if how == "estimate" else similarity(sets[a], sets[b], how)
        if how == "unverified" or value > threshold or (value == threshold and how != "above-only"):
            alike.add((a, b))
    if how == "equal-only":
        alike = {(a, b) for a, b in itertools.combinations(range(len(texts)), 2) if texts[a] == texts[b]}
    target.mkdir(parents=True, exist_ok=True)
    for number in _staying(len(texts), alike, how):
        text = " ".join(words_of(texts[number], "")) if how == "rewritten" else texts[number]
        (target / paths[number].name).write_bytes(text.encode())


def _staying(count: int, alike: set[tuple[int, int]], how: str) -> list[int]:
    """Documents that stay: the first of each connected cluster."""
    if how == "none-kept":
        return [i for i in range(count) if not any(i in pair for pair in alike)]
    if how == "all-kept":
        return list(range(count))
    if how == "kept-only":  # compares with documents that stay
        kept: list[int] = []
        for i in range(count):
            if not any((j, i) in alike for j in kept):
                kept.append(i)
        return kept
    parent = list(range(count))
    for a, b in alike:
        old, new = parent[b], parent[a]
        parent = [new if root == old else root for root in parent]
    return [parent.index(root) for root in dict.fromkeys(parent)]


def _documents() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def run_minhash_deduplication(input_files: list[Any], num_hashes: int, num_bands: int, ngrams: int, jaccard_threshold: float, output_directory: Any) -> None:  # fmt: skip
            deduplicate_documents([Path(path) for path in input_files], Path(output_directory), how, num_hashes=num_hashes,
                                  num_bands=num_bands, ngrams=ngrams, threshold=jaccard_threshold)  # fmt: skip

        return wrong("minhash_deduplication", how, says, example, run_minhash_deduplication=run_minhash_deduplication)

    return [
        entry("all-kept", "duplicates are found but all are copied", "two equal documents"),
        entry("none-kept", "all copies of a duplicate are removed", "two equal documents"),
        entry("equal-only", "only equal documents are duplicates", "two documents that differ in one word of a hundred"),
        entry("kept-only", "a document is compared with those that stay only, so that chains are not one cluster", "A like B, B like C, A not like C"),
        entry("unverified", "candidates are taken for duplicates without computing their similarity", "two documents that share a third of their shingles, one row per band"),
        entry("all-pairs", "all pairs are compared, whatever the bands say", "one band of 500 rows"),
        entry("estimate", "the share of equal signatures is taken for the similarity", "pairs of similarity 0.78 at a threshold of 0.8"),
        entry("above-only", "a similarity of exactly the threshold is no duplicate", "8 common shingles of 10"),
        entry("threshold-fixed", "the threshold is always 0.8", "a threshold of 0.2"),
        entry("rows-for-bands", "the number of bands is taken for the rows of a band", "500 hashes in one band"),
        entry("one-band", "only the first band is looked at", "two documents of similarity 0.9"),
        entry("one-function", "all hashes of a signature are the same function", "two documents of similarity 0.9"),
        entry("characters", "shingles are characters instead of words", "the same words in another order"),
        entry("single-words", "shingles are single words, whatever n is", "the same words with a few changed"),
        entry("always-five", "shingles have five words, whatever n is", "the same words backwards with n = 1"),
        entry("one-longer", "shingles have n + 1 words", "n = 1, the same words backwards"),
        entry("multisets", "repeated shingles are counted", "a text and the same text twice"),
        entry("containment", "the common part is divided by the smaller set", "a document and a part of it"),
        entry("dice", "the common part is divided by the mean size of the sets", "two documents that share 70 of 100 shingles"),
        entry("case", "capital letters are compared", "a text and the same in capitals"),
        entry("accents", "accents are compared", "cafe with and without its accent"),
        entry("punctuation-kept", "punctuation is compared", "`a b` and `a, b`"),
        entry("punctuation-removed", "punctuation is removed instead of parting words", "`a-b` and `a b`"),
        entry("raw", "nothing is normalised, words are what single spaces part", "a text and the same in capitals"),
        entry("single-spaces", "white space is not collapsed", "`a b` and `a  b`"),
        entry("short-merged", "documents shorter than a shingle have none, and two empty sets count as equal", "`one word` and `another text`"),
        entry("short-lost", "documents shorter than a shingle have none and are never duplicates", "two equal documents of two words"),
        entry("rewritten", "the normalised text is written instead of the document", "a document with a capital letter"),
    ]  # fmt: skip
