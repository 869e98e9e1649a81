"""The documents of a token file, each with the separator moved to its front.

Our files end every document with <|endoftext|>; packing in rows wants every document to begin with a BOS token. They
are the same token seen from two sides, so the one that ends a document serves as the BOS of the next:

    file        a a a E b b E c E            (E = <|endoftext|>)
    documents   E a a a | E b b | E c        (the last E of the file begins nothing; the first document is given one)

The model still learns where documents end: the E of the document that follows in a row is the target of the last
token before it. An empty document is passed over. Tokens after the last separator are a torn document and are left out,
as `evaluate_documents` does. Read next: `best_fit.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 24


@dataclass(frozen=True)
class DocumentTable:
    """Where documents lie in a token array; `lengths` count the separator in front."""

    tokens: npt.NDArray[Any]
    end_of_text: int
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def piece(self, number: int, length: int) -> npt.NDArray[np.int64]:
        """The first `length` tokens of a document, the separator in front among them."""
        start = self.starts[number]
        return np.concatenate(([self.end_of_text], self.tokens[start : start + length - 1])).astype(np.int64)


def find_documents(tokens: npt.NDArray[Any], end_of_text: int) -> DocumentTable:
    """Find the documents of a token file.

    Args:
        tokens: one-dimensional ids, in memory or memory-mapped (read in blocks).
        end_of_text: id of the separator that ends each document.

    Raises:
        ValueError: no document ends in these tokens, or all are empty.

    Complexity: one pass; 16 bytes per document stay in memory.
    """
    blocks = range(0, len(tokens), BLOCK)
    ends = [np.flatnonzero(np.asarray(tokens[b : b + BLOCK]) == end_of_text) + b for b in blocks]
    stops = np.concatenate(ends).astype(np.int64) if ends else np.empty(0, dtype=np.int64)
    if len(stops) == 0:
        raise ValueError(
            f"no document ends in these {len(tokens)} tokens: the separator, id {end_of_text}, does not occur; encode "
            "a corpus whose documents end with <|endoftext|>, or pack with windows='stream'"
        )
    starts = np.concatenate((np.zeros(1, dtype=np.int64), stops[:-1] + 1))
    full = stops > starts
    if not full.any():
        raise ValueError(f"all {len(stops)} documents are empty: the tokens are separators (id {end_of_text}) only")
    return DocumentTable(tokens, end_of_text, starts[full], (stops - starts + 1)[full])
