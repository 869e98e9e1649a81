"""A question with several answers of which one is right; what all readers of multiple choice produce.

Read next: `mmlu.py`, `commonsense.py`, `evaluation/multiple_choice.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChoiceQuestion:
    """One question.

    Raises:
        ValueError: fewer than two choices, or `answer` names none of them.
    """

    context: str
    """what comes before the answer"""
    choices: tuple[str, ...]
    """the answers as written, without leading space"""
    answer: int
    """index of the right one"""
    subject: str = ""
    """group for the report, such as astronomy"""

    def __post_init__(self) -> None:
        if len(self.choices) < 2:
            raise ValueError(f"a question needs two choices at least; got {self.choices}")
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(f"answer must be in 0..{len(self.choices) - 1}; got {self.answer}")
