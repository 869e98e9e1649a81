"""Which misconception a failing output matches: run each on the same inputs, here in the judge, and compare.

A misconception is named when, on every case of the slug, it gives the submission's wrong answers, is right where the
submission is right, and raises where it raises; of several, the first in the bank's order. Nothing is named otherwise:
a wrong diagnosis costs more than none. Read next: `selftest.py`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cs336_course.grading.judge import UNANSWERED, judgement
from cs336_course.grading.suite import BadAnswer, Case, Problem
from cs336_course.grading.worker import registry
from cs336_course.misconceptions.bank import Misconception, misconceptions

_ONE_AT_A_TIME = threading.Lock()


def diagnose(problem: Problem, answers: dict[str, Any], failed: set[str]) -> dict[str, str]:
    """{case id: advice}, one entry, or empty if no misconception fits.

    Args:
        answers: case id -> answer, or UNANSWERED where the submission raised; cases that never ran are missing.
        failed: ids of the cases with a wrong answer.
    """
    match = name(problem, answers, failed)
    first = next(case.id for case in problem.cases if case.id in failed)
    return {} if match is None else {first: match.advice}


def name(
    problem: Problem,
    answers: dict[str, Any],
    failed: set[str],
    *,
    ask: Callable[[Misconception, Case], Any] | None = None,
) -> Misconception | None:
    """The first misconception that is wrong where the submission is, in the same way, and right where it is right.

    Args:
        ask: what an entry answers to a case; by default it is run.
    """
    ask = ask or answer_of
    answered = [case for case in problem.cases if case.id in answers]
    answered.sort(key=lambda case: case.id not in failed)  # a wrong answer tells entries apart soonest
    for entry in misconceptions(problem.assignment):
        if entry.slug == problem.slug and all(
            _agrees(ask(entry, case), case, answers[case.id], case.id in failed) for case in answered
        ):
            return entry
    return None


def _agrees(mine: Any, case: Case, answer: Any, failed: bool) -> bool:
    """Whether a misconception does on one case what the submission did."""
    if mine is UNANSWERED or answer is UNANSWERED:
        return mine is answer
    if not failed:
        return judgement(case, mine) is None
    if case.compared is None:
        return same(mine, answer)
    try:
        return same(case.compared(mine), case.compared(answer))
    except BadAnswer:
        return False


def answer_of(entry: Misconception, case: Case) -> Any:
    """What the misconception answers, or UNANSWERED where it raises."""
    try:
        return drive(case, entry.adapters)
    except Exception:
        return UNANSWERED


def drive(case: Case, adapters: Any) -> Any:
    """The answer of adapters of ours; one at a time, since drivers write small files into the working directory."""
    with _ONE_AT_A_TIME, scratch_folder(), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return registry.run(case.driver, adapters, case.inputs)


def same(first: Any, second: Any) -> bool:
    """Whether two answers agree: arrays to rounding with NaN equal, all else exactly."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return (
            first.shape == second.shape
            and first.dtype.kind == second.dtype.kind
            and bool(np.allclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True))
        )
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and bool(first == second)


@contextlib.contextmanager
def scratch_folder() -> Iterator[None]:
    """Drivers write small files into the working directory: give them one that goes away."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="cs336-diagnosis-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
