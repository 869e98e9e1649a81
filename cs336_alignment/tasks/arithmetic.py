"""Addition, subtraction and multiplication of small numbers, worked out by the units first.

    27 + 85 =
    7 + 5 = 12
    #### 112

The whole task is 10,000 problems at two digits, few enough to be learnt in seconds and too many to be memorised from
the 1,500 worked solutions. Both orders of a sum or product are one problem: they share a split.

Read next: `word_problems.py`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from cs336_alignment.task import Example, Split
from cs336_alignment.tasks.final_answer import judge, same_number
from cs336_alignment.tasks.splits import SplitSizes, below, choose, draw_examples

_APPLY = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


@dataclass(frozen=True)
class Arithmetic:
    """Two whole numbers and an operation.

    Raises:
        ValueError: digits outside 1 to 9, or operations other than + - *.
    """

    digits: int = 2
    """numbers lie below 10 ** digits"""
    operations: str = "+"
    """operations that occur, such as "+-*" """
    sizes: SplitSizes = field(default_factory=lambda: SplitSizes(sft=1200, preference=1500, rl=3500, test=1500))
    """problems of each split"""

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 9:
            raise ValueError(f"digits must lie in 1..9; got {self.digits}")
        if not self.operations or set(self.operations) - set(_APPLY):
            raise ValueError(f"operations must be some of + - *; got {self.operations!r}")

    name = "arithmetic"
    stop = ()

    @property
    def max_tokens(self) -> int:
        """Enough for every worked solution, a token per byte."""
        return len("9 * 9 = 81\n#### -") + 2 * self.digits + 2

    def examples(self, split: Split, seed: int) -> list[Example]:
        """The problems of a split; see `splits.py`."""
        count = getattr(self.sizes, split, 0)
        return draw_examples(self._draw, name=self.name, split=split, count=count, seed=seed)

    def reward(self, response: str, answer: str) -> dict[str, float]:
        """1 for the right number behind `####`."""
        return judge(response, answer, same_number)

    def _draw(self, rng: random.Random) -> tuple[str, Example]:
        operation = choose(rng, self.operations)
        first, second = below(rng, 10**self.digits), below(rng, 10**self.digits)
        apply = _APPLY[operation]
        units = f"{first % 10} {operation} {second % 10} = {apply(first % 10, second % 10)}"
        answer = str(apply(first, second))
        pair = (first, second) if operation == "-" else (min(first, second), max(first, second))
        prompt = f"{first} {operation} {second} =\n"
        return f"{pair[0]} {operation} {pair[1]}", Example(prompt, answer, f"{units}\n#### {answer}")
