"""Processes that train begin with torch's compiler imported, and are not copies of their caller."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor

import torch

from cs336_basics.runs.child_processes import PRELOADED, training_context

HELD: list[int] = []


def found() -> tuple[list[str], int, list[int]]:
    return [name for name in PRELOADED if name not in sys.modules], torch.initial_seed(), HELD


def test_a_child_has_the_modules_and_nothing_of_its_callers_state():
    torch.manual_seed(77)
    HELD[:] = [1]
    with ProcessPoolExecutor(2, mp_context=training_context()) as pool:
        missing, seed, held = pool.submit(found).result()
    HELD.clear()
    if sys.platform == "linux":
        assert missing == []
    assert seed != 77 and held == []
