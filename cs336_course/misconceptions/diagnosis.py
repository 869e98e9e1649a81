"""Which misconception a failing output matches: run each on the same inputs, here in the judge, and compare.

A misconception is named when, on every case of the slug that gave an answer, it answers as the submission did, right
ones included; of several, the first in the bank's order. Errors must meet errors. Nothing is named otherwise: a wrong
diagnosis costs more than none. Read next: `selftest.py`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from cs336_course.grading.suite import Case, Problem
from cs336_course.grading.worker import drivers
from cs336_course.misconceptions.bank import Misconception, misconceptions

UNANSWERED = "unanswered"


def diagnose(problem: Problem, wrong: dict[str, Any]) -> dict[str, str]:
    """{case id: advice} for the wrong answers {case id: answer}; empty if no misconception fits."""
    cases = [case for case in problem.cases if case.id in wrong]
    match = name(problem.slug, cases, wrong)
    return {} if match is None else {cases[0].id: match.advice}


def name(slug: str, cases: list[Case], answers: dict[str, Any]) -> Misconception | None:
    """The first misconception of a slug that gives these answers to these cases."""
    for entry in misconceptions("basics"):
        if entry.slug == slug and all(same(answers[case.id], answer_of(entry, case)) for case in cases):
            return entry
    return None


def answer_of(entry: Misconception, case: Case) -> Any:
    """What the misconception answers, or UNANSWERED where it raises."""
    with scratch_folder(), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return drivers.run(case.driver, entry.adapters, case.inputs)
        except Exception:
            return UNANSWERED


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
