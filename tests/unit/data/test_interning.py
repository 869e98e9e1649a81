"""Strings as numbers, against `str.split` and a dictionary."""

from __future__ import annotations

import random
import sys

import numpy as np

from cs336_data.interning import Interner, with_room

SPACES = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
NEAR_SPACES = (
    "\0\x08\x0e\x1b\x7f\u0084\u0086\u009f\u00a1\u1681\u180e\u1fff\u200b\u2027\u202a\u202e\u205e\u2060\u2fff\u3001\ufeff"
)


def expected(text: str, known: dict[str, int]) -> list[int]:
    return [known.setdefault(chunk, len(known)) for chunk in text.split()]


def test_chunks_are_those_of_split():
    """All white space of Unicode and what lies beside it, words of all lengths around those that the table keeps whole."""
    rng, interner, known = random.Random(0), Interner(), dict[str, int]()
    letters = [*"abcab", *NEAR_SPACES, *SPACES, "\u00e9", "\u4f60", "\U0001f600", "\ud800"]
    texts = ["", " ", "a", "".join(SPACES), "x".join(SPACES), "a" * 15 + " " + "a" * 16 + " " + "a" * 17]
    texts += ["".join(rng.choices(letters, k=rng.randrange(80))) for _ in range(500)]
    texts += [" ".join("ab"[rng.randrange(2)] * rng.randrange(1, 40) for _ in range(50)) for _ in range(20)]
    for text in texts:
        assert interner.chunks(text.encode("utf-8", "surrogatepass")).tolist() == expected(text, known)
    assert interner.size == len(known) and interner.strings(0) == list(known)
    assert interner.strings(7) == list(known)[7:] and interner.string(5) == list(known)[5]


def test_tables_grow_within_a_text():
    """More distinct strings than the first table has room for, and one that is larger than all of it."""
    text = " ".join([*(f"{n * n:x}" for n in range(20_000)), "z" * 100_000, *(str(n) for n in range(3000))] * 2)
    interner, known = Interner(), dict[str, int]()
    assert interner.chunks(text.encode()).tolist() == expected(text, known)
    assert interner.strings(0) == list(known)
    assert interner.kept.nbytes + interner.ends.nbytes + interner.slots.nbytes < 10 * len(text)


def test_pieces():
    rng, interner, known = random.Random(1), Interner(), dict[bytes, int]()
    for _ in range(30):
        pieces = [bytes(rng.choices(b"ab \0", k=rng.choice([1, 2, 16, 17, 40]))) for _ in range(rng.randrange(900))]
        cuts = np.cumsum([3, *map(len, pieces)])
        numbers = interner.pieces(np.frombuffer(b"???" + b"".join(pieces) + b"?", np.uint8), cuts)
        assert numbers.tolist() == [known.setdefault(piece, len(known)) for piece in pieces]


def test_room():
    values = np.arange(4)
    assert with_room(values, 4) is values
    longer = with_room(values, 5)
    assert len(longer) >= 5 and longer[:4].tolist() == [0, 1, 2, 3] and longer.dtype == values.dtype
