"""Stream packing: documents end to end, cut wherever a row is full.

    row k = tokens[k T], ..., tokens[k T + T]     T inputs, the same shifted by one as targets; indices mod len(tokens)

Nothing is thrown away and nothing is padded: in len(tokens) inputs every token is an input once and a target once.
The price is that rows begin in the middle of a document whose beginning the model does not see. After the last token
the stream goes on with the first (a document always follows a separator there), so an epoch needs no last short row,
and the next one is cut elsewhere. Processes take turns: rank r has rows r, r + world_size, ...

`get_batch` draws windows of the same stream at random instead. Read next: `best_fit.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cs336_basics.packing.packer import Row, check_shape, check_state


class StreamPacker:
    """Endless consecutive rows of a token file; see the module docstring.

    Args:
        tokens: one-dimensional ids, in memory or memory-mapped.
        context_length: inputs per row, T.
        rank: this process takes rows rank, rank + world_size, ...
        world_size: number of processes.

    Raises:
        ValueError: a number out of range, or fewer than T + 1 tokens.
    """

    def __init__(self, tokens: npt.NDArray[Any], *, context_length: int, rank: int = 0, world_size: int = 1) -> None:
        check_shape(context_length, rank, world_size)
        if len(tokens) < context_length + 1:
            raise ValueError(
                f"a row of context_length={context_length} needs {context_length + 1} tokens; got {len(tokens)}; use a "
                "longer corpus or a shorter context"
            )
        self.tokens, self.context_length = tokens, context_length
        self.rank, self.world_size, self.rows = rank, world_size, 0

    @property
    def epoch(self) -> int:
        """How many times the next row's beginning has gone round the corpus."""
        return (self.rank + self.rows * self.world_size) * self.context_length // len(self.tokens)

    def next_row(self) -> Row:
        """The next row, (inputs, targets) of T ids each; see `Packer`."""
        start = (self.rank + self.rows * self.world_size) * self.context_length % len(self.tokens)
        ids = np.asarray(self.tokens[start : start + self.context_length + 1]).astype(np.int64)
        missing = self.context_length + 1 - len(ids)
        if missing:
            ids = np.concatenate((ids, np.asarray(self.tokens[:missing]).astype(np.int64)))
        self.rows += 1
        return ids[:-1], ids[1:].copy()

    def _settings(self) -> dict[str, Any]:
        """What a state belongs to."""
        return {
            "packer": "stream", "tokens": len(self.tokens), "context_length": self.context_length,
            "rank": self.rank, "world_size": self.world_size,
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Everything that later rows depend on, as plain values."""
        return {"settings": self._settings(), "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: the state is of another packer, corpus or setting.
        """
        check_state(state, self._settings())
        self.rows = int(state["rows"])
