"""Wrong BPE trainers and tokenizers, as settings of one slow and simple implementation. Read next: `diagnosis.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import regex

from cs336_course.misconceptions.bank import Misconception, wrong

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
Pair = tuple[bytes, bytes]
Word = tuple[bytes, ...]


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_trainers(), *_tokenizers()]


def split(text: str, specials: list[str]) -> list[tuple[str, bool]]:
    """(part, is special) in order; at each place the first of `specials` that matches."""
    if not specials:
        return [(text, False)] if text else []
    parts = regex.split("(" + "|".join(map(regex.escape, specials)) + ")", text)
    return [(part, number % 2 == 1) for number, part in enumerate(parts) if part]


def join(word: Word, pair: Pair) -> Word:
    """Merge a pair from the left."""
    out: list[bytes] = []
    for token in word:
        if out and (out[-1], token) == pair and not (out[-1] == token and out[-1:] == [None]):
            out[-1] = out[-1] + token
            out.append(b"")  # an empty mark: what has been merged is not merged again
        else:
            if out and out[-1] == b"":
                out.pop()
            out.append(token)
    return tuple(token for token in out if token)


def learn(text: str, num_merges: int, specials: list[str], how: str) -> list[Pair]:
    """Merges of a text, right with `how` = ""."""
    ordered = sorted(specials, key=len, reverse=how != "short-specials-first")
    if how == "specials-counted":
        ordered = []
    if how == "specials-deleted":
        for special in ordered:
            text = text.replace(special, "")
        ordered = []
    pieces = [part for part, special in split(text, ordered) if not special]
    find = {"words": r"\S+", "lines": r"[^\n]+|\n", "no-space-prefix": r"\p{L}+|\p{N}+|[^\s\p{L}\p{N}]+|\s+"}.get(
        how, PATTERN
    )
    found = [piece.lower() if how == "lowercase" else piece for part in pieces for piece in regex.findall(find, part)]
    counts = Counter(tuple(bytes([b]) for b in piece.encode()) for piece in found)
    words = dict.fromkeys(counts, 1) if how == "words-once" else dict(counts)
    merges: list[Pair] = []
    for _ in range(num_merges):
        pairs: Counter[Pair] = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += count
        if not pairs:
            break
        best = _choose(pairs, how)
        merges.append(best)
        merged: dict[Word, int] = {}
        for word, count in words.items():
            new = join(word, best)
            merged[new] = merged.get(new, 0) + count
        words = merged
    return merges


def _choose(pairs: Counter[Pair], how: str) -> Pair:
    """The pair to merge."""
    keys: dict[str, Callable[[Pair], Any]] = {
        "smallest-tie": lambda p: (pairs[p], [[-b for b in t] + [1] for t in p]),
        "printable-tie": lambda p: (pairs[p], tuple("".join(map(_printable, t)) for t in p)),
        "joined-tie": lambda p: (pairs[p], p[0] + p[1]),
        "longest-first": lambda p: (pairs[p], len(p[0] + p[1]), p),
        "rarest": lambda p: (-pairs[p], p),
    }
    if how == "first-tie":
        return max(pairs, key=lambda p: pairs[p])
    return max(pairs, key=keys.get(how, lambda p: (pairs[p], p)))


def _printable(byte: int) -> str:
    """GPT-2's printable stand-in of a byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return chr(byte) if byte in plain else chr(0x100 + [b for b in range(256) if b not in plain].index(byte))


def _trainers() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def run_train_bpe(input_path: Any, vocab_size: int, special_tokens: list[str]) -> Any:
            text = Path(input_path).read_bytes().decode()
            room = vocab_size - 256 - (0 if how == "specials-extra" else len(special_tokens)) - (how == "one-short")
            merges = learn(text, room, special_tokens, how)
            listed = [s.encode() for s in special_tokens] if how != "specials-missing" else []
            tokens = [*listed, *(bytes([b]) for b in range(256)), *(a + b for a, b in merges)]
            return dict(enumerate(tokens)), merges

        return wrong("train_bpe", how, says, example, run_train_bpe=run_train_bpe)

    return [
        entry("smallest-tie", "ties go to the smaller pair", "`ab cd`: (c, d) comes first"),
        entry("first-tie", "ties go to the pair seen first", "`ab cd`: (c, d) comes first"),
        entry("printable-tie", "ties are broken on the printable stand-ins of bytes (a space becomes U+0120, greater than every letter)", "a tie between a pair with a space and one without"),
        entry("joined-tie", "ties compare the joined bytes instead of the pair", "(ab, c) against (a, bd)"),
        entry("words-once", "each different word counts once, however often it occurs", "`aa aa aa bb`"),
        entry("words", "text is cut at white space instead of by the pattern", "`low.` : the dot is a pre-token of its own"),
        entry("no-space-prefix", "a space is not part of the word that follows", "` low low`: ` low` is one pre-token"),
        entry("lines", "merges cross pre-tokens", "`a b a b`: a pair of letter and space"),
        entry("specials-counted", "special tokens are counted as text", "a text of <|endoftext|> only: no merges"),
        entry("specials-deleted", "special tokens are deleted, so that what stands around them touches", "`a<|endoftext|>b`: no pair"),
        entry("specials-extra", "special tokens do not count towards vocab_size", "vocab_size 257 with one special token: no merges"),
        entry("specials-missing", "special tokens are missing in the vocabulary", "the vocabulary's values"),
        entry("one-short", "one merge too few is learned", "vocab_size 257 without special tokens: one merge"),
        entry("lowercase", "text is put into lower case first", "`Low low`"),
        entry("short-specials-first", "shorter special tokens are cut out before longer ones that hold them", "specials <|s|> and <|s|>x"),
    ]  # fmt: skip


class _Tokenizer:
    """A tokenizer with a deviation; right with `how` = ""."""

    def __init__(self, vocab: dict[int, bytes], merges: list[Pair], specials: list[str] | None, how: str) -> None:
        self.vocab, self.how = vocab, how
        self.ids = {token: i for i, token in vocab.items()}
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.specials = sorted(specials or [], key=len, reverse=True)
        if how == "specials-in-given-order":
            self.specials = list(specials or [])
        if how == "short-specials-first":
            self.specials = sorted(specials or [], key=len)
        if how == "specials-ignored":
            self.specials = []
        if how == "specials-always":
            self.specials = ["<|endoftext|>", *(s for s in self.specials if s != "<|endoftext|>")]

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        out: list[int] = []
        for part, special in split(text, self.specials):
            if special:
                out.append(self.ids[part.encode()])
                continue
            pattern = {"words": r"\s+|\S+", "no-pretokens": r"(?s).+"}.get(self.how, PATTERN)
            for piece in regex.findall(pattern, part):
                out += self._word(piece.encode())
        return out

    def _word(self, data: bytes) -> list[int]:
        if self.how == "longest-token":
            return self._longest(data)
        word = tuple(bytes([b]) for b in data)
        while len(word) > 1:
            pairs = [p for p in zip(word, word[1:], strict=False) if p in self.rank]
            if not pairs:
                break
            best = pairs[0] if self.how == "first-pair" else min(pairs, key=self.rank.__getitem__)
            if self.how == "reversed-ranks":
                best = max(pairs, key=self.rank.__getitem__)
            word = join(word, best)
            if self.how == "one-merge":
                break
        return [self.ids[token] for token in word]

    def _longest(self, data: bytes) -> list[int]:
        out, start = [], 0
        while start < len(data):
            end = next(e for e in range(len(data), start, -1) if data[start:e] in self.ids)
            out.append(self.ids[data[start:end]])
            start = end
        return out

    def encode_iterable(self, iterable: Iterable[str]) -> Iterator[int]:
        """Ids of a text in pieces."""
        if self.how == "pieces-alone":
            for piece in iterable:
                yield from self.encode(piece)
        elif self.how == "pieces-stripped":
            yield from self.encode("".join(piece.rstrip("\n") for piece in iterable))
        elif self.how == "not-lazy":
            yield from self.encode("".join(iterable))
        else:
            yield from self._streamed(iterable)

    def _streamed(self, iterable: Iterable[str]) -> Iterator[int]:
        """Keep back the end of the text, from the last space between two letters on, where no pre-token can cross."""
        text = ""
        for piece in iterable:
            text += piece
            cuts = [match.start() for match in regex.finditer(r"(?<=\p{L}) (?=\p{L})", text)]
            if cuts and self.how != "no-pretokens":
                yield from self.encode(text[: cuts[-1]])
                text = text[cuts[-1] :]
        yield from self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        if self.how == "decode-each":
            return "".join(self.vocab[i].decode("utf-8", errors="replace") for i in ids)
        data = b"".join(self.vocab[i] for i in ids)
        errors = {"decode-ignores": "ignore", "decode-strict": "strict"}.get(self.how, "replace")
        return data.decode("latin-1" if self.how == "latin-1" else "utf-8", errors=errors)


def _tokenizers() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def get_tokenizer(vocab: Any, merges: Any, special_tokens: Any = None) -> _Tokenizer:
            return _Tokenizer(vocab, merges, special_tokens, how)

        return wrong("tokenizer", how, says, example, get_tokenizer=get_tokenizer)

    return [
        entry("longest-token", "the longest token of the vocabulary that fits is taken, instead of merges by rank", "merges (b, c), (a, b), (ab, c): `abc` is a, bc"),
        entry("first-pair", "the first pair that can be merged is merged, instead of the one of lowest rank", "merges (b, c), (a, b): `abc` is a, bc"),
        entry("reversed-ranks", "later merges come before earlier ones", "merges (b, c), (a, b): `abc` is a, bc"),
        entry("one-merge", "only one merge is applied to each word", "merges (a, b), (ab, c): `abc` is one token"),
        entry("no-pretokens", "merges cross pre-tokens", "`a b` with a merge of a letter and a space"),
        entry("words", "text is cut at white space instead of by the pattern", "` low`: the space belongs to the word"),
        entry("specials-ignored", "special tokens are encoded as ordinary text", "`<|endoftext|>`: one id"),
        entry("specials-in-given-order", "of special tokens that start at one place, the first in the list is taken instead of the longest", "specials [<|s|>, <|s|><|s|>]"),
        entry("short-specials-first", "of special tokens that start at one place, the shortest is taken", "specials [<|s|><|s|>, <|s|>]"),
        entry("specials-always", "<|endoftext|> is a special token even when it is not asked for", "special_tokens = None"),
        entry("decode-each", "each id is decoded for itself: characters spread over two ids are lost", "two ids that make one accented letter"),
        entry("decode-ignores", "invalid bytes are left out instead of becoming U+FFFD", "the single byte 0xFF"),
        entry("decode-strict", "invalid bytes raise an error instead of becoming U+FFFD", "the single byte 0xFF"),
        entry("latin-1", "bytes are decoded as Latin-1", "an accented letter: two bytes"),
        entry("pieces-alone", "encode_iterable encodes each piece for itself", "pieces `lo`, `w`"),
        entry("pieces-stripped", "encode_iterable strips the line ends", "two lines"),
        entry("not-lazy", "encode_iterable reads its whole input before it gives an id", "an endless iterable"),
    ]  # fmt: skip
