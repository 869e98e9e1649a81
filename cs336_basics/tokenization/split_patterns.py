r"""Pre-token patterns by name, and how the regular-expression engines of other libraries read them.

Three engines cut text: the `regex` package (here), fancy-regex (tiktoken) and Oniguruma (tokenizers). Letters, digits,
white space, greedy and possessive `?+ *+ ++` mean the same in all. These do not:

    x{1,3}+    possessive in `regex` and fancy-regex, but one or more times x{1,3} in Oniguruma
    ^ $        begin and end of the text in fancy-regex, of any line in Oniguruma; in `regex` $ also matches before a
               final line end

tiktoken writes its patterns with both, for speed, in forms that match the same text as the plain ones; they are
recognised here. What a pattern does not match tiktoken and this library drop, while tokenizers keeps it as a piece.

Each engine also has its own version of Unicode: a character newer than one of them is a letter here and none there, and
may be cut differently.

Left out: proof that two patterns are equal (a test compares them on texts). Read next: `pretokenization.py`.
"""

from __future__ import annotations

import re

from cs336_basics.tokenization.pretokenization import GPT2_PATTERN, GPT4_PATTERN, NANOCHAT_PATTERN

PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN, "nanochat": NANOCHAT_PATTERN}

# The forms in which tiktoken 0.12 and later writes r50k_base and cl100k_base, and GPT-2's own program its pattern.
_SAME_AS = {
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": GPT2_PATTERN,
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": GPT2_PATTERN,
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s": GPT4_PATTERN,
}


def plain_pattern(pattern: str) -> str:
    """The pattern as this library writes it, where it is one of the known forms; otherwise itself.

    Raises:
        ValueError: `pattern` uses ^ or $, which this library and its origin read differently.
    """
    plain = _SAME_AS.get(pattern, pattern)
    if _anchors(plain):
        raise ValueError(f"pattern {pattern!r} uses ^ or $, which engines read differently; write it without them")
    return plain


def pattern_by_name(name_or_pattern: str) -> str:
    """The pattern called gpt2, gpt4 or nanochat; any other string is a pattern itself."""
    return PATTERNS.get(name_or_pattern, name_or_pattern)


def check_for_oniguruma(pattern: str) -> None:
    """Raise a ValueError when Oniguruma would read the pattern differently."""
    if _anchors(pattern) or re.search(r"\{\d*,?\d*\}\+", pattern):
        raise ValueError(
            f"pattern {pattern!r} uses ^, $ or a possessive {{n,m}}+, which Oniguruma (the engine of tokenizers) reads "
            "differently; write it without them"
        )


def keep_unmatched(pattern: str) -> str:
    """A pattern that also matches the stretches between the matches of `pattern`, as tokenizers keeps them.

    >>> import regex
    >>> regex.findall(keep_unmatched("[a-z]+"), "ab12cd")
    ['ab', '12', 'cd']
    """
    return pattern if pattern in PATTERNS.values() else rf"{pattern}|(?s:(?:(?!{pattern}).)+)"


def _anchors(pattern: str) -> bool:
    """Whether ^ or $ stands in the pattern as an anchor: neither escaped nor in a class."""
    bare = re.sub(r"\\.|\[\^?(?:\\.|[^\]\\])+\]", "", pattern)
    return "^" in bare or "$" in bare
