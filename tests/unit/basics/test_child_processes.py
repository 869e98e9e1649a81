"""Processes that train are not copies of their caller."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ProcessPoolExecutor

import torch

from cs336_basics.runs.child_processes import PRELOADED, training_context

HELD: list[int] = []


def found() -> tuple[int, list[int]]:
    return torch.initial_seed(), HELD


def test_a_child_has_nothing_of_its_callers_state():
    torch.manual_seed(77)
    HELD[:] = [1]
    with ProcessPoolExecutor(1, mp_context=training_context()) as pool:
        seed, held = pool.submit(found).result()
    HELD.clear()
    assert seed != 77 and held == []


def test_what_is_preloaded_is_there():
    """multiprocessing passes over a name that it cannot import without a word."""
    assert all(importlib.util.find_spec(name) for name in PRELOADED)
