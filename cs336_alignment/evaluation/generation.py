"""Answers that a model writes, judged by a reward: accuracy, format, pass@k.

    greedy accuracy     one answer per question at temperature 0; Wilson interval
    pass@k              of n answers at temperature T; interval by drawing questions again (answers of one question are
                        alike, so counting each as a question of its own would claim too much)

A `Respond` is anything that turns prompts into n texts each; `responders.py` makes them from models. Read next:
`responders.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cs336_alignment.statistics import pass_at_k
from cs336_alignment.task import Example
from cs336_basics.runs.intervals import bootstrap_ratio_interval, wilson_interval

Respond = Callable[[Sequence[str]], list[list[str]]]
"""prompts to responses, equally many for each prompt"""


@dataclass(frozen=True)
class Answered:
    """One question with what a model wrote and what that earned."""

    example: Example
    responses: tuple[str, ...]
    rewards: tuple[dict[str, float], ...]

    @property
    def num_right(self) -> int:
        """Responses with a right answer."""
        return sum(reward["answer_reward"] >= 1 for reward in self.rewards)


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def evaluate_generation(
    respond: Respond,
    examples: Sequence[Example],
    reward: Callable[[str, str], dict[str, float]],
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> list[Answered]:
    """Let a model answer questions.

    Args:
        respond: the model.
        examples: the questions.
        reward: (response, answer) to format_reward, answer_reward and reward.
        batch_size: questions per call of `respond`.
        progress: called with the number of questions after each.

    Raises:
        ValueError: no questions.
    """
    if not examples:
        raise ValueError("there are no questions to evaluate")
    answered = []
    for first in range(0, len(examples), batch_size):
        batch = examples[first : first + batch_size]
        for example, responses in zip(batch, respond([example.prompt for example in batch]), strict=True):
            rewards = tuple(reward(response, example.answer) for response in responses)
            answered.append(Answered(example, tuple(responses), rewards))
        if progress:
            progress(len(batch))
    return answered


def share(outcomes: Sequence[bool]) -> Estimate:
    """The share of successes with its Wilson interval."""
    return Estimate(sum(outcomes) / len(outcomes), *wilson_interval(sum(outcomes), len(outcomes)))


def pass_rates(answered: Sequence[Answered], *, seed: int = 0) -> dict[int, Estimate]:
    """pass@k for k = 1, 2, 4, ... up to the number of responses, and for that number.

    Args:
        answered: equally many responses to each question.
        seed: of the bootstrap over questions.
    """
    n = len(answered[0].responses)
    ks = sorted({2**power for power in range(n.bit_length()) if 2**power <= n} | {n})
    rates = {}
    for k in ks:
        chances = [pass_at_k(n, item.num_right, k) for item in answered]
        low, high = bootstrap_ratio_interval(chances, [1.0] * len(chances), seed=seed)
        rates[k] = Estimate(sum(chances) / len(chances), low, high)
    return rates
