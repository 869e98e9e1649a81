"""Has training text seen the evaluation text? Three measures, from exact to fuzzy.

    canary     a marker that staff put into evaluation files; it belongs nowhere else
    lines      share of the evaluation's lines (of 40 characters or more) that occur in the training text
    13-grams   share of the evaluation's sequences of 13 words that occur in it

Words are lower-case letters and digits, so that punctuation and spacing do not hide a copy. Read next:
`cs336_data/deduplication/` (decontamination before training).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

GRAM, LINE_CHARS = 13, 40
CANARY = "cs336-canary-3b6f0c52"
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Overlap:
    """What of the evaluation text was found in the training text."""

    grams: int
    shared_grams: int
    lines: int
    shared_lines: int
    canary: bool

    def verdict(self, *, allowed: float) -> str | None:
        """What is wrong when more than the share `allowed` is common; None when nothing is."""
        if self.canary:
            return "the training text holds the canary of the evaluation files"
        found = (("13-grams", self.shared_grams, self.grams), ("lines", self.shared_lines, self.lines))
        for what, shared, total in found:
            if total and shared / total > allowed:
                share = f"{100 * shared / total:.1f} % of the evaluation's {what}"
                return f"{share} occur in the training text ({100 * allowed:g} % are allowed)"
        return None


def measure_overlap(training: Iterable[str], evaluation: Sequence[str], *, allowed: Iterable[str] = ()) -> Overlap:
    """Compare training documents, read once, with evaluation documents, held in memory.

    What stands in the texts `allowed` too, such as a stock sentence, does not count as evaluation text.
    """
    grams = {gram for text in evaluation for gram in _grams(text)}
    lines = {line for text in evaluation for line in _lines(text)}
    for text in allowed:
        grams.difference_update(_grams(text))
        lines.difference_update(_lines(text))
    seen_grams: set[int] = set()
    seen_lines: set[int] = set()
    canary = False
    for text in training:
        canary = canary or CANARY in text
        seen_grams.update(gram for gram in _grams(text) if gram in grams)
        seen_lines.update(line for line in _lines(text) if line in lines)
    return Overlap(len(grams), len(seen_grams), len(lines), len(seen_lines), canary)


def _grams(text: str) -> Iterator[int]:
    words = _WORD.findall(text.lower())
    for start in range(len(words) - GRAM + 1):
        yield hash(tuple(words[start : start + GRAM]))


def _lines(text: str) -> Iterator[int]:
    for line in text.splitlines():
        plain = " ".join(line.split())
        if len(plain) >= LINE_CHARS:
            yield hash(plain)
