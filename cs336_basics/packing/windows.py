"""The packer that `TrainConfig.windows` names. Read next: `packer.py`."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from cs336_basics.packing.best_fit import BestFitPacker
from cs336_basics.packing.packer import Packer
from cs336_basics.packing.stream import StreamPacker


def packer_for_windows(
    windows: str,
    tokens: npt.NDArray[Any],
    *,
    context_length: int,
    end_of_text: int | None,
    rank: int,
    world_size: int,
) -> Packer | None:
    """A StreamPacker for "stream", a BestFitPacker for "best-fit", None for windows drawn at random.

    Raises:
        ValueError: "best-fit" without the id that ends documents; otherwise as the packers.
    """
    if windows == "stream":
        return StreamPacker(tokens, context_length=context_length, rank=rank, world_size=world_size)
    if windows != "best-fit":
        return None
    if end_of_text is None:
        raise ValueError("best-fit windows need to know where documents end; give the tokenizer's folder")
    return BestFitPacker(
        tokens, end_of_text=end_of_text, context_length=context_length, rank=rank, world_size=world_size
    )
