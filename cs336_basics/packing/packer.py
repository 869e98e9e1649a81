"""What every packer offers, and batches from it.

A packer turns a token file into endless rows of T inputs and T targets, one after the other, and can say where it is:

    state = packer.state_dict()      then, perhaps in another process:      packer.load_state_dict(state)

gives the same rows from there on, bit for bit. `get_batch` in `data.py` is the packer without a state: windows at
random. Read next: `stream.py`, `best_fit.py`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

Row = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@runtime_checkable
class Packer(Protocol):
    """Endless rows with a position that can be stored."""

    def next_row(self) -> Row:
        """(inputs, targets), int64 arrays of context_length ids each; a target of -1 is to be ignored."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a position."""
        ...


def next_batch(
    packer: Packer, batch_size: int, *, device: str | torch.device = "cpu"
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """The next `batch_size` rows as (inputs, targets) on `device`.

    Raises:
        ValueError: batch_size is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    inputs, targets = zip(*(packer.next_row() for _ in range(batch_size)), strict=True)
    return torch.from_numpy(np.stack(inputs)).to(device), torch.from_numpy(np.stack(targets)).to(device)


def check_shape(context_length: int, rank: int, world_size: int) -> None:
    """Raise a ValueError unless these can describe the rows of one process."""
    if context_length < 1:
        raise ValueError(f"context_length must be at least 1 (an input and its target); got {context_length}")
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in 0 .. world_size - 1; got rank={rank}, world_size={world_size}")


def check_state(state: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise a ValueError unless `state` was taken from a packer with these settings."""
    stored = state.get("settings")
    if not isinstance(stored, dict):
        raise ValueError(f"this is no state of a packer: it has the entries {sorted(map(str, state))[:8]}")
    wrong = [f"{k}: stored {stored.get(k)!r}, here {settings.get(k)!r}" for k in {**settings, **stored}
             if stored.get(k) != settings.get(k)]  # fmt: skip
    if wrong:
        raise ValueError(f"the state belongs to another packer; {'; '.join(wrong)}; use the settings it was taken with")
