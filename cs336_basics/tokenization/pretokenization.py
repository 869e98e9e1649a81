r"""Pre-tokenization: cutting text into the pieces inside which BPE may merge.

BPE never merges across a pre-token, so that "dog", "dog." and " dog!" share one word. GPT-2 cuts with a regular
expression: contractions, then letters, digits or other signs, each with at most one space before them, then runs of
white space (the last space of a run is left to the next word). Special tokens such as <|endoftext|> are hard
boundaries: the text between two of them is cut on its own.

Text that is too large for memory comes in pieces. A piece may end in the middle of a word, of a run of spaces, or of
a special token, so it cannot be cut by itself. `stream_segments` passes text on only up to a *safe cut*, a place
where the whole text has a boundary whatever follows. For the GPT-2 pattern these are safe:

    non-space | space              no pre-token holds a space after a non-space; the look-ahead `\s+(?!\S)` is decided
                                   before the cut
    letter | neither letter nor space    letters only ever match as a greedy run that ends here (also in 's, 'll ...)
    digit | neither digit nor space      likewise

In the GPT-4 patterns a sign keeps the line ends behind it, so a cut must follow a letter (a non-letter comes) or a
number (a non-number comes).

Other patterns give no such promise; their text is held back up to the next special token or the end.

Source: GPT-2 (Radford et al. 2019), section 2.2; handout problem `train_bpe`. Left out: normalisation (Unicode NFC,
lower case, line ends): what comes in is what is encoded. Read next: `file_chunks.py`, then `bpe.py`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Sequence

import regex

GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# nanochat: contractions in any case, a sign or space joined to the letters behind it, digits by twos.
NANOCHAT_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"""
)
# cl100k_base: digits by threes, and white space at the end of the text whole.
GPT4_PATTERN = NANOCHAT_PATTERN.replace("{1,2}", "{1,3}").replace(r"|\s*[\r\n]", r"|\s++(?!\S)|\s*[\r\n]")
# Those that `compiled_splitting.py` knows.
COMPILED_PATTERNS = (GPT2_PATTERN, GPT4_PATTERN, NANOCHAT_PATTERN)

# Zero-width and searched backwards (?r), so that the first hit is the last safe cut.
_AFTER_LETTERS_OR_DIGITS = r"(?r)(?<=\p{L})(?=\P{L})|(?<=\p{N})(?=\P{N})"
SAFE_CUTS = {
    GPT2_PATTERN: r"(?r)(?<=\S)(?=\s)|(?<=\p{L})(?=[^\s\p{L}])|(?<=\p{N})(?=[^\s\p{N}])",
    GPT4_PATTERN: _AFTER_LETTERS_OR_DIGITS,
    NANOCHAT_PATTERN: _AFTER_LETTERS_OR_DIGITS,
}

_WINDOW_CHARS = 4096


def check_special_tokens(special_tokens: Iterable[str]) -> list[str]:
    """Return the special tokens as a list, or say what is wrong with them.

    Raises:
        TypeError: a single string, or an item that is not a string.
        ValueError: an empty or repeated token.
    """
    if isinstance(special_tokens, str) or not isinstance(special_tokens, Iterable):
        raise TypeError(
            f"special_tokens must be a list of str; got {special_tokens!r}; write [{special_tokens!r}] or []"
        )
    tokens = list(special_tokens)
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(f"special_tokens must be a list of str; it holds {token!r} of type {type(token).__name__}")
        if not token:
            raise ValueError("special_tokens holds the empty string, which would match everywhere; remove it")
    repeated = sorted({token for token in tokens if tokens.count(token) > 1})
    if repeated:
        raise ValueError(f"special_tokens holds duplicate tokens {repeated}; name each token once")
    return tokens


def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """Compile a pre-token pattern.

    Raises:
        ValueError: not a regular expression, or one with capturing groups (they would be returned in place of the
            match).
    """
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"pattern {pattern!r} is not a valid regular expression: {error}") from error
    if compiled.groups:
        raise ValueError(f"pattern {pattern!r} has capturing groups; write (?:...) in place of (...)")
    return compiled


def compile_special_tokens(special_tokens: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern with one group that finds any special token, the longest first; None when there are no special
    tokens."""
    if not special_tokens:
        return None
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return re.compile("(" + "|".join(re.escape(token) for token in longest_first) + ")")


def split_on_special_tokens(text: str, special_tokens: Sequence[str]) -> list[str]:
    """The stretches of ordinary text between special tokens, the tokens themselves dropped.

    Args:
        text: any text.
        special_tokens: hard boundaries; where two match at one place, the longer one wins. May be empty.

    Returns:
        One string more than there are special tokens in `text`; some may be empty.

    >>> split_on_special_tokens("one<|endoftext|>two", ["<|endoftext|>"])
    ['one', 'two']
    """
    specials = compile_special_tokens(special_tokens)
    return [text] if specials is None else specials.split(text)[::2]


def pretokenize(text: str, *, pattern: str = GPT2_PATTERN) -> Iterator[str]:
    """Yield the pre-tokens of ordinary text in order; text that `pattern` does not match is dropped (GPT-2 matches
    all).

    >>> list(pretokenize("I'll go  home"))
    ['I', "'ll", ' go', ' ', ' home']
    """
    return (match.group() for match in compile_pattern(pattern).finditer(text))


def stream_segments(
    pieces: Iterable[str], special_tokens: Sequence[str], *, pattern: str = GPT2_PATTERN
) -> Iterator[tuple[str, bool]]:
    """Split a text that comes in pieces into segments that can be pre-tokenized one by one.

    Pre-tokenizing each ordinary segment gives the same as splitting the whole text at its special tokens and
    pre-tokenizing what lies between, however the text was cut into pieces.

    Args:
        pieces: the text, in any pieces; read no further than needed.
        special_tokens: hard boundaries, longest first where they overlap.
        pattern: the pre-token pattern. For a pattern not in `SAFE_CUTS` all text up to a special token is held in
            memory.

    Yields:
        `(segment, False)` for ordinary text and `(token, True)` for a special token.

    Complexity: linear time; memory for the longest pre-token plus a window of a few kilobytes.
    """
    specials = compile_special_tokens(special_tokens)
    beginnings = tuple({token[:length] for token in special_tokens for length in range(1, len(token))})
    safe_cut = regex.compile(SAFE_CUTS[pattern]) if pattern in SAFE_CUTS else None
    pending, waiting, waiting_chars = "", [], 0
    for piece in _windows(pieces):
        waiting.append(piece)
        waiting_chars += len(piece)
        if waiting_chars < len(pending):  # look again only when the text has doubled: linear time for endless words
            continue
        text = pending + "".join(waiting)
        pending = yield from _settled_segments(text, specials, beginnings, safe_cut)
        waiting, waiting_chars = [], 0
    yield from _all_segments(pending + "".join(waiting), specials)


def _windows(pieces: Iterable[str]) -> Iterator[str]:
    """The same text with long pieces cut into windows."""
    for piece in pieces:
        if not isinstance(piece, str):
            raise TypeError(f"the text must come as pieces of str; got {piece!r} of type {type(piece).__name__}")
        for start in range(0, len(piece), _WINDOW_CHARS):
            yield piece[start : start + _WINDOW_CHARS]


def _settled_segments(
    text: str, specials: re.Pattern[str] | None, beginnings: tuple[str, ...], safe_cut: regex.Pattern[str] | None
) -> Generator[tuple[str, bool], None, str]:
    """Yield the segments of `text` that no further text can change; return the rest."""
    unsure_starts = []
    if text.endswith(beginnings):  # one fast call settles the common case
        unsure_starts = sorted(len(text) - len(beginning) for beginning in beginnings if text.endswith(beginning))
    position = 0
    while True:
        settled_end = next((start for start in unsure_starts if start >= position), len(text))
        match = specials.search(text, position) if specials else None
        if match is None or match.start() >= settled_end:
            break
        yield text[position : match.start()], False
        yield match.group(), True
        position = match.end()
    cut = safe_cut.search(text, position, settled_end) if safe_cut else None
    if cut is None:
        return text[position:]
    yield text[position : cut.start()], False
    return text[cut.start() :]


def _all_segments(text: str, specials: re.Pattern[str] | None) -> Iterator[tuple[str, bool]]:
    """Every segment of a text that is known to be complete."""
    for index, segment in enumerate(specials.split(text) if specials else [text]):
        if segment:
            yield segment, index % 2 == 1
