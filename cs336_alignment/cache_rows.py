"""Rows of a decoding cache: repeat those of a prompt for its group, drop those that have ended.

A cache is whatever `TransformerLM.new_cache` gives: lists and plain objects whose tensors have the batch as first axis.
Read next: `lockstep.py`.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor


def select_rows(cache: Any, rows: Tensor) -> Any:
    """A cache that holds these rows of `cache`, in this order; a row may come several times.

    Args:
        cache: it is not changed; what is no tensor (lengths, windows) is kept as it is.
        rows: int64 indices.
    """
    return _selected(cache, rows, {})


def _selected(value: Any, rows: Tensor, done: dict[int, Any]) -> Any:
    """`done` keeps parts that several layers share shared."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Tensor):
        found: Any = value.index_select(0, rows)
    elif isinstance(value, (list, tuple)):
        found = type(value)(_selected(part, rows, done) for part in value)
    elif isinstance(value, dict):
        found = {key: _selected(part, rows, done) for key, part in value.items()}
    elif hasattr(value, "__dict__"):
        found = copy.copy(value)
        done[id(value)] = found
        found.__dict__.update({name: _selected(part, rows, done) for name, part in vars(value).items()})
    else:
        return value
    done[id(value)] = found
    return found
