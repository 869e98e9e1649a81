"""Two tokenizers side by side on some texts: the table of nanochat's tokenizer evaluation.

    ratio = bytes / tokens                                          (of the UTF-8 text; higher compresses more)
    relative difference = 100 (baseline - ours) / baseline          (of tokens, in %; positive: ours are fewer)

Tokens are those of ordinary text: no special token is recognised and none is added. Texts are decoded again and must
come back unchanged, else a tokenizer that drops text would look good.

Is a higher ratio better? It means longer context and fewer steps for the same text, but also rarer tokens whose
embeddings see little training, and more parameters in embedding and head: see `token_quality.py`.

Left out: quality of a model trained on the tokens. Read next: `token_quality.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import regex

from cs336_basics.tokenization.tokenizer import Tokenizer

_GREEN, _RED, _RESET = "\033[92m", "\033[91m", "\033[0m"
_WIDTH = 95
# A sentence (also Chinese and Hindi) or a line, with the white space after it.
_UNITS = regex.compile(r"[^\n.!?\u3002\u0964]*(?:\n|[.!?\u3002\u0964]+)\s*|[^\n.!?\u3002\u0964]+")


@dataclass(frozen=True)
class TextCount:
    """Size of one text in bytes and in a tokenizer's tokens."""

    name: str
    num_bytes: int
    num_tokens: int

    def __post_init__(self) -> None:
        if self.num_bytes < 1 or self.num_tokens < 1:
            raise ValueError(
                f"text {self.name!r} has {self.num_bytes} bytes and {self.num_tokens} tokens; it must not be empty"
            )

    @property
    def ratio(self) -> float:
        """Bytes per token."""
        return self.num_bytes / self.num_tokens


def without_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer for ordinary text: the text of a special token is cut like any other."""
    special_ids = {tokenizer.special_id(token) for token in tokenizer.special_tokens}
    vocab = {token_id: token for token_id, token in tokenizer.vocab.items() if token_id not in special_ids}
    return Tokenizer(vocab, tokenizer.merges, pattern=tokenizer.pattern)


def count_text(tokenizer: Tokenizer, name: str, text: str) -> TextCount:
    """Measure a text.

    Raises:
        ValueError: an empty text, or one that does not come back unchanged.
    """
    ids = tokenizer.encode(text)
    if tokenizer.decode(ids) != text:
        raise ValueError(
            f"text {name!r} does not come back from its tokens unchanged; the pattern {tokenizer.pattern!r} drops text"
        )
    return TextCount(name, len(text.encode("utf-8")), len(ids))


def count_units(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and tokens of each sentence or line, for bootstrap intervals.

    The text is encoded as a whole; a token belongs to the unit in which it begins. So the sums are those of
    `count_text`, and units are the same for every tokenizer; a short one may have no token.

    Returns:
        Two int64 arrays of equal length.
    """
    unit_bytes = np.array([len(unit.encode("utf-8")) for unit in _UNITS.findall(text)], dtype=np.int64)
    ids = tokenizer.encode(text)
    token_bytes = np.array([len(tokenizer.vocab[token_id]) for token_id in ids], dtype=np.int64)
    starts = np.cumsum(token_bytes) - token_bytes
    unit_of_token = np.searchsorted(np.cumsum(unit_bytes), starts, side="right")
    return unit_bytes, np.bincount(unit_of_token, minlength=len(unit_bytes))


def relative_difference(baseline: TextCount, ours: TextCount) -> float:
    """Tokens saved against the baseline, in percent; negative where ours needs more."""
    return 100 * (baseline.num_tokens - ours.num_tokens) / baseline.num_tokens


def format_comparison(
    baseline_name: str, baseline: Sequence[TextCount], ours: Sequence[TextCount], *, color: bool
) -> str:
    """The table as text, in the layout of nanochat's scripts/tok_eval.py.

    Args:
        baseline_name: the other tokenizer's name.
        baseline: its counts.
        ours: ours of the same texts in the same order.
        color: paint the better side green and the other red with ANSI codes.

    Raises:
        ValueError: counts of different texts.
    """
    lines = [
        f"Comparison with {baseline_name}:",
        "=" * _WIDTH,
        f"{'Text Type':<10} {'Bytes':<8} {baseline_name:<15} {'Ours':<15} {'Relative':<12} {'Better':<10}",
        f"{'':10} {'':8} {'Tokens':<7} {'Ratio':<7} {'Tokens':<7} {'Ratio':<7} {'Diff %':<12}",
        "-" * _WIDTH,
    ]
    for theirs, own in zip(baseline, ours, strict=True):
        if (theirs.name, theirs.num_bytes) != (own.name, own.num_bytes):
            raise ValueError(f"counts of different texts cannot be compared: {theirs} and {own}")
        lines.append(_row(theirs, own, baseline_name, color))
    return "\n".join(lines)


def better_side(baseline: TextCount, ours: TextCount, baseline_name: str) -> str:
    """Who has the higher ratio: the baseline's name, "Ours" or "Tie"."""
    if ours.ratio == baseline.ratio:
        return "Tie"
    return "Ours" if ours.ratio > baseline.ratio else baseline_name


def _row(theirs: TextCount, own: TextCount, baseline_name: str, color: bool) -> str:
    """One text."""
    better = better_side(theirs, own, baseline_name)
    good, bad, plain = (_GREEN, _RED, _RESET) if color else ("", "", "")
    if better == "Tie":
        their_paint = own_paint = ""
    else:
        their_paint, own_paint = (bad, good) if better == "Ours" else (good, bad)
    return (
        f"{theirs.name:<10} {theirs.num_bytes:<8} "
        f"{their_paint}{theirs.num_tokens:<7}{plain} {their_paint}{theirs.ratio:<7.2f}{plain} "
        f"{own_paint}{own.num_tokens:<7}{plain} {own_paint}{own.ratio:<7.2f}{plain} "
        f"{own_paint}{relative_difference(theirs, own):+7.1f}%{plain}     {better:<10}"
    )
