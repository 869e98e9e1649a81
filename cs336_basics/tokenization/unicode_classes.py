r"""The character classes of pre-token patterns as one table: letter, number, white space, line end, other.

A regular expression asks of each character whether it is `\p{L}`, `\p{N}` or `\s`. Compiled code answers by one load
from a table with a byte for each of the 1,114,112 code points. The table is made from the installed `regex` module at
first use (some hundredths of a second), so that both always speak of the same version of Unicode.

Source: the patterns of `pretokenization.py`. Left out: everything that the patterns do not ask. Read next:
`compiled_splitting.py`.
"""

from __future__ import annotations

import functools
import sys

import numpy as np
import numpy.typing as npt
import regex

# White space is every class from SPACE on; CR and LF are told apart, as the GPT-4 pattern needs it.
OTHER, LETTER, NUMBER, SPACE, NEWLINE = range(5)


@functools.cache
def unicode_classes() -> npt.NDArray[np.uint8]:
    """Class of every code point.

    Returns:
        Read-only uint8 array of shape (1114112,); surrogates, which UTF-8 cannot hold, are OTHER.

    >>> [int(unicode_classes()[ord(character)]) for character in "a7 .\\n"]
    [1, 2, 3, 0, 4]
    """
    points = np.arange(sys.maxunicode + 1, dtype="<u4")
    points[0xD800:0xE000] = ord("0")  # surrogates, which a text cannot hold
    everything = points.tobytes().decode("utf-32-le")
    table = np.full(len(everything), OTHER, dtype=np.uint8)
    for kind, pattern in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (SPACE, r"\s+"), (NEWLINE, r"[\r\n]+")):
        for match in regex.finditer(pattern, everything):
            table[match.start() : match.end()] = kind
    table[0xD800:0xE000] = OTHER
    table.flags.writeable = False
    return table
