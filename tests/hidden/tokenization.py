"""Assignment 1, tokenizer: fresh corpora and vocabularies against byte-pair encoding by brute force (`naive_bpe`)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, Case

from . import naive_bpe
from .comparing import arrays, part

Rng = np.random.Generator
END = "<|endoftext|>"
SCRIPTS = "\u00e9\u00fc\u00df\u4f60\u597d\u0928\u092e\u0438\u043c\U0001f643\u2014"


def words(rng: Rng, count: int, letters: str = "abcdest", *, most: int = 6) -> list[str]:
    """Random words, many of them repeated."""
    lexicon = ["".join(rng.choice(list(letters), size=int(n))) for n in rng.integers(1, most, size=max(4, count // 6))]
    return [lexicon[int(len(lexicon) * u * u)] for u in rng.random(count)]


def prose(rng: Rng, count: int) -> str:
    """Words, numbers, contractions, punctuation, runs of spaces and newlines, other scripts."""
    extras = ["'s", "don't", "we'll", "12", "2024", "!", "...", "--", " ", "  ", "\n", "\n\n", "\t", *SCRIPTS]
    pieces = []
    for word in words(rng, count, "abcdefghilmnoprstu"):
        pieces.append(word.capitalize() if rng.random() < 0.1 else word)
        pieces.append(" " if rng.random() < 0.8 else str(rng.choice(extras)))
    return "".join(pieces)


def conflicts(rng: Rng, count: int) -> str:
    """Words of few letters, in which merges compete, and runs of spaces, whose merges must not reach into words."""
    made = ("".join(rng.choice(list("abc"), size=int(n))) for n in rng.integers(3, 12, size=count))
    return "".join(word + " " * int(rng.integers(1, 5)) for word in made)


def train_bpe(rng: Rng) -> list[Case]:
    def case(id: str, text: str, corpus: str, num_merges: int, specials: list[str]) -> Case:
        vocab_size = 256 + len(specials) + num_merges
        known: list[tuple[set[bytes], list[tuple[bytes, bytes]]]] = []

        def judge(answer: Answer) -> str | None:
            if not known:
                known.append(naive_bpe.naive_train_bpe(corpus, vocab_size, specials))
            items, merges = known[0]
            given = [tuple(pair) for pair in part(answer, "merges", list)]
            for rank, (mine, right) in enumerate(zip(given, merges, strict=False)):
                if mine != right:
                    return f"merge {rank} of {len(merges)} is another pair than it should be"
            if len(given) != len(merges):
                return f"{len(given)} merges, expected {len(merges)}"
            tokens, ids = part(answer, "tokens", list), part(answer, "ids", np.ndarray)
            if set(tokens) != items:
                return "the vocabulary is not special tokens, 256 bytes and merges"
            return None if ids.tolist() == list(range(len(items))) else "ids are not 0, 1, 2, ..."

        inputs = {"text": corpus, "vocab_size": vocab_size, "special_tokens": specials}
        return Case(id, text, "train_bpe", inputs, judge)

    separated = "".join(f"{' '.join(words(rng, 12))}{END}" for _ in range(20))
    overlapping = END.join(f"{' '.join(words(rng, 9))}<|s|>x{'xabx'[i % 4 :]}<|s|>" for i in range(12))
    runs = " ".join("".join(str(rng.choice(["aa", "aaa", "aaaaa", "b"])) for _ in range(4)) for _ in range(30))
    crossing = " ".join(f"{a}{END}{b}" for a, b in zip(words(rng, 60, "end<|>"), words(rng, 60, "end<|>"), strict=True))
    ties = " ".join(
        str(w) for w in rng.permutation(["xy", "zw", "ab", "\u00e9\u00e8", "AB", "~!", "qa", "qaz", "12"] * 3)
    )
    return [
        case("ties", "among equally frequent pairs the greater pair of raw bytes", ties, 14, []),
        case("corpus", "merges in order of count, within pre-tokens, weighted by words", prose(rng, 400), 60, [END]),
        case("separated", "special tokens are boundaries and never counted", separated, 40, [END]),
        case("overlapping", "several special tokens, some inside others", overlapping, 25, [END, "<|s|>", "<|s|>x"]),
        case("pieces-of-specials", "text that looks like parts of a special token is ordinary", crossing, 40, [END]),
        case("runs", "repeated letters are merged from the left", runs, 12, []),
        case("exhausted", "a corpus that runs out of pairs ends early", "abc abd", 40, [END]),
    ]


def tokenizer(rng: Rng) -> list[Case]:
    corpus = f"{prose(rng, 400)} {conflicts(rng, 150)}"
    merges = naive_bpe.train(corpus, 160, [])
    specials = [END, "<|s|>", "<|s|><|s|>"]
    tokens = [bytes([b]) for b in range(256)] + [a + b for a, b in merges] + [s.encode() for s in specials]
    vocab = [tokens[i] for i in rng.permutation(len(tokens))]
    base = {"vocab": vocab, "merges": [list(pair) for pair in merges]}
    fresh = [prose(rng, 60), conflicts(rng, 40), "", " ", "\n\n x\n \ny  \n", "".join(rng.permutation(list(SCRIPTS)))]
    special = [
        f"{prose(rng, 8)}{END}{prose(rng, 8)}{END}{END}",
        f"a<|s|><|s|>b<|s|> {END}\n\n{END}",
        "<|s|><|s|><|s|>",
        "<|end <|s| |>",
    ]

    @functools.cache
    def encoded(text: str, names: tuple[str, ...]) -> list[int]:
        return naive_bpe.encode(text, dict(enumerate(vocab)), merges, list(names))

    def case(
        id: str, text: str, texts: list[str], names: list[str] | None, pieces: list[list[str]] | None = None
    ) -> Case:
        streamed = pieces if pieces is not None else []
        inputs: dict[str, Any] = {**base, "special_tokens": names, "texts": texts, "pieces": streamed}

        def judge(answer: Answer) -> str | None:
            rows = arrays(answer, "ids")
            for row, given in zip(rows, texts, strict=True):
                if row.tolist() != encoded(given, tuple(names or ())):
                    return "the ids are not those of the merges applied in order"
            if part(answer, "decoded", list) != texts:
                return "decoding does not give the text back"
            for row, read in zip(arrays(answer, "streamed"), streamed, strict=True):
                if row.tolist() != encoded("".join(read), tuple(names or ())):
                    return "encode_iterable gives other ids than encode on the whole text"
            return None

        return Case(id, text, "tokenize", inputs, judge)

    def lazy(answer: Answer) -> str | None:
        read = part(answer, "read", int)
        return None if read <= 50 else "encode_iterable reads its whole input before it gives an id"

    laziness = {**base, "special_tokens": None, "lines": 5000, "line": "some words and more of them\n", "first": 10}
    return [
        case("ordinary", "merges by rank within pre-tokens; decode is the inverse", fresh, None),
        case("specials", "special tokens are kept whole, the longest first", special, specials[::-1]),
        case("specials-any-order", "whatever the order of the list", special, specials),
        case("specials-off", "without a list, special tokens are ordinary text", special[:2], None),
        case(
            "lines",
            "encode_iterable over lines",
            [],
            specials,
            [text.splitlines(keepends=True) for text in (*fresh[:2], special[1])],
        ),
        case(
            "pieces",
            "encode_iterable does not depend on where the text is cut",
            [],
            specials,
            [_cut(rng, text) for text in (*fresh[:2], *special[:2])],
        ),
        Case("lazy", "encode_iterable reads only what it needs", "laziness", laziness, lazy),
        _broken_bytes(rng, base, vocab),
    ]


def _cut(rng: Rng, text: str) -> list[str]:
    """The text in short pieces, cut anywhere."""
    cuts = sorted({0, len(text), *rng.integers(0, len(text) + 1, size=len(text) // 4).tolist()})
    return [text[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


def _broken_bytes(rng: Rng, base: dict[str, Any], vocab: list[bytes]) -> Case:
    """Ids whose bytes are no UTF-8 decode with U+FFFD, and a character may be spread over several ids."""
    place = {token: i for i, token in enumerate(vocab)}
    row = [place[bytes([b])] for b in "h\u00e9\U0001f643".encode() + bytes(rng.integers(128, 256, size=6).tolist())]
    expected = [b"".join(vocab[i] for i in ids).decode("utf-8", errors="replace") for ids in (row, row[:2])]
    inputs = {**base, "special_tokens": None, "ids": [np.array(row), np.array(row[:2])]}

    def judge(answer: Answer) -> str | None:
        return None if part(answer, "decoded", list) == expected else "invalid UTF-8 does not decode with U+FFFD"

    return Case("broken-bytes", "bytes are joined before they are decoded, errors replaced", "decode", inputs, judge)
