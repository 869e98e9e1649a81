"""Gopher's rules: does a page look like prose, and does it repeat itself?

Quality: number and length of words, symbols per word, lines that are bullets or end in an ellipsis, words with a
letter, stop words. Repetition: repeated lines, paragraphs and n-grams of words. Thresholds: Rae et al. 2021, section
A.1 and table A1; a page at a threshold is kept. `COURSE_RULES` are the four the course asks for.

The rules mean nothing for scripts written without spaces: run them after language identification. Handout:
`gopher_quality_filters`. Read next: `c4.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cs336_data.rules.page import STOP_WORD, STOP_WORDS, Page, WordTable
from cs336_data.rules.repetition import Limits, first_excess

_ALL_STOP_WORDS = [STOP_WORD << i for i in range(len(STOP_WORDS))]


@dataclass(frozen=True)
class GopherQuality:
    """Rejects what is no prose. None switches a rule off."""

    min_words: int = 50
    """fewest words that are not only punctuation"""
    max_words: int = 100_000
    """most of them"""
    min_mean_length: float = 3.0
    """shortest mean word, characters"""
    max_mean_length: float = 10.0
    """longest mean word"""
    max_symbols_per_word: float | None = 0.1
    """most # per word, and most ellipses per word"""
    max_bullet_lines: float | None = 0.9
    """largest share of lines that begin with a bullet"""
    max_ellipsis_lines: float = 0.3
    """largest share of lines that end in an ellipsis"""
    min_alphabetic_words: float = 0.8
    """smallest share of words with a letter"""
    min_stop_words: int = 2
    """fewest different ones of the be to of and that have with"""

    def __call__(self, page: Page) -> str | None:
        """The rule that rejects the page, or None."""
        num_words, num_proper, proper_characters, num_with_letter, present = page.facts()
        if num_proper < self.min_words:
            return "gopher_too_few_words"
        if num_proper > self.max_words:
            return "gopher_too_many_words"
        mean = proper_characters / num_proper
        if mean < self.min_mean_length:
            return "gopher_short_words"
        if mean > self.max_mean_length:
            return "gopher_long_words"
        reason = self._symbols(page.text, num_words) or self._lines(page.text)
        if reason:
            return reason
        if num_with_letter / num_words < self.min_alphabetic_words:
            return "gopher_few_alphabetic_words"
        if sum(1 for bit in _ALL_STOP_WORDS if present & bit) < self.min_stop_words:
            return "gopher_few_stop_words"
        return None

    def _symbols(self, text: str, num_words: int) -> str | None:
        """Hashes and ellipses per word."""
        if self.max_symbols_per_word is None:
            return None
        if text.count("#") / num_words > self.max_symbols_per_word:
            return "gopher_many_hashes"
        if (text.count("...") + text.count("\u2026")) / num_words > self.max_symbols_per_word:
            return "gopher_many_ellipses"
        return None

    def _lines(self, text: str) -> str | None:
        """Lines that begin with a bullet or end in an ellipsis, counted only if the text has enough of either."""
        marks, dots = text.count("-") + text.count("\u2022"), text.count("...") + text.count("\u2026")
        fewest = max(1, text.count("\n"))  # lines, at least: most pages are decided without cutting them
        many_bullets = self.max_bullet_lines is not None and marks / fewest > self.max_bullet_lines
        if not many_bullets and dots / fewest <= self.max_ellipsis_lines:
            return None
        lines = text.splitlines()
        if self.max_bullet_lines is not None:
            bullets = sum(line.lstrip().startswith(("\u2022", "-")) for line in lines) / len(lines)
            if bullets > self.max_bullet_lines:
                return "gopher_bullet_lines"
        ellipses = sum(line.rstrip().endswith(("...", "\u2026")) for line in lines) / len(lines)
        return "gopher_ellipsis_lines" if ellipses > self.max_ellipsis_lines else None


COURSE_RULES = GopherQuality(max_symbols_per_word=None, max_bullet_lines=None, min_stop_words=0)


@dataclass(frozen=True)
class GopherRepetition:
    """Rejects what repeats itself."""

    max_duplicate_paragraphs: float = 0.3
    """largest share of paragraphs that occurred before"""
    max_duplicate_paragraph_characters: float = 0.2
    """and of characters in them"""
    max_duplicate_lines: float = 0.3
    """largest share of lines that occurred before"""
    max_duplicate_line_characters: float = 0.2
    """and of characters in them"""
    top: Limits = ((2, 0.2), (3, 0.18), (4, 0.16))
    """largest top share of n-grams"""
    duplicated: Limits = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
    """largest duplicated share of n-grams"""

    def __call__(self, page: Page) -> str | None:
        """The rule that rejects the page, or None."""
        text = page.text
        if not text:
            return "gopher_empty"
        share, characters = duplicate_shares(paragraphs(text), len(text))
        if share > self.max_duplicate_paragraphs:
            return "gopher_duplicate_paragraphs"
        if characters > self.max_duplicate_paragraph_characters:
            return "gopher_duplicate_paragraph_characters"
        share, characters = duplicate_shares(lines(text), len(text))
        if share > self.max_duplicate_lines:
            return "gopher_duplicate_lines"
        if characters > self.max_duplicate_line_characters:
            return "gopher_duplicate_line_characters"
        index = first_excess(page.words, page.lengths, len(text), top=self.top, duplicated=self.duplicated)
        if index < 0:
            return None
        if index < len(self.top):
            return f"gopher_top_{self.top[index][0]}_gram"
        return f"gopher_duplicated_{self.duplicated[index - len(self.top)][0]}_grams"


def paragraphs(text: str) -> list[str]:
    r"""re.split(r"\n\n+", text.strip()), in a fraction of the time."""
    return [piece.lstrip("\n") for piece in text.strip().split("\n\n") if piece] or [""]


def lines(text: str) -> list[str]:
    r"""re.split(r"\n+", text), in a fraction of the time and with what is empty last."""
    return [piece for piece in text.split("\n") if piece] + [""] * (text.startswith("\n") + text.endswith("\n"))


def duplicate_shares(pieces: list[str], num_characters: int) -> tuple[float, float]:
    """(share of pieces that occurred before, their characters over `num_characters`)."""
    distinct = set(pieces)
    repeated = sum(map(len, pieces)) - sum(map(len, distinct))
    return (len(pieces) - len(distinct)) / len(pieces), repeated / num_characters


def gopher_quality_filter(text: str) -> bool:
    """Whether a text passes the four rules of the course. Source: handout, `gopher_quality_filters`."""
    return COURSE_RULES(Page(text, WordTable())) is None
