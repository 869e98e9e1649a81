"""Judges of pairs: a model that is asked, a model's own likelihood, the right answer, and plain length.

    ModelJudge        asks a model which of two answers is better and reads its verdict
    LikelihoodJudge   prefers what a model finds more likely per byte
    AnswerJudge       prefers the right answer of a task with verifiable answers
    LengthJudge       prefers the longer one: the control that length control must take to 0.5

A judge of one's own is any object with `prefer_second`. Read next: `pairwise.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from cs336_alignment.evaluation.generation import Respond
from cs336_alignment.evaluation.likelihood import score_rows

JUDGE_PROMPT = """\
Compare two answers to one instruction and say which is better. Judge by helpfulness, correctness and clarity, not by \
length.

Instruction:
{instruction}

Answer (a):
{first}

Answer (b):
{second}

Reply with one letter, a or b. The better answer is """
_VERDICT = re.compile(r"\s*(?:answer\s*)?[(\[]?\s*([ab])\b", re.IGNORECASE)


@dataclass(frozen=True)
class ModelJudge:
    """Asks a model, greedily."""

    respond: Respond
    """one response per prompt"""
    prompt: str = JUDGE_PROMPT
    """template with {instruction}, {first} and {second}"""

    def __post_init__(self) -> None:
        from cs336_alignment.prompts import placeholders

        if placeholders(self.prompt) != {"instruction", "first", "second"}:
            raise ValueError(
                "a judge's prompt needs the placeholders {instruction}, {first} and {second}; got "
                f"{sorted(placeholders(self.prompt))}"
            )

    def prefer_second(self, instruction: str, first: str, second: str) -> float | None:
        """1 for b, 0 for a, None if the reply begins with neither."""
        asked = self.prompt.format(instruction=instruction, first=first, second=second)
        verdict = _VERDICT.match(self.respond([asked])[0][0])
        return None if verdict is None else float(verdict[1].lower() == "b")


@dataclass(frozen=True)
class LikelihoodJudge:
    """Prefers the answer that a model finds more likely per byte; how clearly, says a sigmoid."""

    model: nn.Module
    encode: Callable[[str], list[int]]
    first_id: int
    context_length: int

    def prefer_second(self, instruction: str, first: str, second: str) -> float:
        """Preference for the second answer; an empty answer has no likelihood and loses."""
        if not first or not second:
            return 0.5 if not first and not second else float(bool(second))
        prompt = [self.first_id, *self.encode(instruction + "\n")]
        rows = [([*prompt, *self.encode(answer)], len(prompt)) for answer in (first, second)]
        scores = score_rows(self.model, rows, context_length=self.context_length)
        rates = [score.nats / len(text.encode()) for score, text in zip(scores, (first, second), strict=True)]
        return 1 / (1 + math.exp(max(-500.0, min(500.0, rates[1] - rates[0]))))


@dataclass(frozen=True)
class AnswerJudge:
    """Knows the answers: right beats wrong, else a tie."""

    answers: Mapping[str, str]
    """instruction to right answer"""
    reward: Callable[[str, str], dict[str, float]]
    """of the task"""

    def prefer_second(self, instruction: str, first: str, second: str) -> float:
        """By the rewards of both."""
        truth = self.answers[instruction]
        gain = self.reward(second, truth)["answer_reward"] - self.reward(first, truth)["answer_reward"]
        return 0.5 + 0.5 * gain


@dataclass(frozen=True)
class LengthJudge:
    """Prefers the longer answer."""

    def prefer_second(self, instruction: str, first: str, second: str) -> float:
        """By the number of characters."""
        return 0.5 if len(first) == len(second) else float(len(second) > len(first))
