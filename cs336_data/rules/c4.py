"""C4's rules: keep the lines that look like sentences, and pages with enough of them.

A line stays if it has three words or more, none of them longer than 1000 characters, ends like a sentence (. ! ? or a
quotation mark, not an ellipsis), and does not speak of javascript, cookies or terms of use. Marks of citation, [1] and
[edit], are cut out. A page goes as a whole when a line that got so far has "lorem ipsum" or a curly bracket, or when
fewer than five sentences remain. Raffel et al. 2020, section 2.2; the order of the tests is that of datatrove, and thus
of FineWeb, which leaves out the rule on line ends.

Left out: the list of bad words (see `toxicity.py` for a better way), removal of three-sentence spans that occur on
several pages (deduplication), mC4's rules. Read next: `fineweb.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from cs336_data.rules.page import ENDS_SENTENCE, PUNCTUATION, Page

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
LINE_ENDS = (".", "?", "!", '"', "'")


@dataclass(frozen=True)
class C4:
    """Removes lines and rejects pages; replaces the page's text when it keeps it."""

    terminal_punctuation: bool = True
    """whether lines have to end like a sentence"""
    min_sentences: int = 5
    """fewest in the lines kept"""
    min_words_per_line: int = 3
    """fewest words between white space in a line"""
    max_word_length: int = 1000
    """characters"""

    def __call__(self, page: Page) -> str | None:
        """The rule that rejects the page, or None; then `page.text` is what is left of it."""
        kept: list[str] = []
        named = _may_name(page.text)
        for line in page.text.splitlines():
            line = line.strip()
            if len(line) > self.max_word_length and any(len(word) > self.max_word_length for word in line.split()):
                continue
            many_words = len(line.split(None, self.min_words_per_line - 1)) >= self.min_words_per_line
            if "[" in line:
                line = _CITATION.sub("", line)
            if self.terminal_punctuation and (not line.endswith(LINE_ENDS) or line.endswith("...")):
                continue
            if not many_words:
                continue
            if named:
                lower = line.lower()
                if "lorem ipsum" in lower:
                    return "c4_lorem_ipsum"
                if "javascript" in lower:
                    continue
                if "{" in line:
                    return "c4_curly_bracket"
                if any(policy in lower for policy in _POLICIES):
                    continue
            kept.append(line)
        if not self._enough_sentences(kept, page):
            return "c4_too_few_sentences"
        page.replace("\n".join(kept).strip())
        return None

    def _enough_sentences(self, lines: list[str], page: Page) -> bool:
        """Whether there are `min_sentences`; a line is at least one, so it rarely has to be looked at."""
        missing = self.min_sentences - len(lines)
        for line in lines if missing > 0 else ():
            numbers = page.table.numbers(line)
            missing -= count_sentences(page.table.kinds[numbers]) - 1
            if missing <= 0:
                break
        return missing <= 0


def _may_name(text: str) -> bool:
    """Whether a line may speak of what C4 looks for: few pages do, and one search for each is faster than all lines.

    A line can also come to do so when a citation is taken out of it.
    """
    lower = text.lower()
    return any(sign in lower for sign in ("[", "{", "lorem ipsum", "javascript", *_POLICIES))


def count_sentences(kinds: np.ndarray) -> int:
    """Sentences of a line from the kinds of its words: one begins with each word after a mark that ends one."""
    sentences, ended = min(1, len(kinds)), False
    for kind in kinds.tolist():
        if kind & ENDS_SENTENCE:
            ended = True
        elif ended and not kind & PUNCTUATION:
            sentences, ended = sentences + 1, False
    return sentences
