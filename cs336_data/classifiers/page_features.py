"""What tells prose from the furniture of web pages, in nineteen numbers that do not depend on the topic.

Shares and means only: the length of a text is no evidence of its quality and is left out. Read next:
`cs336_data/quality_classifier.py`.
"""

from __future__ import annotations

import functools
import operator
import re
from collections import Counter

import numpy as np

MAX_CHARACTERS = 50_000
"""A longer text is judged by its beginning."""
NAMES = (
    "lines ending in . ! ?", "mean line length (log)", "lines under 30 characters", "stop words", "mean word length",
    "upper-case letters", "digits", "other symbols", "different words (first 200)", "repeated lines", "capitalized words",
    "you, your, I, my", "exclamation and question marks per sentence", "words of menus and shops", "words of exposition",
    "words per sentence (log)", "commas per word", "chat spellings", "determiners and prepositions",
)  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_SENTENCE = re.compile(r"[.!?]+(?:\s|$)")
_STOP = frozenset(
    "the of and to in a is that was for as with by on are it be from at which this or an not have were".split()
)
_PERSONAL = frozenset("you your yours i my me mine u ur we our us im ive".split())
_CHROME = frozenset(
    "login log sign register password username cart checkout shop buy sale price prices free click here download home "
    "contact menu search subscribe newsletter share tweet follow reply quote post posts posted comment comments view views "
    "next prev previous page pages add remove edit submit cancel close help faq privacy terms policy cookies rights "
    "reserved copyright powered member members join online order shipping discount deal deals offer offers best cheap top "
    "hot new items item qty stock sku wishlist compare forum topic topics thread threads guest email print sort filter "
    "loading browser javascript advertisement ads sponsored related tags tag archives categories recent likes like vote "
    "votes rating review reviews win casino bonus guaranteed hurry limited today now".split()
)
_EXPOSITION = frozenset(
    "however although because therefore thus while whereas since during between among through until within despite "
    "according including such both most many several often usually generally known called named considered described "
    "consists contains occurs became began developed founded established century early later first period example also "
    "its their these those than rather although when where who whose had been has".split()
)
_CHAT = frozenset(
    "lol lmao omg wtf plz pls thx haha hahaha gonna wanna gotta yeah hey hi guys idk tbh imo btw dont cant xd".split()
)
_FUNCTION = frozenset("the a an of in on at by for with from to into over under between through during".split())


_GROUPS = (_STOP, _PERSONAL, _CHROME, _EXPOSITION, _CHAT, _FUNCTION)
_GROUPS_OF = {word: tuple(word in group for group in _GROUPS) for word in frozenset().union(*_GROUPS)}
"""word -> for each group whether it belongs; one look-up instead of six"""


def page_features(text: str) -> np.ndarray:
    """The numbers of `NAMES`, float64 (19,); zeros for a text without words."""
    text = text[:MAX_CHARACTERS]
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    found = _WORD.findall(text)
    if not found or not lines:
        return np.zeros(len(NAMES))
    words = list(map(str.lower, found))
    count, characters = len(words), sum(map(len, lines))
    sentences = max(1, len(_SENTENCE.findall(text)))
    letters, upper, digits, symbols = _character_counts(text)
    stop, personal, chrome, exposition, chat, function = _group_counts(words)
    first = words[:200]
    return np.array([
        sum(line.endswith((".", "!", "?", '."', ".)")) for line in lines) / len(lines),
        np.log(1 + characters / len(lines)),
        sum(len(line) < 30 for line in lines) / len(lines),
        stop / count,
        sum(map(len, words)) / count,
        upper / max(1, letters),
        digits / characters,
        symbols / characters,
        len(set(first)) / len(first) ** 0.8,
        1 - len(set(lines)) / len(lines),
        sum(map(str.isupper, map(operator.itemgetter(0), found))) / count,
        personal / count,
        (text.count("!") + text.count("?")) / sentences,
        chrome / count,
        exposition / count,
        np.log(1 + min(100, count / sentences)),
        text.count(",") / count,
        chat / count,
        function / count,
    ])  # fmt: skip


def _group_counts(words: list[str]) -> list[int]:
    """How many words are in each of `_GROUPS`."""
    met = Counter(map(_GROUPS_OF.get, words))
    return [sum(count for member, count in met.items() if member and member[i]) for i in range(len(_GROUPS))]


def _character_counts(text: str) -> list[int]:
    """Letters, upper-case letters, digits, other symbols; each distinct character is looked at once."""
    counts = np.bincount(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32))
    present = np.flatnonzero(counts)
    return (counts[present] @ np.array([_classes(code) for code in present.tolist()])).tolist()


@functools.lru_cache(maxsize=10_000)
def _classes(code: int) -> tuple[bool, bool, bool, bool]:
    """To which of the four classes of `_character_counts` a character belongs."""
    c = chr(code)
    return c.isalpha(), c.isupper(), c.isdigit(), not (c.isalnum() or c.isspace() or c in ".,;:'\"()-?!")
