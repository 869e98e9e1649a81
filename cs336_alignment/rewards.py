r"""Verifiable rewards: is the response in the agreed form, and is the answer in it right?

    r1_zero          ... </think> <answer> 42 </answer>     one space between the tags; the last <answer> counts
    question_only    ... \boxed{42}                          the last box counts
    (`tasks/final_answer.py`: ... #### 42, as in GSM8K)

Each gives format_reward, answer_reward and reward. The reward is that of the answer: there is none for the form alone,
or a policy would learn the form and stop. A prompt goes with one of these functions and its own stop text; r1_zero
stops at "</answer>" and keeps it.

Handout: math_baseline, prompting_baselines. Read next: `grading.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cs336_alignment.grading import MAX_LENGTH, grade_answer
from cs336_alignment.symbolic import verify_with_math_verify

GroundTruth = str | int | float | Sequence[str]


def r1_zero_reward_fn(response: str, ground_truth: GroundTruth, fast: bool = True) -> dict[str, float]:
    r"""Reward of a response to the r1_zero prompt.

    Args:
        response: with the stop text "</answer>".
        ground_truth: the right answer, or several of which any will do; one in \boxed{} is taken out of it.
        fast: False also asks math_verify where our own grader says no.
    """
    if "</think> <answer>" not in response or "</answer>" not in response:
        return _scores(False, False)
    answer = response.split("<answer>")[-1].replace("</answer>", "")
    if "\\boxed" in answer:
        boxed = last_boxed(answer)
        if boxed is None:
            return _scores(True, False)
        answer = boxed
    return _scores(True, _is_any(answer, ground_truth, fast))


def question_only_reward_fn(response: str, ground_truth: GroundTruth, fast: bool = True) -> dict[str, float]:
    r"""Reward of a response to the question_only prompt: the last \boxed{}, with balanced braces, is the answer."""
    answer = last_boxed(response)
    if answer is None:
        return _scores(False, False)
    return _scores(True, _is_any(answer, ground_truth, fast))


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...}; None without one, or if its braces do not close."""
    start = text.rfind("\\boxed")
    inside = text[start + len("\\boxed") :].lstrip() if start >= 0 else ""
    if not inside.startswith("{"):
        return None
    depth = 0
    for place, character in enumerate(inside):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return inside[1:place]
    return None


def _is_any(answer: str, ground_truth: GroundTruth, fast: bool) -> bool:
    """Whether the answer is one of the right ones."""
    truths = [ground_truth] if isinstance(ground_truth, (str, int, float)) else list(ground_truth)
    texts = [unboxed if (unboxed := last_boxed(str(t))) is not None else str(t) for t in truths]
    if any(grade_answer(answer, text) for text in texts):
        return True
    return not fast and len(answer) <= MAX_LENGTH and any(verify_with_math_verify(answer, text) for text in texts)


def _scores(formatted: bool, right: bool) -> dict[str, float]:
    return {"format_reward": float(formatted), "answer_reward": float(right), "reward": float(right)}
