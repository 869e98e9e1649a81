"""Entrypoint of the tokenizer board: the readable encoder, the reference that entries are timed against.

    make_tokenizer(vocab, merges, special_tokens) -> object with encode(text) -> list of ids

What is built here is not timed; each text is, and none comes twice. The pre-token pattern is GPT-2's.
"""

from __future__ import annotations

from cs336_basics.tokenization.tokenizer import Tokenizer


def make_tokenizer(vocab: dict[int, bytes], merges: list[tuple[bytes, bytes]], special_tokens: list[str]) -> Tokenizer:
    """The reference tokenizer."""
    return Tokenizer(vocab, merges, special_tokens)
