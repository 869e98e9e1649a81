"""The grader's test of itself, in this process (all code run is ours; no isolation is needed).

    reference        full marks, and no misconception is named
    empty adapters   no point
    misconceptions   each loses its problem and is recognised

Inputs grow from a seed of their own. Read next: `tests/course/test_misconceptions.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from cs336_course.grading.judge import judgement
from cs336_course.grading.suite import Problem, load_suite
from cs336_course.misconceptions import diagnosis
from cs336_course.misconceptions.bank import Misconception, misconceptions

MIN_NAMED = 0.9


@dataclass
class Selftest:
    """What became of the reference, of nothing, and of the mutants."""

    reference_failures: list[str] = field(default_factory=list)
    false_diagnoses: list[str] = field(default_factory=list)
    empty_points: list[str] = field(default_factory=list)
    caught: list[str] = field(default_factory=list)
    survived: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    misnamed: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Reference full, empty zero, all mutants caught, at least 90% of them named rightly."""
        faults = [*self.reference_failures, *self.false_diagnoses, *self.empty_points, *self.survived]
        return not faults and bool(self.caught) and len(self.named) >= MIN_NAMED * len(self.caught)

    def summary(self) -> dict[str, Any]:
        """For printing."""
        return {
            "reference": ", ".join(self.reference_failures) or "full marks",
            "false diagnoses of the reference": ", ".join(self.false_diagnoses) or "none",
            "empty adapters": ", ".join(self.empty_points) or "no point",
            "mutants": len(self.caught) + len(self.survived),
            "caught": len(self.caught),
            "survived": ", ".join(self.survived) or "none",
            "named rightly": len(self.named),
            "not or wrongly named": ", ".join(self.misnamed) or "none",
        }


def run_selftest(
    assignment: str,
    *,
    secret: bytes = b"selftest",
    only: list[str] | None = None,
    sample: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Selftest:
    """Judge the reference, empty adapters and the misconceptions of an assignment.

    Args:
        only: some slugs.
        sample: so many misconceptions, drawn by a fixed seed, and the reference on their problems only.
        progress: told each problem's slug before it starts.
    """
    suite, result = load_suite(assignment, secret=secret, only=only), Selftest()
    chosen = [entry for entry in misconceptions(assignment) if not only or entry.slug in only]
    if sample is not None:
        chosen = random.Random(336).sample(chosen, min(sample, len(chosen)))
    adapters = reference_adapters()
    for problem in suite.problems:
        mine = [entry for entry in chosen if entry.slug == problem.slug]
        if sample is None or mine:
            if progress is not None:
                progress(problem.slug)
            _try_right(problem, adapters, result)
        memory: dict[tuple[int, int], Any] = {}
        for entry in mine:
            _try_wrong(entry, problem, result, memory)
    return result


def reference_adapters() -> ModuleType:
    """The repository's own tests/adapters.py."""
    path = Path(__file__).parents[2] / "tests" / "adapters.py"
    spec = importlib.util.spec_from_file_location("cs336_reference_adapters", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Empty:
    """Adapters of which none is written."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def adapter(*arguments: Any, **named: Any) -> Any:
            raise NotImplementedError

        return adapter


def _try_right(problem: Problem, adapters: ModuleType, result: Selftest) -> None:
    """The reference must pass every case and look like no mistake; without code, some case of each problem must fail."""
    right = Misconception(problem.slug, "reference", "", "", vars(adapters))
    answers = {case.id: diagnosis.answer_of(right, case) for case in problem.cases}
    for case in problem.cases:
        given = answers[case.id]
        message = "raised" if given is diagnosis.UNANSWERED else judgement(case, given)
        if message is not None:
            result.reference_failures.append(f"{problem.slug}/{case.id}: {message}")
    if any(given is diagnosis.UNANSWERED for given in answers.values()):
        return
    if diagnosis.name(problem, answers, set()) is not None:
        result.false_diagnoses.append(problem.slug)
    for case in problem.cases:
        with contextlib.suppress(NotImplementedError):
            if judgement(case, diagnosis.drive(case, _Empty())) is None:
                result.empty_points.append(f"{problem.slug}/{case.id}")


def _try_wrong(entry: Misconception, problem: Problem, result: Selftest, memory: dict[tuple[int, int], Any]) -> None:
    """Judge one entry as a submission."""

    def answer_of(other: Misconception, case: Any) -> Any:
        key = (id(other), id(case))
        if key not in memory:
            memory[key] = diagnosis.answer_of(other, case)
        return memory[key]

    label = f"{entry.slug}/{entry.name}"
    answers = {case.id: answer_of(entry, case) for case in problem.cases}
    given = [case for case in problem.cases if answers[case.id] is not diagnosis.UNANSWERED]
    failed = {case.id for case in given if judgement(case, answers[case.id]) is not None}
    if len(given) == len(answers) and not failed:
        result.survived.append(label)
        return
    result.caught.append(label)
    found = diagnosis.name(problem, answers, failed, ask=answer_of)
    if found is not None and found.name == entry.name:
        result.named.append(label)
    else:
        result.misnamed.append(f"{label} as {found.name if found else 'nothing'}")
