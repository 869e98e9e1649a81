"""What tells prose from the furniture of web pages, in nineteen numbers that do not depend on the topic.

Shares and means only: the length of a text is no evidence of its quality and is left out. What has to be counted word by
word and character by character, `counts_reference` says; compiled code does the same, faster. Read next:
`compiled_page_counts.py`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import numpy as np

MAX_CHARACTERS = 50_000
"""A longer text is judged by its beginning."""
FIRST_WORDS = 200
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


def page_features(text: str) -> np.ndarray:
    """The numbers of `NAMES`, float64 (19,); zeros for a text without words."""
    text = text[:MAX_CHARACTERS]
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    count, word_characters, capitalized, distinct, sentences, letters, upper, digits, symbols, *groups = _counts(text)
    if not count or not lines:
        return np.zeros(len(NAMES))
    stop, personal, chrome, exposition, chat, function = groups
    characters, sentences = sum(map(len, lines)), max(1, sentences)
    return np.array([
        sum(line.endswith((".", "!", "?", '."', ".)")) for line in lines) / len(lines),
        np.log(1 + characters / len(lines)),
        sum(len(line) < 30 for line in lines) / len(lines),
        stop / count,
        word_characters / count,
        upper / max(1, letters),
        digits / characters,
        symbols / characters,
        distinct / min(count, FIRST_WORDS) ** 0.8,
        1 - len(set(lines)) / len(lines),
        capitalized / count,
        personal / count,
        (text.count("!") + text.count("?")) / sentences,
        chrome / count,
        exposition / count,
        np.log(1 + min(100, count / sentences)),
        text.count(",") / count,
        chat / count,
        function / count,
    ])  # fmt: skip


def counts_reference(text: str) -> list[int]:
    """Words, their characters, capitalized ones, different ones of the first; sentences; letters, upper-case letters,
    digits, other symbols; then the words in each of `_GROUPS`."""
    found = _WORD.findall(text)
    words = [word.lower() for word in found]
    kinds = [_classes(character) for character in text]
    return [
        len(words), sum(map(len, words)), sum(word[0].isupper() for word in found), len(set(words[:FIRST_WORDS])),
        len(_SENTENCE.findall(text)), *(sum(kind[i] for kind in kinds) for i in range(4)),
        *(sum(word in group for word in words) for group in _GROUPS),
    ]  # fmt: skip


def _classes(c: str) -> tuple[bool, bool, bool, bool]:
    """Whether a character is a letter, an upper-case letter, a digit, or another symbol."""
    return c.isalpha(), c.isupper(), c.isdigit(), not (c.isalnum() or c.isspace() or c in ".,;:'\"()-?!")


def _counts(text: str) -> list[int]:
    """The same by compiled code, which leaves texts with strange letters to the readable form."""
    from cs336_data.classifiers import compiled_page_counts as compiled

    count_page, facts, tree, groups = _compiled()
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    while True:
        slots, result = np.zeros((512, 2), np.int64), np.zeros(compiled.GROUPS + len(_GROUPS), np.int64)
        place = count_page(codes, facts, tree, groups, FIRST_WORDS, slots, result)
        if place < 0:
            return result.tolist()
        if facts[codes[place]]:  # a strange one
            return counts_reference(text)
        for code in np.unique(codes[facts[codes] == 0]).tolist():
            facts[code] = _facts(chr(code))


def _facts(c: str) -> int:
    """What `compiled_page_counts.py` has to know of a character.

    Strange are those of which the lower-case form is not a single letter (capital I with a dot), depends on what stands
    beside it (sigma), or is a plain letter though they are none (the sign for kelvin).
    """
    lower = c.lower()
    strange = len(lower) != 1 or c == "\u03a3" or (lower.isascii() and not c.isascii())
    answers = (*_classes(c), c.isalnum() and not c.isdecimal(), c.isspace(), strange, True)
    return (ord(lower[0]) << 8) + sum(1 << bit for bit, answer in enumerate(answers) if answer)


@functools.cache
def _compiled() -> tuple[Callable[..., int], np.ndarray, np.ndarray, np.ndarray]:
    """The compiled pass; what is known of each character, found when one is met; words of the groups, as a tree:
    for each node the next one by letter, or -1, and how often its word is in each group."""
    from cs336_basics.tokenization.compilation import stored
    from cs336_data.classifiers.compiled_page_counts import count_page

    nodes, members = [[-1] * 26], [[0] * len(_GROUPS)]
    for number, group in enumerate(_GROUPS):
        for word in group:
            node = 0
            for letter in word:
                if nodes[node][ord(letter) - 97] < 0:
                    nodes[node][ord(letter) - 97] = len(nodes)
                    nodes.append([-1] * 26)
                    members.append([0] * len(_GROUPS))
                node = nodes[node][ord(letter) - 97]
            members[node][number] = 1
    return stored(count_page), np.zeros(0x110000, np.uint32), np.array(nodes), np.array(members)
