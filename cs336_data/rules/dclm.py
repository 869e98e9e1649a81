"""RefinedWeb's rules for lines, which DCLM took over: buttons, counters and headlines go, and with too many, the page.

A line is removed when it is mostly upper case, only a number, a counter ("12 likes"), a single word, or a short line
that begins, ends or consists like a button ("Sign in", "... read more", "3 items in cart"). A page of which more than
5 % of the words are in such lines is rejected. Penedo et al. 2023 (RefinedWeb), section G.2; Li et al. 2024 (DCLM),
section 4. The set "dclm" of `rule_sets.py` has Gopher's rules before it.

Left out: the lists of banned addresses (none is shipped), removal of addresses in the text. Read next: `rule_sets.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cs336_data.rules.page import Page

_NUMBER = re.compile(r"[\d\s.,:;/+%$\u20ac\u00a3()-]+")
_COUNTER = re.compile(
    r"\W*[\d.,]+\s*[km]?\s*(?:likes?|shares?|comments?|retweets?|reposts?|quotes?|bookmarks?|upvotes?|downvotes?|"
    r"downloads?|views?|followers?|replies|reply|points?|votes?|reviews?|answers?)\W*",
    re.IGNORECASE,
)
_BUTTON = re.compile(
    r"^(?:sign[ -]?in|sign[ -]?up|log[ -]?in|log[ -]?out|register|subscribe|share (?:this|on)|follow us|skip to)\b"
    r"|(?:read (?:more|the full \w+)|learn more|continue reading|see (?:all|more)|view (?:all|more)|show more)\W*$"
    r"|\b(?:items? in (?:your )?(?:shopping )?(?:cart|basket|bag)|add to (?:cart|basket|wish ?list))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class DclmLines:
    """Removes lines that are no text and rejects pages with many of them; replaces the text of a page it keeps."""

    max_uppercase: float = 0.5
    """largest share of letters in upper case"""
    max_words_of_button: int = 10
    """longer lines are no buttons"""
    max_removed_words: float = 0.05
    """largest share of the page's words that may be removed"""

    def __call__(self, page: Page) -> str | None:
        """The rule that rejects the page, or None; then `page.text` is what is left of it."""
        kept, removed, total = [], 0, 0
        for line in page.text.split("\n"):
            num_words = len(line.split())
            total += num_words
            if num_words and self._is_no_text(line, num_words):
                removed += num_words
            else:
                kept.append(line)
        if not total:
            return "dclm_empty"
        if removed / total > self.max_removed_words:
            return "dclm_removed_words"
        if removed:
            page.replace("\n".join(kept))
        return None

    def _is_no_text(self, line: str, num_words: int) -> bool:
        """Whether a line is to go."""
        if num_words == 1 or _NUMBER.fullmatch(line) or _COUNTER.fullmatch(line):
            return True
        upper = sum(map(str.isupper, line))
        if upper and upper > self.max_uppercase * sum(map(str.isalpha, line)):
            return True
        return num_words <= self.max_words_of_button and _BUTTON.search(line.strip()) is not None
