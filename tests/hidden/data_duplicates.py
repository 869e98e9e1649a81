"""Assignment 4, deduplication: lines by counting, documents by the Jaccard similarity of all pairs.

The oracle compares every pair, a submission hashes. They must agree because the cases are made so that hashing finds
every pair at or above the threshold with a probability of 1 - 1e-9 or more. Which document of a cluster stays is free.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, BadAnswer, Case

from . import texts

Rng = np.random.Generator
VOCABULARY = [word for word in texts.vocabulary() if word.isalpha() and len(word) > 2]
MANY_ROWS = {"num_hashes": 100, "num_bands": 100}
"""one row per band: a pair that shares half of its shingles is missed with probability 2^-100"""


def files(answer: Answer) -> dict[str, bytes]:
    """What was written; the inputs must be as they were."""
    found = answer.get("files")
    if type(found) is not dict or not all(type(data) is bytes for data in found.values()):
        raise BadAnswer("the answer holds no files")
    if answer.get("changed"):
        raise BadAnswer("an input file was changed or removed")
    return found


def words(rng: Rng, count: int) -> list[str]:
    """Random words."""
    return [VOCABULARY[i] for i in rng.integers(0, len(VOCABULARY), size=count)]


# Lines ------------------------------------------------------------------------------------------------------------


def exact_deduplication(rng: Rng) -> list[Case]:
    def line(count: int = 5) -> bytes:
        return " ".join(words(rng, count)).encode()

    def case(id: str, property: str, contents: list[bytes]) -> Case:
        given = {f"{letter}.txt": data for letter, data in zip("abcdefgh", contents, strict=False)}
        inputs = {"function": "run_exact_line_deduplication", "files": given, "settings": {}}
        return Case(id, property, "deduplicate", inputs, lambda answer: _judge_lines(given, files(answer)))

    one, two, three, menu, foot = (line() for _ in range(5))
    pool = [line(2) for _ in range(60)]
    drawn = [b"".join(pool[i] + b"\n" for i in rng.integers(0, 60, size=12)) for _ in range(6)]
    odd = [f"caf\u00e9 {words(rng, 1)[0]}".encode("latin-1"), bytes(rng.integers(128, 256, size=9).tolist())]
    upper, spaced = one.capitalize(), b"  " + two
    breaks = [f"{words(rng, 1)[0]}{mark}{words(rng, 1)[0]}".encode() for mark in ("\u2028", "\x0b", "\x0c", "\x85")]
    halves = [
        part.split(mark)[1]
        for part, mark in zip(breaks, ("\u2028".encode(), b"\x0b", b"\x0c", "\x85".encode()), strict=True)
    ]
    return [
        case("everywhere", "a line that occurs twice disappears everywhere, its first copy too", [
            b"\n".join([menu, one, foot, b""]), b"\n".join([menu, two, three, foot, b""]), b"\n".join([line(), b""])]),
        case("one-file", "twice in one file is twice", [b"\n".join([one, two, one, b""]), b"\n".join([three, b""])]),
        case("random", "what stays is in its old order", drawn),
        case("empty", "files that become empty, or were, are written", [b"\n".join([menu, foot, b""]), b"\n".join([foot, menu, b""]), b"", line()]),
        case("last-line", "the last line may lack its end, and stays without it", [one + b"\n" + two, two + b"\n" + three, foot]),
        case("exact", "capitals and spaces tell lines apart", [one + b"\n" + two + b"\n", upper + b"\n" + spaced + b"\n", two + b" \n"]),
        case("blank-lines", "blank lines are lines", [one + b"\n\n" + two + b"\n", three + b"\n\n" + foot + b"\n"]),
        case("blank-line", "a single blank line stays", [one + b"\n\n" + two + b"\n", three + b"\n"]),
        case("bytes", "bytes that are no UTF-8 go through", [odd[0] + b"\n" + menu + b"\n", odd[1] + b"\n" + menu + b"\n"]),
        case("line-ends", "only a line feed ends a line", [b"\n".join([*breaks, b""]), b"\n".join([*halves, b""])]),
    ]  # fmt: skip


def _judge_lines(given: dict[str, bytes], found: dict[str, bytes]) -> str | None:
    """By counting."""

    def lines(data: bytes) -> list[bytes]:
        return [line for line in data.split(b"\n")][: -1 if data.endswith(b"\n") or not data else None]

    counts = Counter(line for data in given.values() for line in lines(data))
    if found.keys() != given.keys():
        return "each input must have one output file of the same name"
    for name, data in given.items():
        kept = [line for line in lines(data) if counts[line] == 1]
        expected = b"".join(line + b"\n" for line in kept)
        if kept and not data.endswith(b"\n") and lines(data)[-1] == kept[-1]:
            expected = expected[:-1]
        if found[name] != expected:
            mine = lines(found[name])
            if any(counts[line] > 1 for line in mine):
                return "a repeated line is still there"
            return "a line that occurs once is gone" if set(kept) - set(mine) else "lines are changed or out of order"
    return None


# Documents --------------------------------------------------------------------------------------------------------


def minhash_deduplication(rng: Rng) -> list[Case]:
    def case(id: str, property: str, documents: list[str], **settings: Any) -> Case:
        order = rng.permutation(len(documents))
        given = {f"{number:02d}.txt": documents[i].encode() for number, i in enumerate(order)}
        options = {**MANY_ROWS, "ngrams": 5, "jaccard_threshold": 0.8, **settings}
        inputs = {"function": "run_minhash_deduplication", "files": given, "settings": options}
        groups, alike = clusters(given, options), clusters(given, {**options, "num_bands": None})
        return Case(id, property, "deduplicate", inputs, lambda answer: _judge_documents(given, groups, files(answer)),
                    lambda answer: _shape(given, alike, answer))  # fmt: skip

    def text(count: int) -> str:
        return " ".join(words(rng, count))

    plain = words(rng, 60)
    accents = " ".join(f"{word[:1]}\u00e9{word[1:]}" for word in plain)
    pair, other = words(rng, 400), words(rng, 400)
    near, chain = [_changed(pair, 4), _changed(other, 4)], words(rng, 300)
    unlike, another = words(rng, 200), words(rng, 200)
    return [
        case("copies", "of equal documents one stays", [text(80), text(80), *[" ".join(plain)] * 3]),
        case("near", "documents of similarity 0.9 are duplicates at 0.8", [" ".join(pair), " ".join(near[0]), " ".join(other), " ".join(near[1]), text(300)],
             num_hashes=500, num_bands=50),
        case("capitals", "capitals do not count", [" ".join(plain), " ".join(plain).upper(), text(60)]),
        case("accents", "accents do not count, composed or not", [accents, unicodedata.normalize("NFD", accents), accents.replace("\u00e9", "e"), text(60)]),
        case("punctuation", "punctuation parts words and does not count otherwise", [" ".join(plain), "-".join(plain), ", ".join(plain) + "!", text(60)]),
        case("spaces", "white space does not count", [" ".join(plain), " \n\t ".join(plain) + "\n", text(60)]),
        case("below", "candidates below the threshold stay", [" ".join(unlike), " ".join(_changed(unlike, 12)), " ".join(another), " ".join(another[:100])]),
        case("estimate", "the true similarity decides, not that of the signatures", _around(rng, [0.78, 0.82] * 8), ngrams=1),
        case("threshold", "a similarity of exactly the threshold is a duplicate", _around(rng, [0.8, 0.8]), ngrams=1),
        case("lower-threshold", "the threshold given, not 0.8", [" ".join(unlike), " ".join(_changed(unlike, 12)), text(200)], jaccard_threshold=0.2),
        case("hashing", "with one band of 500 rows a pair of similarity 0.9 is never a candidate", [" ".join(pair), " ".join(near[0]), text(200)],
             num_hashes=500, num_bands=1),
        case("clusters", "a chain of duplicates is one cluster", [" ".join(_shifted(rng, chain, step)) for step in range(5)], num_hashes=500, num_bands=250),
        case("shingles", "n-grams of as many words as asked for", [" ".join(unlike), " ".join(unlike[::-1]), text(200)], ngrams=1),
        case("shingle-length", "n-grams of three words", [" ".join(unlike), " ".join(_changed(unlike, 6)), " ".join(another), " ".join(_changed(another, 5)), text(150)], ngrams=3),
        case("sets", "a shingle that occurs twice is one shingle", [" ".join(plain), " ".join(plain * 3), text(60)], ngrams=2),
        case("short", "short documents are alike only if they are equal", ["two words", "other text", "two words", "", "one", text(40)]),
        case("unicode", "documents come out byte for byte", [" ".join(plain) + " \u2603\r\n\r\n", text(30) + "  ", f"\ufeff{text(30)}"]),
    ]  # fmt: skip


def _changed(document: list[str], places: int) -> list[str]:
    """With as many words replaced, far from each other."""
    step = len(document) // places
    return [f"zz{i}" if i % step == step // 2 else word for i, word in enumerate(document)]


def _shifted(rng: Rng, document: list[str], step: int) -> list[str]:
    """A window of the document and what follows it: neighbours are alike, the ends are not."""
    tail = [f"zq{i}" for i in range(120)]
    return [*document[25 * step :], *tail[: 25 * step]]


def _around(rng: Rng, similarities: list[float]) -> list[str]:
    """Pairs of sets of words of exactly these similarities, in hundredths."""
    documents = []
    for number, similarity in enumerate(similarities):
        shared = round(100 * similarity)
        common, rest = [f"w{number}x{i}" for i in range(shared)], [f"v{number}x{i}" for i in range(100 - shared)]
        half = len(rest) // 2
        documents += [" ".join(rng.permutation(common + part)) for part in (rest[:half], rest[half:])]
    return documents


def normalized(text: str) -> list[str]:
    """Words as the handout wants them: lower case, no accents, punctuation parts words."""
    found = []
    for character in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(character)
        if category != "Mn":
            found.append(" " if category[0] in "PSZC" else character)
    return "".join(found).split()


def shingles(text: str, n: int) -> set[Any]:
    """The n-grams of words; a shorter document is one shingle."""
    found = normalized(text)
    return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))} if found else {text}


def clusters(given: dict[str, bytes], options: dict[str, Any]) -> dict[str, int]:
    """Name -> number of its cluster: connected by pairs at or above the threshold, or by equality if nothing is hashed."""
    sets = {name: shingles(data.decode(), options["ngrams"]) for name, data in given.items()}
    found = {name: number for number, name in enumerate(given)}
    threshold = 1.0 if options["num_bands"] == 1 else options["jaccard_threshold"]
    for a, b in itertools.combinations(given, 2):
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= threshold:
            old, new = found[b], found[a]
            found = {name: new if number == old else number for name, number in found.items()}
    return found


def _judge_documents(given: dict[str, bytes], groups: dict[str, int], found: dict[str, bytes]) -> str | None:
    if not found.keys() <= given.keys():
        return "an output file has another name than any input"
    if any(found[name] != given[name] for name in found):
        return "a document that stays was rewritten"
    counts = Counter(groups[name] for name in found)
    if len(counts) < len(set(groups.values())):
        return "documents that have no duplicate, or all copies of one, are gone"
    return None if max(counts.values()) == 1 else "duplicates are still there"


def _shape(given: dict[str, bytes], groups: dict[str, int], answer: Answer) -> Any:
    """How many of each cluster of like documents stay and whether they are as they were: which of them do is free."""
    found = answer.get("files")
    if type(found) is not dict:
        return None
    names = sorted((groups.get(name, -1), data == given.get(name)) for name, data in found.items())
    return [list(row) for row in names]
