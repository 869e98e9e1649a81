"""What a task with verifiable answers offers: examples of four disjoint splits, and a reward for each response.

    sft         worked solutions to imitate
    preference  problems for pairs of better and worse responses
    rl          problems to practise on, judged by `reward` alone
    test        held out from all of these

Left out: the tasks themselves (`tasks/`). Read next: `rewards.py`, `rollouts.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

RewardFunction = Callable[[str, str], dict[str, float]]
"""(response, answer) to format_reward, answer_reward and reward"""
Split = Literal["sft", "preference", "rl", "test"]


@dataclass(frozen=True)
class Example:
    """One problem."""

    prompt: str
    answer: str
    response: str = ""
    """a worked solution as the model should write it, without the end-of-text token; empty where none is known"""


@runtime_checkable
class Task(Protocol):
    """A family of problems whose answers a program can check."""

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end a response and belong to it; () when only the end-of-text token ends it."""
        ...

    @property
    def max_tokens(self) -> int:
        """The longest response worth sampling, in tokens."""
        ...

    def examples(self, split: Split, seed: int) -> list[Example]:
        """The problems of a split; no problem is in two splits of one seed."""
        ...

    def reward(self, response: str, answer: str) -> dict[str, float]:
        """format_reward, answer_reward and reward, each in [0, 1]."""
        ...
