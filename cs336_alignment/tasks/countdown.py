"""Countdown: reach a target from given numbers, each used once.

    Numbers: 3 8 5. Target: 19
    #### 8 * 3 - 5

A right answer is any expression with exactly these numbers and this value; the solution shown is only one of them. As
`answer` it says both, so that a reward needs the answer alone. Values on the way are whole numbers from 1 up to
`largest`; graded answers may be anything exact.

Source: the television game; Gandhi et al. 2024 (Stream of Search), TinyZero. Read next: `expressions.py`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from cs336_alignment.expressions import evaluate, evaluate_expression, numbers_in, parse_expression
from cs336_alignment.task import Example, Split
from cs336_alignment.tasks.final_answer import judge
from cs336_alignment.tasks.splits import SplitSizes, below, between, choose, draw_examples, sample

_Part = tuple[int, str, bool]  # value, text, whether it is a sum or difference (needs parentheses in a product)


def solves(expression: str, solution: str) -> bool:
    """Whether an expression uses the numbers of the solution, each once, and has its value.

    >>> solves("3 * 4 + 2", "2 + 3 * 4"), solves("7 + 7", "2 + 3 * 4")
    (True, False)
    """
    try:
        text = expression.strip()
        tree = parse_expression(text)
        numbers = sorted(numbers_in(tree))
        value = evaluate(tree, text)
    except ValueError:
        return False
    return numbers == sorted(numbers_in(parse_expression(solution))) and value == evaluate_expression(solution)


@dataclass(frozen=True)
class Countdown:
    """Numbers and a target.

    Raises:
        ValueError: counts or sizes out of range.
    """

    min_numbers: int = 3
    """fewest numbers of a problem"""
    max_numbers: int = 4
    """most numbers of a problem"""
    largest: int = 99
    """no number, target or value on the way is larger"""
    sizes: SplitSizes = SplitSizes()
    """problems of each split"""

    def __post_init__(self) -> None:
        if not 2 <= self.min_numbers <= self.max_numbers <= 8:
            raise ValueError(
                f"Countdown needs 2 <= min_numbers <= max_numbers <= 8; got {self.min_numbers} and {self.max_numbers}"
            )
        if self.largest < 10:
            raise ValueError(f"largest must be at least 10; got {self.largest}")

    name = "countdown"
    stop = ()

    @property
    def max_tokens(self) -> int:
        """Enough for every solution shown, a token per byte."""
        return len("#### ") + self.max_numbers * (len(str(self.largest)) + 5) + 1

    def examples(self, split: Split, seed: int) -> list[Example]:
        """The problems of a split; see `splits.py`."""
        count = getattr(self.sizes, split, 0)
        return draw_examples(self._draw, name=self.name, split=split, count=count, seed=seed)

    def reward(self, response: str, answer: str) -> dict[str, float]:
        """1 for an expression behind `####` that solves the problem."""
        return judge(response, answer, solves)

    def _draw(self, rng: random.Random) -> tuple[str, Example]:
        count = between(rng, self.min_numbers, self.max_numbers)
        numbers = [between(rng, 1, max(10, self.largest // 2)) for _ in range(count)]
        parts: list[_Part] = [(number, str(number), False) for number in numbers]
        while len(parts) > 1:
            first, second = sample(rng, range(len(parts)), 2)
            options = [part for part in _combine(parts[first], parts[second]) if 1 <= part[0] <= self.largest]
            if not options:  # such as 60 and 70, whose sum is too large: their difference always fits, save 0
                return self._draw(rng)
            parts = [part for index, part in enumerate(parts) if index not in (first, second)]
            parts.insert(below(rng, len(parts) + 1), choose(rng, options))
        target, solution, _ = parts[0]
        listed = " ".join(map(str, numbers))
        key = f"{' '.join(map(str, sorted(numbers)))} = {target}"
        return key, Example(f"Numbers: {listed}. Target: {target}\n", solution, f"#### {solution}")


def _combine(left: _Part, right: _Part) -> list[_Part]:
    """What two values give under each operation, with the larger first where order counts."""
    (a, a_text, a_sum), (b, b_text, b_sum) = (left, right) if left[0] >= right[0] else (right, left)
    a_factor, b_factor = f"({a_text})" if a_sum else a_text, f"({b_text})" if b_sum else b_text
    b_last = b_factor if b_text.isdigit() else f"({b_text})"
    combined = [(a + b, f"{a_text} + {b_text}", True), (a - b, f"{a_text} - {b_factor}", True)]
    if min(a, b) > 1:
        combined.append((a * b, f"{a_factor} * {b_factor}", False))
        if a % b == 0:
            combined.append((a // b, f"{a_factor} / {b_last}", False))
    return combined
