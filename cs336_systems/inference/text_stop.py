"""Text as its tokens arrive: characters whose bytes are complete, and stop texts across token borders.

A token is a run of bytes; it may end inside a character, and a stop text may begin in one token and end in a later
one. So a stream gives out only what can no longer change: whole characters, and none that might be the beginning of a
stop text.

Read next: `engine.py`.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class ByteVocabulary(Protocol):
    """The part of a Tokenizer that turns tokens into text one by one."""

    @property
    def vocab(self) -> Mapping[int, bytes]:
        """Bytes of each id."""
        ...


class TextStream:
    """The text of one sample, fed token by token.

    Args:
        vocab: bytes of each token; an id without any adds nothing.
        stop: texts that end the sample.
        include_stop: whether the stop text belongs to the text.
    """

    def __init__(self, vocab: Mapping[int, bytes], stop: tuple[str, ...] = (), *, include_stop: bool = False):
        self.vocab, self.stop, self.include_stop = vocab, stop, include_stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False

    def feed(self, token: int) -> str:
        """Take a token; return the text that is now certain. `stopped` tells whether a stop text is complete."""
        return self._release(self._decoder.decode(self.vocab.get(token, b"")))

    def finish(self) -> str:
        """The rest: what was held back, bytes of an incomplete character as U+FFFD."""
        if self.stopped:
            return ""
        rest = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = rest + self._held, ""
        return rest

    def _release(self, new: str) -> str:
        text = self._held + new
        found = [(at, stop) for stop in self.stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            at, stop = min(found, key=lambda pair: (pair[0] + len(pair[1]), pair[0]))  # the one completed first
            return text[: at + len(stop)] if self.include_stop else text[:at]
        kept = max((_overlap(text, stop) for stop in self.stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` without completing it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
