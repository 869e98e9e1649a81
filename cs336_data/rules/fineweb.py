"""FineWeb's own rules: lists, menus and repeated lines, found by comparing pages of good and bad crawls.

Penedo et al. 2024, section 3.6, chose three thresholds whose removal of pages raised scores most; a fourth, on line
breaks per word, is in its code. All of FineWeb's rules in order are the set "fineweb" of `rule_sets.py`.

Read next: `dclm.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cs336_data.rules.gopher import duplicate_shares
from cs336_data.rules.page import TERMINAL, Page


@dataclass(frozen=True)
class FineWebQuality:
    """Rejects pages that consist of menus and lists."""

    min_punctuated_lines: float = 0.12
    """smallest share of lines that end in punctuation"""
    max_short_lines: float = 0.67
    """largest share of short lines"""
    short_line: int = 30
    """characters of a short line at most"""
    max_duplicate_characters: float = 0.01
    """largest share of characters in lines that occurred before"""
    max_newlines_per_word: float = 0.3
    """most line breaks per word"""

    def __call__(self, page: Page) -> str | None:
        """The rule that rejects the page, or None."""
        lines = [line for line in page.text.split("\n") if line and not line.isspace()]
        if not lines:
            return "fineweb_empty"
        ends = [line[-1] for line in lines]
        punctuated = sum(count for end, count in ((end, ends.count(end)) for end in set(ends)) if TERMINAL.match(end))
        if punctuated / len(lines) < self.min_punctuated_lines:
            return "fineweb_few_punctuated_lines"
        if sum(len(line) <= self.short_line for line in lines) / len(lines) > self.max_short_lines:
            return "fineweb_short_lines"
        newlines = page.text.count("\n")
        if duplicate_shares(lines, len(page.text) - newlines)[1] > self.max_duplicate_characters:
            return "fineweb_duplicate_lines"
        # What stands between white space is one word or more: most pages need not be cut into words for this.
        limit = self.max_newlines_per_word
        if newlines / len(page.text.split()) > limit and newlines / len(page.words) > limit:
            return "fineweb_many_newlines"
        return None
