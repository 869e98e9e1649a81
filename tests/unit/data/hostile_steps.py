"""Filters that misbehave on documents with a certain word, as native parsers do on hostile pages."""

from __future__ import annotations

import os

from cs336_data.document import Document


def misbehave(document: Document) -> str | None:
    """Crash, loop, take all memory or raise, as the first word says."""
    word = document.text.split(maxsplit=1)[0]
    if word == "crash":
        os.abort()
    if word == "loop":
        while True:
            pass
    if word == "hoard":
        bytearray(40_000_000_000)
    if word == "raise":
        raise ValueError("no")
    return "green" if word == "green" else None


def needs_a_package(document: Document) -> str | None:
    """As a filter whose package is missing."""
    raise ImportError("greenlib is not installed; run: pip install greenlib")
