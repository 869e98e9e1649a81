"""Sorting: numbers in, the same numbers in order out.

    Sort: 41 7 93 12
    #### 7 12 41 93

The numbers differ; their set is the problem, so two orders of one list share a split. Partial credit there is none.
Read next: `countdown.py`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from cs336_alignment.task import Example, Split
from cs336_alignment.tasks.final_answer import judge
from cs336_alignment.tasks.splits import SplitSizes, between, draw_examples, sample


@dataclass(frozen=True)
class Sorting:
    """Lists of different whole numbers.

    Raises:
        ValueError: lengths out of order, or more numbers than there are.
    """

    min_length: int = 3
    """numbers of the shortest list"""
    max_length: int = 5
    """numbers of the longest list"""
    largest: int = 99
    """numbers lie in 0..largest"""
    sizes: SplitSizes = SplitSizes()
    """problems of each split"""

    def __post_init__(self) -> None:
        if not 2 <= self.min_length <= self.max_length <= self.largest + 1:
            raise ValueError(
                "sorting needs 2 <= min_length <= max_length <= largest + 1; got "
                f"{self.min_length}, {self.max_length} and {self.largest}"
            )

    name = "sorting"
    stop = ()

    @property
    def max_tokens(self) -> int:
        """Enough for every solution, a token per byte."""
        return len("#### ") + self.max_length * (len(str(self.largest)) + 1) + 1

    def examples(self, split: Split, seed: int) -> list[Example]:
        """The problems of a split; see `splits.py`."""
        count = getattr(self.sizes, split, 0)
        return draw_examples(self._draw, name=self.name, split=split, count=count, seed=seed)

    def reward(self, response: str, answer: str) -> dict[str, float]:
        """1 for the same numbers in the same order behind `####`."""
        return judge(response, answer, lambda found, truth: found.split() == truth.split())

    def _draw(self, rng: random.Random) -> tuple[str, Example]:
        numbers = sample(rng, range(self.largest + 1), between(rng, self.min_length, self.max_length))
        answer = " ".join(map(str, sorted(numbers)))
        return answer, Example(f"Sort: {' '.join(map(str, numbers))}\n", answer, f"#### {answer}")
