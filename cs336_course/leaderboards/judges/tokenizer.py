"""Judge of a tokenizer's speed: the right ids first, then megabytes per second against our reference.

    metric = median time of the reference / median time of the entry, both re-timed in this session

The vocabulary is learnt here on text of the same kind and handed to both; every timed repeat is a text of its own and
every id is compared with the reference implementation's. Read next: `timing.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.corpora.stories import generate_story
from cs336_basics.tokenization.bpe import train_bpe_from_counts
from cs336_basics.tokenization.pretokenization import pretokenize
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_course.leaderboards.conversation import Answer, ProbeFailure, Question
from cs336_course.leaderboards.judges.judging import Judging
from cs336_course.leaderboards.judges.timing import Round, beside, clock_probe, ratio, settled, take_turns
from cs336_course.leaderboards.verification import PASSED, Measurement

ALPHABETS = (
    *("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOP", "0123456789", ".,;:!?()[]{}'\""),
    *("\u00e4\u00f6\u00fc\u00df\u00e9\u00e8\u00f1\u00e7", "\u0430\u0431\u0432\u0433\u0434\u0435"),
    *("\u4e00\u4e8c\u4e09\u56db\u4e94", "\U0001f600\U0001f30d"),
)


@dataclass(frozen=True)
class TokenizerSettings:
    """Vocabulary, texts and repeats."""

    vocab_size: int = 1000
    text_kb: int = 60
    """kilobytes of each timed text, half of it stories, half words of many scripts never seen before"""
    warmups: int = 2
    repeats: int = 24
    rounds: int = 4


def measure(judging: Judging) -> Measurement:
    """Time and check."""
    return settled(lambda: _measure(judging, judging.settings(TokenizerSettings)))


def _measure(judging: Judging, s: TokenizerSettings) -> Measurement:
    """One session."""
    draw = random.Random(int(judging.random("texts").integers(2**62)))
    reference, per_round = _learn(mixed_text(draw, 30_000), s.vocab_size), -(-s.repeats // s.rounds)
    start = Question("start_tokenizer", {
        "vocab": [reference.vocab[i] for i in range(reference.vocab_size)],
        "merges": [[left, right] for left, right in reference.merges], "specials": [END_OF_TEXT],
    })  # fmt: skip
    texts: dict[int, list[str]] = {}

    def make_round(turn: int) -> Round:
        texts[turn] = [mixed_text(draw, 1000 * s.text_kb) for _ in range(s.warmups + per_round)]
        asked = [Question("encode", {"text": text}) for text in texts[turn]]
        return Round([start, *asked[: s.warmups]], asked[s.warmups :])

    def check(turn: int, contestant: str, answers: Sequence[Answer]) -> None:
        for text, answer in zip(texts[turn], answers[1:], strict=True):
            ids, expected = answer.value.get("ids"), reference.encode(text)
            if not isinstance(ids, np.ndarray) or ids.tolist() != expected:
                at = (
                    "an array is missing"
                    if not isinstance(ids, np.ndarray)
                    else f"id {_first_difference(ids, expected)} differs"
                )
                raise ProbeFailure("results", f"the {contestant}'s ids are not the reference's: {at}")

    assert judging.talk is not None and judging.baseline is not None
    entry, base = take_turns(
        judging.talk, judging.baseline, make_round, repeats=s.repeats, rounds=s.rounds, check=check
    )
    inverse, error = ratio(entry, base)
    speeds = {"MB per second": s.text_kb / entry.median_ms, "reference MB per second": s.text_kb / base.median_ms}
    probes = {"results": PASSED, "clock": clock_probe(entry, base)}
    return Measurement(1 / inverse, error / inverse**2, probes, {**speeds, **beside(entry, base)})


def mixed_text(draw: random.Random, characters: int) -> str:
    """Stories and strange words in turns, ended by the end-of-text token now and then."""
    parts: list[str] = []
    size = 0
    while size < characters:
        parts += [generate_story(draw).text, END_OF_TEXT, *(_word(draw) for _ in range(60)), "\n"]
        size += sum(map(len, parts[-63:]))
    return "".join(parts)[:characters]


def _word(draw: random.Random) -> str:
    """A word of one script, with the space or line feed before it."""
    letters = draw.choice(ALPHABETS)
    return draw.choice((" ", " ", " ", "\n", "  ")) + "".join(draw.choice(letters) for _ in range(draw.randint(1, 12)))


def _learn(text: str, vocab_size: int) -> Tokenizer:
    counts = Counter(word.encode() for part in text.split(END_OF_TEXT) for word in pretokenize(part))
    merges = train_bpe_from_counts(counts, vocab_size - 257)
    tokens = [END_OF_TEXT.encode(), *(bytes([i]) for i in range(256)), *(left + right for left, right in merges)]
    return Tokenizer(dict(enumerate(tokens)), merges, [END_OF_TEXT])


def _first_difference(ids: np.ndarray, expected: list[int]) -> int:
    found = ids.tolist()
    return next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
