"""Problems for four purposes that never meet: the split of a problem is a hash of what it asks.

    sha256(key) mod 100        0-19 test    20-34 sft    35-54 preference    55-99 rl

A problem therefore belongs to one split for good, whatever the seed, the number drawn or the machine, and two
programs that never heard of each other agree on it. The key leaves out what does not change the task (27 + 85 and
85 + 27 have one key), so that a held-out problem is not a training problem in other clothes.

Read next: `arithmetic.py`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

from cs336_alignment.task import Example, Split

Item = TypeVar("Item")

_BUCKETS: dict[Split, range] = {
    "test": range(0, 20),
    "sft": range(20, 35),
    "preference": range(35, 55),
    "rl": range(55, 100),
}
_PATIENCE = 20_000  # draws in a row without a new problem, after which a split counts as exhausted


@dataclass(frozen=True)
class SplitSizes:
    """Problems of each split.

    Raises:
        ValueError: a size below 1.
    """

    sft: int = 1500
    """worked solutions to imitate"""
    preference: int = 2000
    """problems for preference pairs"""
    rl: int = 4500
    """problems for reinforcement learning"""
    test: int = 1000
    """held-out problems"""

    def __post_init__(self) -> None:
        for split in get_args(Split):
            if getattr(self, split) < 1:
                raise ValueError(f"SplitSizes.{split} must be at least 1; got {getattr(self, split)}")


def split_of(key: str) -> Split:
    """The split that owns the problems with this key."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    return next(split for split, buckets in _BUCKETS.items() if bucket in buckets)


def draw_examples(
    draw: Callable[[random.Random], tuple[str, Example]], *, name: str, split: Split, count: int, seed: int
) -> list[Example]:
    """Draw different problems of one split.

    Args:
        draw: a problem from a source of randomness: its key, and the problem itself. It must use `below` and `choose`
            only, whose sequence is the same in every Python version.
        name: of the task; with seed and split it fixes the sequence.
        split: see `split_of`.
        count: problems wanted.
        seed: same seed, same problems.

    Raises:
        ValueError: an unknown split, a count below 1, or the task has fewer problems than that in this split.
    """
    if split not in _BUCKETS:
        raise ValueError(f"split must be one of {', '.join(_BUCKETS)}; got {split!r}")
    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}")
    rng = random.Random(f"{name} {split} {seed}")
    found: dict[str, Example] = {}
    misses = 0
    while len(found) < count:
        key, example = draw(rng)
        if split_of(key) == split and example.prompt not in found:
            found[example.prompt], misses = example, 0
            continue
        misses += 1
        if misses == _PATIENCE:
            raise ValueError(
                f"task {name} has only about {len(found)} different problems in split {split!r}; got a request for "
                f"{count}; ask for fewer, or make the task larger (more digits, numbers or steps)"
            )
    return list(found.values())


def below(rng: random.Random, bound: int) -> int:
    """A whole number in [0, bound), from `random()` alone: the one method with a promised sequence."""
    return int(rng.random() * bound)


def between(rng: random.Random, low: int, high: int) -> int:
    """A whole number in [low, high]."""
    return low + below(rng, high - low + 1)


def choose(rng: random.Random, items: Sequence[Item]) -> Item:
    """One of the items, each as likely."""
    return items[below(rng, len(items))]


def sample(rng: random.Random, items: Sequence[Item], count: int) -> list[Item]:
    """`count` different items in random order."""
    left = list(items)
    return [left.pop(below(rng, len(left))) for _ in range(count)]
