"""Words as the quality rules count them: punctuation marks and halves of contractions are words of their own.

    "Don't panic (again)."  ->  Do n't panic ( again ) .

Gopher's thresholds were published without saying what a word is. The pipelines in use (datatrove, so FineWeb) take
spaCy's English tokenizer; this is that algorithm restated: a chunk between white space loses prefixes and suffixes one
by one until nothing more comes off or what is left is a known exception; the rest is cut at infixes unless it is a web
address. spaCy's lists of letters, currencies and symbols are replaced by Unicode properties, its emoticons and rarer
abbreviations by the common ones, so that a few words in a million differ.

Chunks repeat (Zipf), so `page.py` splits each once and remembers it; those of ASCII by compiled code, which gets the
rules as tables.

Left out: other languages. Source: spaCy 3.8 (MIT licence), lang/en and tokenizer.pyx. Read next: `page.py`.
"""

from __future__ import annotations

import functools
import itertools
import string
from collections.abc import Sequence

import numpy as np
import regex

_MARKS = r"\u2026,:;!?\u00bf\u061f\u00a1()\[\]{}<>_#*&\u3002\uff1f\uff01\uff0c\u3001\uff1b\uff1a\uff5e\u00b7\u0964\u060c\u06d4\u061b\u066a"
_QUOTES = (
    r"'\"\u201d\u201c`\u2018\u00b4\u2019\u201a,\u201e\u00bb\u00ab\u300c\u300d\u300e\u300f\uff08\uff09\u3014\u3015"
    r"\u3010\u3011\u300a\u300b\u3008\u3009\u27e6\u27e7"
)
_UNCASED = r"\p{Lo}"
_LOWER, _UPPER, _LETTER = rf"\p{{Ll}}{_UNCASED}", rf"\p{{Lu}}{_UNCASED}", r"\p{Ll}\p{Lu}\p{Lt}\p{Lo}"
_HYPHENS = r"---|--|\u2014\u2014|[-\u2013\u2014~]"
_UNITS = (
    r"km\u00b2|km\u00b3|km/h|km|mm\u00b2|mm\u00b3|mm|m/s|m\u00b2|m\u00b3|m|dm\u00b2|dm\u00b3|dm|cm\u00b2|cm\u00b3|cm|ha|"
    r"\u00b5m|nm|yd|in|ft|kg|g|mg|\u00b5g|t|lb|oz|kmh|mph|hPa|Pa|mbar|mb|MB|kb|KB|gb|GB|tb|TB|T|G|M|K|%"
)
_LETTERS, _LOWER_LETTERS = frozenset(string.ascii_letters), frozenset(string.ascii_lowercase)
_SINGLE = frozenset(",:;!?()[]{}<>*&'\"`\u2018\u2019\u201c\u201d\u00ab\u00bb")
"""Marks that are a prefix and a suffix of one character, whatever stands beside them."""
_DOLLARS = ("US$", "C$", "A$")
_CURRENCY = "|".join([r"\p{Sc}", *map(regex.escape, _DOLLARS)])

_PREFIX = regex.compile(
    rf"[\u00a7%=\u2014\u2013]|\+(?![0-9])|\u2026\u2026|[{_MARKS}]|\.\.+|[{_QUOTES}]|{_CURRENCY}|\p{{So}}"
)
_SUFFIX = regex.compile(
    rf"(?:\u2026\u2026|[{_MARKS}]|\.\.+|[{_QUOTES}]|\p{{So}}|['\u2019][sS]|[\u2014\u2013]|(?<=[0-9])\+"
    rf"|(?<=\u00b0[FfCcKk])\.|(?<=[0-9])(?:{_CURRENCY})|(?<=[0-9])(?:{_UNITS})"
    rf"|(?<=[0-9{_LOWER}%\u00b2\-+|?:(){_MARKS}{_QUOTES}])\.|(?<=[{_UPPER}][{_UPPER}])\.)$"
)
_INFIX = regex.compile(
    rf"\.\.+|\u2026|\p{{So}}|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[{_LOWER}{_QUOTES}])\.(?=[{_UPPER}{_QUOTES}])"
    rf"|(?<=[{_LETTER}]),(?=[{_LETTER}])|(?<=[{_LETTER}0-9])(?:{_HYPHENS})(?=[{_LETTER}])"
    rf"|(?<=[{_LETTER}0-9])[:<>=/](?=[{_LETTER}])"
)
_HOST = (
    r"(?:(?:[1-9]\d?|1\d\d|2[01]\d|22[0-3])(?:\.(?:1?\d{1,2}|2[0-4]\d|25[0-5])){2}\.(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-4])"
    rf"|(?:[A-Za-z0-9\u00a1-\uffff][A-Za-z0-9\u00a1-\uffff_-]{{0,62}})?[A-Za-z0-9\u00a1-\uffff]\."
    rf"(?:(?:[A-Za-z0-9\u00a1-\uffff][A-Za-z0-9\u00a1-\uffff_-]{{0,62}})?[A-Za-z0-9\u00a1-\uffff]\.)*[{_LOWER}]{{2,63}})"
    r"(?::\d{2,5})?(?:[/?#]\S*)?"
)
_SCHEME, _USER = r"(?:[\w+\-.]{2,}://)?", r"(?:\S+(?::\S*)?@)?"
_URL, _URL_WITH_USER = regex.compile(_SCHEME + _HOST), regex.compile(_SCHEME + _USER + _HOST)
_WHOLE = (
    "' '' C++ 'S 's \u2018S \u2018s and/or w/o 're 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout ma'am Ma'am o'clock "
    "O'clock lovin' Lovin' havin' Havin' doin' Doin' goin' Goin' nothin' Nothin' nuthin' Nuthin' ol' Ol' somethin' "
    "Somethin' 'em 'll 'nuff 'd a.m. p.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. "
    "Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. Mt. Ak. Ala. Apr. Ariz. Ark. "
    "Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. "
    "Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. "
    "Wis. v.v v_v V.V V_V \\t \\n (*_*) (-8 (-: (-; (-_-) (._.) (: (; (= (>_<) (^_^) (o: )-: ): -_- -__- ._. 0.0 0.o 0_0 "
    "0_o 8) 8-) 8-D 8D :'( :') :'-( :'-) :( :(( :((( :() :) :)) :))) :* :-( :-(( :-((( :-) :-)) :-))) :-* :-/ :-0 :-3 "
    ":-> :-D :-O :-P :-X :-] :-o :-p :-x :-| :-} :/ :0 :1 :3 :> :D :O :P :X :] :o :o) :p :x :| :} ;) ;-) ;-D ;D ;_; <.< "
    '</3 <3 <33 <333 =( =) =/ =3 =D =[ =] =| >.< >.> >:( >:o @_@ O.O O.o O_O O_o XD XDD [-: [: [= \\") ]= ^_^ ^__^ '
    "^___^ o.0 o.O o.o o_0 o_O o_o xD xDD"
).split()
_SPLIT = (
    "I'm i'm I'm'a can|not Can|not gon|na Gon|na got|ta Got|ta let|'s Let|'s c'm|on C'm|on y'|all y|all not|'ve Not|'ve "
    "how|'d|'y How|'d|'y not|ve Not|ve"
).split()
MAX_CHUNK = 1000
"""Longer chunks count as one word; taking marks off one by one would take time quadratic in the length."""
SUFFIX_WINDOW, DOTS_WINDOW = 4, 64
"""Where a suffix is looked for, at the end; only a row of dots may be longer than four characters."""


def split_chunk(chunk: str) -> tuple[str, ...]:
    """The words of a chunk without white space. A chunk of plain letters is one word, unless it is an exception."""
    exceptions = _exceptions()
    if chunk in exceptions:
        return exceptions[chunk]
    if (chunk.isascii() and (chunk.isalpha() or chunk.isdecimal())) or len(chunk) > MAX_CHUNK:
        return (chunk,)
    before: list[str] = []
    after: list[str] = []
    rest = _strip_affixes(chunk, before, after)
    if rest in exceptions:
        middle: list[str] = list(exceptions[rest])
    elif not rest:
        middle = []
    elif rest.isalnum() or ("." in rest and (_URL_WITH_USER if "@" in rest else _URL).fullmatch(rest)):
        middle = [rest]
    else:
        middle = _cut_infixes(rest)
    return _join_exceptions([*before, *middle, *reversed(after)])


def _strip_affixes(chunk: str, before: list[str], after: list[str]) -> str:
    """Take prefixes and suffixes off until nothing changes or an exception is left."""
    exceptions, size = _exceptions(), -1
    while chunk and len(chunk) != size and chunk not in exceptions:
        size = len(chunk)
        start = _prefix_end(chunk)
        if start and chunk[start:] in exceptions:
            before.append(chunk[:start])
            return chunk[start:]
        end = _suffix_start(chunk, start)
        if end < size and chunk[:end] in exceptions:
            after.append(chunk[end:])
            return chunk[:end]
        if start:
            before.append(chunk[:start])
        if start <= end < size:
            after.append(chunk[end:])
        chunk = chunk[start:end]
    return chunk


def _prefix_end(chunk: str) -> int:
    """Where the prefix ends, 0 if there is none. Most chunks are decided by their first character."""
    if chunk[0] in _SINGLE:
        return 1
    if chunk[0] in _LETTERS and "$" not in chunk:  # all prefixes with letters are currencies
        return 0
    prefix = _PREFIX.match(chunk)
    return prefix.end() if prefix else 0


def _suffix_start(chunk: str, start: int) -> int:
    """Where the suffix begins, from `start` on; the length if there is none. Most are decided by the last characters."""
    size = len(chunk)
    if start < size and (chunk[-1] in _SINGLE or (chunk[-1] == "." and chunk[-2:-1] in _LOWER_LETTERS)):
        return size - 1
    if _LETTERS.issuperset(chunk[-5:]):  # suffixes with letters follow a digit or an apostrophe
        return size
    window = DOTS_WINDOW if chunk.endswith("..") else SUFFIX_WINDOW
    suffix = _SUFFIX.search(chunk, max(start, size - window))
    return suffix.start() if suffix else size


def _cut_infixes(chunk: str) -> list[str]:
    """Cut at marks within a word; a mark at the very beginning does not cut."""
    words, offset = [], 0
    for mark in _INFIX.finditer(chunk):
        if offset == 0 and mark.start() == 0:
            continue
        if chunk[offset : mark.start()]:
            words.append(chunk[offset : mark.start()])
        words.append(mark.group())
        offset = mark.end()
    return [*words, chunk[offset:]] if chunk[offset:] else words


def _join_exceptions(words: list[str]) -> tuple[str, ...]:
    """Put neighbours together again that form an exception, such as the emoticon at the end of "def f(x):"."""
    if _beginnings().isdisjoint(words[:-1]):
        return tuple(words)
    exceptions, joined, i = _exceptions(), list[str](), 0
    while i < len(words):
        for j in range(min(len(words), i + 5), i + 1, -1):
            if (whole := "".join(words[i:j])) in exceptions:
                joined += exceptions[whole]
                i = j
                break
        else:
            joined.append(words[i])
            i += 1
    return tuple(joined)


@functools.cache
def _beginnings() -> frozenset[str]:
    """What an exception may begin with."""
    return frozenset(word[:end] for word in _exceptions() for end in range(1, len(word)))


@functools.cache
def _exceptions() -> dict[str, tuple[str, ...]]:
    """Chunks that are one word whatever their marks say, and contractions with their parts."""
    table: dict[str, tuple[str, ...]] = {word: (word,) for word in _WHOLE}
    table |= {f"{letter}.": (f"{letter}.",) for letter in "abcdefghijklmnopqrstuvwxyz\u00e4\u00f6\u00fc"}
    table |= {form.replace("|", ""): tuple(form.split("|")) for form in _SPLIT if "|" in form}
    pronouns = {
        "i": "m ma|a ll ll|ve d d|ve ve", "you": "ll ll|ve d d|ve ve re", "he": "ll ll|ve d d|ve s", "she": "ll ll|ve d d|ve s",
        "it": "ll ll|ve d d|ve s", "we": "ll ll|ve d d|ve ve re", "they": "ll ll|ve d d|ve ve re",
    }  # fmt: skip
    asking = "who what when where why how there".split()
    pronouns |= {word: "s ll ll|ve re ve d d|ve" for word in asking}
    pronouns |= {
        "that": "s ll ll|ve d d|ve",
        "this": "s ll ll|ve d d|ve",
        "these": "ll ll|ve re ve d d|ve",
        "those": "ll ll|ve re ve d d|ve",
    }
    pronouns |= {word: "ve" for word in "could might must should would".split()}
    for word, endings in pronouns.items():
        for first, ending in itertools.product((word, word.title()), endings.split()):
            parts = ["m", "a"] if ending == "ma|a" else ending.split("|")
            apostrophes = ["'m", "a"] if ending == "ma|a" else [f"'{part}" for part in parts]
            table["".join([first, *parts])] = (first, *parts)
            table["".join([first, *apostrophes])] = (first, *apostrophes)
    with_have = "ca could do does did had may might must need ought sha should wo would".split()
    for word in [*with_have, *"ai are is was were have has dare".split()]:
        for first, negation in itertools.product((word, word.title()), ("n't", "nt")):
            table[first + negation] = (first, negation)
            if word in with_have:
                have = negation.replace("nt", "ve").replace("n't", "'ve")
                table[first + negation + have] = (first, negation, have)
    for hour, period in itertools.product(range(1, 13), ("a.m.", "am", "p.m.", "pm")):
        table[f"{hour}{period}"] = (str(hour), period)
    for word in "Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore".split():
        table.pop(word, None)
    return table | {
        word.replace("'", "\u2019"): tuple(part.replace("'", "\u2019") for part in parts)
        for word, parts in table.items()
    }


@functools.cache
def ascii_tables() -> tuple[np.ndarray, ...]:
    """The rules as `compiled_word_splitting.py` takes them: bits of each character, then trees of strings.

    Returns:
        Bits; tree of exceptions; where the words of exception i end (i, 3), 0 for none; trees of what is a suffix after
        a digit, and of currencies of several letters; how far back a suffix is looked for, without and with dots.
    """
    from cs336_data.rules import compiled_word_splitting as kinds

    letters = [chr(code) for code in range(128)]
    tests = {
        kinds.PREFIX: _PREFIX.fullmatch, kinds.SUFFIX: _SUFFIX.fullmatch,
        kinds.BEFORE_DOT: lambda c: _SUFFIX.search(c + ".", 1), kinds.LOWER: str.islower, kinds.UPPER: str.isupper,
        kinds.DIGIT: str.isdigit, kinds.QUOTE: regex.compile(f"[{_QUOTES}]").match,
        kinds.SCHEME: regex.compile(r"[\w+\-.]", regex.ASCII).match,
    }  # fmt: skip
    classes = np.array([sum(bit for bit, test in tests.items() if test(c)) for c in letters], np.uint8)
    exceptions = {word: parts for word, parts in _exceptions().items() if word.isascii()}
    cuts = np.zeros((len(exceptions), 3), np.int64)
    for row, parts in zip(cuts, exceptions.values(), strict=True):
        row[: len(parts)] = np.cumsum([len(part) for part in parts])
    units = [unit for unit in _UNITS.split("|") if unit.isascii()]
    trees = _tree([*exceptions]), _tree([*units, *_DOLLARS, "$", "+"]), _tree(_DOLLARS)
    windows = np.array([SUFFIX_WINDOW, DOTS_WINDOW])
    return classes, trees[0], cuts, trees[1], trees[2], windows


def _tree(strings: Sequence[str]) -> np.ndarray:
    """A row per node: the node to which a character leads, or 0; last the number of the string that ends here, plus 1."""
    from cs336_data.rules.compiled_word_splitting import NUMBER

    nodes = [[0] * (NUMBER + 1)]
    for number, string_ in enumerate(strings, 1):
        node = 0
        for code in string_.encode():
            if not nodes[node][code]:
                nodes[node][code] = len(nodes)
                nodes.append([0] * (NUMBER + 1))
            node = nodes[node][code]
        nodes[node][NUMBER] = number
    return np.array(nodes, np.int16)
