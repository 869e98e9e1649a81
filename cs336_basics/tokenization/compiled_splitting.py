r"""Pre-tokenization on UTF-8 bytes, compiled: the three patterns in use as hand-written scanners.

A regular expression engine tries the alternatives of a pattern one after the other. Written by hand, one look at the
class of the next character picks the only alternative that can match:

    GPT-2      '(?:[sdmt]|ll|ve|re) | ?letters | ?numbers | ?signs | spaces (all but the last before a word)
    nanochat   '(?i:...) | one sign or space and letters | 1-2 numbers | ?signs and line ends | spaces to the last
               line end | spaces (all but the last before a word)
    GPT-4      nanochat with 1-3 numbers, and spaces at the end of the text whole

The bytes must be valid UTF-8 (`is_utf8` tells). `end` is the end of the text or the beginning of a special token:
nothing behind it is looked at. Checked against the `regex` module on random text.

Complexity: linear, a few nanoseconds a byte. Source: GPT-2 (Radford et al. 2019); tiktoken's cl100k_base; nanochat.
Left out: other patterns, which `regex` handles. Read next: `compiled_table.py`.
"""

from __future__ import annotations

import numpy as np

from cs336_basics.tokenization.compiled_kernel import kernel
from cs336_basics.tokenization.pretokenization import GPT2_PATTERN, GPT4_PATTERN, NANOCHAT_PATTERN
from cs336_basics.tokenization.unicode_classes import LETTER, NEWLINE, NUMBER, OTHER, SPACE

GPT2, NANOCHAT, GPT4 = 0, 2, 3  # the last two are also the digits that make a word
PATTERN_CODES = {GPT2_PATTERN: GPT2, NANOCHAT_PATTERN: NANOCHAT, GPT4_PATTERN: GPT4}

_BLANK, _APOSTROPHE, _LF, _CR = ord(" "), ord("'"), ord("\n"), ord("\r")
_S, _D, _M, _T, _L, _V, _E, _R = (ord(letter) for letter in "sdmtlver")


@kernel
def split_batch(text, position, end, classes, pattern, starts):
    """Write where words start, beginning at `position`, until `starts` is full or the text ends.

    Returns:
        The number of words n; the end of the last of them stands in starts[n].
    """
    count, limit = 0, len(starts) - 1
    if pattern == GPT2:
        while count < limit and position < end:
            starts[count] = position
            position = gpt2_word_end(text, position, end, classes)
            count += 1
    else:
        while count < limit and position < end:
            starts[count] = position
            position = gpt4_word_end(text, position, end, classes, pattern)
            count += 1
    starts[count] = position
    return count


@kernel
def gpt2_word_end(text, start, end, classes):
    """The end of the GPT-2 pre-token that starts at `start`."""
    first = text[start]
    if first == _APOSTROPHE:
        length = _contraction(text, start + 1, end, 0)
        if length > 0:
            return start + 1 + length
    kind, after = _class_at(text, start, classes)
    if first == _BLANK and after < end:
        next_kind, next_after = _class_at(text, after, classes)
        if next_kind < SPACE:
            return _run_end(text, next_after, end, classes, next_kind)
    if kind >= SPACE:
        return _spaces_end(text, start, end, classes, GPT2)
    return _run_end(text, after, end, classes, kind)


@kernel
def gpt4_word_end(text, start, end, classes, pattern):
    """The end of the pre-token that starts at `start`; `pattern` is GPT4 or NANOCHAT."""
    first = text[start]
    if first == _APOSTROPHE:
        length = _contraction(text, start + 1, end, 32)
        if length > 0:
            return start + 1 + length
    kind, after = _class_at(text, start, classes)
    if kind == LETTER:
        return _run_end(text, after, end, classes, LETTER)
    if kind == NUMBER:
        return _digits_end(text, after, end, classes, pattern - 1)
    if after < end:
        next_kind, next_after = _class_at(text, after, classes)
        if next_kind == LETTER and kind != NEWLINE:
            return _run_end(text, next_after, end, classes, LETTER)
        if next_kind == OTHER and first == _BLANK:
            return _signs_end(text, next_after, end, classes)
    if kind == OTHER:
        return _signs_end(text, after, end, classes)
    return _spaces_end(text, start, end, classes, pattern)


@kernel
def _class_at(text, position, classes):
    """The class of the character at `position`, and where the next character starts."""
    lead = np.int64(text[position])
    if lead < 0x80:
        return classes[lead], position + 1
    second = np.int64(text[position + 1]) & 0x3F
    if lead < 0xE0:
        return classes[(lead & 0x1F) << 6 | second], position + 2
    third = np.int64(text[position + 2]) & 0x3F
    if lead < 0xF0:
        return classes[(lead & 0x0F) << 12 | second << 6 | third], position + 3
    fourth = np.int64(text[position + 3]) & 0x3F
    return classes[(lead & 0x07) << 18 | second << 12 | third << 6 | fourth], position + 4


@kernel
def _run_end(text, position, end, classes, kind):
    """The end of a run of characters of one class."""
    while position < end:
        here, after = _class_at(text, position, classes)
        if here != kind:
            break
        position = after
    return position


@kernel
def _digits_end(text, position, end, classes, most):
    """The end of at most `most` further numbers."""
    while position < end and most > 0:
        here, after = _class_at(text, position, classes)
        if here != NUMBER:
            break
        position = after
        most -= 1
    return position


@kernel
def _signs_end(text, position, end, classes):
    """The end of a run of signs with the line ends behind it."""
    position = _run_end(text, position, end, classes, OTHER)
    return _run_end(text, position, end, classes, NEWLINE)


@kernel
def _spaces_end(text, start, end, classes, pattern):
    """The end of white space: its last line end (not for GPT-2), else all of it but the space that leads the next word.

    At the end of the text no word follows, so all of it; GPT-4's pattern looks at that before it looks at line ends.
    """
    position, last, newline_end = start, start, start
    while position < end:
        kind, after = _class_at(text, position, classes)
        if kind < SPACE:
            break
        last, position = position, after
        if kind == NEWLINE:
            newline_end = after
    if pattern == GPT4 and position == end:
        return end
    if pattern != GPT2 and newline_end > start:
        return newline_end
    return position if position == end or last == start else last


@kernel
def _contraction(text, position, end, fold):
    """The length of s, d, m, t, ll, ve or re at `position`, else 0; fold=32 takes capitals for small letters."""
    if position >= end:
        return 0
    one = text[position]
    two = text[position + 1] if position + 1 < end else np.uint8(0)
    if fold and one == 0xC5 and two == 0xBF:  # U+017F, the long s, is an s when case is ignored
        return 2
    one, two = one | fold, two | fold
    if one == _S or one == _D or one == _M or one == _T:
        return 1
    if (one == _L and two == _L) or ((one == _V or one == _R) and two == _E):
        return 2
    return 0


@kernel
def is_utf8(text, start, end):
    """Whether bytes `start` to `end` are whole characters of valid UTF-8 (Unicode 15, table 3-7)."""
    position = start
    while position < end:
        if position + 64 <= end:  # skip ASCII by blocks; the compiler makes vector code of the inner loop
            high = np.uint8(0)
            for index in range(64):
                high |= text[position + index]
            if high < 0x80:
                position += 64
                continue
        stop = min(end, position + 64)
        while position < stop:
            length = _character_length(text, position, end)
            if length == 0:
                return False
            position += length
    return True


@kernel
def _character_length(text, position, end):
    """The length in bytes of the character at `position`, 0 if it is not valid."""
    lead = text[position]
    if lead < 0x80:
        return 1
    length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead < 0xC2 or lead > 0xF4 or position + length > end:
        return 0
    for index in range(1, length):
        if text[position + index] & 0xC0 != 0x80:
            return 0
    second = text[position + 1]
    overlong = (lead == 0xE0 and second < 0xA0) or (lead == 0xF0 and second < 0x90)
    surrogate = lead == 0xED and second >= 0xA0
    beyond = lead == 0xF4 and second >= 0x90
    return 0 if overlong or surrogate or beyond else length
