"""The grader's test of itself: every misconception must lose its slug, and be recognised.

Each entry is judged as if it were a student's adapter, on inputs of a seed of its own, in this process (the entries are
ours; no isolation is needed). Read next: `tests/course/test_misconceptions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cs336_course.grading.judge import judgement
from cs336_course.grading.suite import Problem, load_suite
from cs336_course.misconceptions import diagnosis
from cs336_course.misconceptions.bank import Misconception, misconceptions


@dataclass
class Selftest:
    """What became of the mutants."""

    caught: list[str] = field(default_factory=list)
    survived: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    misnamed: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """All caught, at least 90% of them named rightly."""
        return not self.survived and bool(self.caught) and len(self.named) >= 0.9 * len(self.caught)

    def summary(self) -> dict[str, Any]:
        """For printing."""
        return {
            "mutants": len(self.caught) + len(self.survived),
            "caught": len(self.caught),
            "survived": ", ".join(self.survived) or "none",
            "named rightly": len(self.named),
            "not or wrongly named": ", ".join(self.misnamed) or "none",
        }


def run_selftest(assignment: str, *, secret: bytes = b"selftest", only: list[str] | None = None) -> Selftest:
    """Judge and name every misconception of an assignment (or of some slugs)."""
    suite, result = load_suite(assignment, secret=secret, only=only), Selftest()
    problems = {problem.slug: problem for problem in suite.problems}
    for entry in misconceptions(assignment):
        if entry.slug in problems:
            _try(entry, problems[entry.slug], result)
    return result


def _try(entry: Misconception, problem: Problem, result: Selftest) -> None:
    """Judge one entry as a submission."""
    label = f"{entry.slug}/{entry.name}"
    answers = {case.id: diagnosis.answer_of(entry, case) for case in problem.cases}
    given = [case for case in problem.cases if answers[case.id] is not diagnosis.UNANSWERED]
    failed = {case.id for case in given if judgement(case, answers[case.id]) is not None}
    if len(given) == len(answers) and not failed:
        result.survived.append(label)
        return
    result.caught.append(label)
    found = diagnosis.name(problem, answers, failed)
    if found is not None and found.name == entry.name:
        result.named.append(label)
    else:
        result.misnamed.append(f"{label} as {found.name if found else 'nothing'}")
