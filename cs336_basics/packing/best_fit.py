"""Best-fit packing: rows of whole documents, each row begun by a document, with as little cut off as possible.

A row has capacity T + 1 tokens (T inputs and their targets). From a buffer of documents:

    take the LARGEST that fits into what is left of the row, and again, until the row is full
    if none fits:   cut the SHORTEST to what is left and throw its end away      (remainder="cut")
                    or leave the place empty and ignore it in the loss           (remainder="pad")

Among equals the one that came first goes first. The rule is that of nanochat's base loader (Karpathy 2026), "pad"
that of its chat_sft; there each placement scans the buffer. Here documents stand in one queue per length and
`LengthIndex` names the queue, so a placement costs the same in a buffer of a hundred and of a million.

A document longer than a row loses what exceeds T + 1 whatever one does. With long_documents="wait" it stays in the
buffer until all others are larger still, as in nanochat: such documents pile up until hardly anything else is left to
choose from. With "crop", the default, it is cut to T + 1 as it enters; it then fills a row alone and the buffer keeps
its choice. `benchmarks/bench_packing.py` measures both.

Left out: packing a whole epoch at once (first-fit decreasing), which wastes a little less and cannot stream.
Read next: `stream.py`, `document_mask.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from cs336_basics.packing.documents import find_documents
from cs336_basics.packing.length_index import LengthIndex
from cs336_basics.packing.packer import Row, check_shape, check_state

LongDocuments = Literal["crop", "wait"]
Remainder = Literal["cut", "pad"]
IGNORED = -1
"""Target that no loss may count."""


class BestFitBuffer:
    """Documents by length: one queue per length, and an index of the lengths that are there.

    Args:
        longest: no document may be longer.

    Complexity: `add`, `pop_largest` and `pop_shortest` take the same time whatever the number of documents.
    """

    def __init__(self, longest: int) -> None:
        self.index = LengthIndex(longest)
        self._queues: dict[int, deque[tuple[int, int]]] = {}
        self._arrivals = self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, document: int, length: int) -> None:
        """Put in a document, last in its queue."""
        queue = self._queues.get(length)
        if queue is None:
            queue = self._queues[length] = deque()
        if not queue:
            self.index.add(length)
        queue.append((self._arrivals, document))
        self._arrivals += 1
        self._size += 1

    def pop_largest(self, at_most: int) -> tuple[int, int] | None:
        """Take out (document, length) of the largest of at most `at_most` tokens; None if there is none."""
        length = self.index.largest_at_most(at_most)
        return None if length is None else self._pop(length)

    def pop_shortest(self) -> tuple[int, int]:
        """Take out (document, length) of the shortest.

        Raises:
            IndexError: the buffer is empty.
        """
        length = self.index.smallest()
        if length is None:
            raise IndexError("the buffer is empty; refill it before each placement")
        return self._pop(length)

    def documents(self) -> list[int]:
        """What is inside, in order of arrival."""
        return [document for _, document in sorted(entry for queue in self._queues.values() for entry in queue)]

    def _pop(self, length: int) -> tuple[int, int]:
        queue = self._queues[length]
        _, document = queue.popleft()
        if not queue:
            self.index.discard(length)
        self._size -= 1
        return document, length


def plan_row(
    buffer: BestFitBuffer, refill: Callable[[], None], *, capacity: int, remainder: Remainder = "cut"
) -> list[tuple[int, int]]:
    """Choose the documents of one row.

    Args:
        buffer: where they are taken from.
        refill: called before each placement; leaves at least one document in the buffer.
        capacity: tokens in a row.
        remainder: what to do with a place that no document fits into; an empty row is filled by a cut in any case.

    Returns:
        (document, tokens placed) in the order of the row.
    """
    placements: list[tuple[int, int]] = []
    left = capacity
    while left:
        refill()
        found = buffer.pop_largest(left)
        if found is None and remainder == "pad" and placements:
            break
        document, length = found or buffer.pop_shortest()
        placed = min(length, left)
        placements.append((document, placed))
        left -= placed
    return placements


class BestFitPacker:
    """Endless rows from a token file; see the module docstring.

    Args:
        tokens: ids whose documents end with `end_of_text`, in memory or memory-mapped.
        end_of_text: id of the separator; it begins every row.
        context_length: inputs per row, T.
        buffer_size: documents to choose from.
        long_documents: what becomes of documents longer than T + 1.
        remainder: cut a document to fill the row, or pad it.
        rank: this process takes documents rank, rank + world_size, ...
        world_size: number of processes.

    Raises:
        ValueError: a number out of range; no documents (see `find_documents`), or none for this rank.
    """

    def __init__(
        self,
        tokens: npt.NDArray[Any],
        *,
        end_of_text: int,
        context_length: int,
        buffer_size: int = 1000,
        long_documents: LongDocuments = "crop",
        remainder: Remainder = "cut",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_shape(context_length, rank, world_size)
        if buffer_size < 1:
            raise ValueError(f"buffer_size must be at least 1 document; got {buffer_size}")
        for name, value, choices in (
            ("long_documents", long_documents, get_args(LongDocuments)), ("remainder", remainder, get_args(Remainder)),
        ):  # fmt: skip
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
        self.table = find_documents(tokens, end_of_text)
        if rank >= len(self.table):
            raise ValueError(f"rank {rank} gets none of the {len(self.table)} documents; use fewer processes")
        self.capacity, self.buffer_size, self.remainder = context_length + 1, buffer_size, remainder
        self.rank, self.world_size, self.long_documents = rank, world_size, long_documents
        self._clear()

    def _clear(self) -> None:
        """The state before the first row."""
        longest = self.capacity if self.long_documents == "crop" else int(self.table.lengths.max())
        self.buffer = BestFitBuffer(max(longest, self.capacity))
        self.taken = 0
        self.counts = {"rows": 0, "placed": 0, "cut": 0, "padded": 0}

    @property
    def epoch(self) -> int:
        """How many times all documents of this rank have entered the buffer."""
        return self.taken // len(range(self.rank, len(self.table), self.world_size))

    @property
    def waste(self) -> float:
        """Share of the tokens of the documents placed so far that was cut off; padding is not among it."""
        return self.counts["cut"] / max(1, self.counts["cut"] + self.counts["placed"])

    def _add(self, document: int) -> None:
        length = int(self.table.lengths[document])
        self.buffer.add(document, min(length, self.capacity) if self.long_documents == "crop" else length)

    def _refill(self) -> None:
        mine = range(self.rank, len(self.table), self.world_size)
        while len(self.buffer) < self.buffer_size:
            self._add(mine[self.taken % len(mine)])
            self.taken += 1

    def next_row(self) -> Row:
        """The next row, (inputs, targets) of T ids each; see `Packer`.

        In a padded row the separator stands in the empty places. The first of them ends the last document and is a
        target; the others are `IGNORED`.
        """
        plan = plan_row(self.buffer, self._refill, capacity=self.capacity, remainder=self.remainder)
        ids = np.full(self.capacity, self.table.end_of_text, dtype=np.int64)
        filled = 0
        for document, placed in plan:
            ids[filled : filled + placed] = self.table.piece(document, placed)
            filled += placed
            self.counts["cut"] += int(self.table.lengths[document]) - placed
        self.counts["rows"] += 1
        self.counts["placed"] += filled
        self.counts["padded"] += self.capacity - filled
        targets = ids[1:].copy()
        targets[filled:] = IGNORED
        return ids[:-1], targets

    def _settings(self) -> dict[str, Any]:
        """What a state belongs to."""
        return {
            "packer": "best-fit", "documents": len(self.table), "tokens": int(self.table.lengths.sum()),
            "context_length": self.capacity - 1, "buffer_size": self.buffer_size, "remainder": self.remainder,
            "long_documents": self.long_documents, "rank": self.rank, "world_size": self.world_size,
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Everything that later rows depend on, as plain values."""
        state = {"taken": self.taken, "counts": dict(self.counts), "buffer": self.buffer.documents()}
        return {"settings": self._settings(), **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: the state is of another packer, corpus or setting.
        """
        check_state(state, self._settings())
        self._clear()
        for document in state["buffer"]:
            self._add(int(document))
        self.taken, self.counts = int(state["taken"]), dict(state["counts"])
