"""What an evaluation found: headline, further numbers, one outcome per question, and a record of each.

The outcomes make paired comparison possible: two evaluations of the same questions are compared question by question
(`compare_paired`), which sees differences that two separate intervals cannot.

Read next: `suites.py`, `report.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cs336_alignment.evaluation.generation import Estimate, share
from cs336_alignment.jsonl import read_json_lines
from cs336_alignment.statistics import PairedComparison, compare_paired
from cs336_basics.runs.atomic import atomic_write, write_json


@dataclass(frozen=True)
class SuiteResult:
    """One test of one model."""

    name: str
    measure: str
    """what the headline is, such as accuracy"""
    headline: Estimate | float | None
    outcomes: list[bool]
    """per question: right or not; empty where that has no meaning"""
    records: list[dict[str, Any]]
    """per question: what was asked and answered"""
    chance: float | None = None
    """headline of guessing, where that is known"""
    further: dict[str, Estimate | float | str] = field(default_factory=dict)
    """other numbers by name"""
    groups: dict[str, Estimate] = field(default_factory=dict)
    """the headline per subject or kind"""

    def summary(self) -> dict[str, Any]:
        """Everything but outcomes and records, for results.json."""
        return {
            "measure": self.measure, "headline": _plain(self.headline), "questions": len(self.records),
            "chance": self.chance, "further": {name: _plain(value) for name, value in self.further.items()},
            "groups": {name: _plain(value) for name, value in self.groups.items()},
        }  # fmt: skip


def _plain(value: Estimate | float | str | None) -> Any:
    """As JSON."""
    return {"value": value.value, "low": value.low, "high": value.high} if isinstance(value, Estimate) else value


def by_group(outcomes: Sequence[bool], names: Sequence[str]) -> dict[str, Estimate]:
    """The share of right answers in each group; nothing if there is one group only."""
    groups: dict[str, list[bool]] = {}
    for name, right in zip(names, outcomes, strict=True):
        groups.setdefault(name, []).append(right)
    return {name: share(groups[name]) for name in sorted(groups)} if len(groups) > 1 else {}


def write_result(folder: Path, result: SuiteResult, request: dict[str, Any]) -> None:
    """Write NAME.jsonl (a record per question, with its outcome) and then NAME.json, which says that it is finished."""
    with atomic_write(folder / f"{result.name}.jsonl", "w") as file:
        for number, record in enumerate(result.records):
            right = {"right": result.outcomes[number]} if result.outcomes else {}
            file.write(json.dumps({**record, **right}, ensure_ascii=False) + "\n")
    write_json(folder / f"{result.name}.json", {"request": request, **result.summary()})


def finished_result(folder: Path, name: str, request: dict[str, Any]) -> SuiteResult | None:
    """A result written before for the same request; None without one."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["request"] != json.loads(json.dumps(request)):
        return None
    outcomes, records = read_records(folder, name)
    return SuiteResult(
        name, stored["measure"], _estimate(stored["headline"]), outcomes, records, stored["chance"],
        {key: _estimate(value) for key, value in stored["further"].items()},
        {key: _estimate(value) for key, value in stored["groups"].items()},
    )  # fmt: skip


def _estimate(value: Any) -> Any:
    """The inverse of `_plain`."""
    return Estimate(**value) if isinstance(value, dict) else value


def read_records(folder: Path, name: str) -> tuple[list[bool], list[dict[str, Any]]]:
    """Outcomes and records of a written result."""
    records = [record for _, record in read_json_lines(folder / f"{name}.jsonl")]
    outcomes = [record.pop("right") for record in records if "right" in record]
    return outcomes, records


def compare_with(folder: Path, result: SuiteResult) -> PairedComparison | None:
    """The result against that of an earlier evaluation; None if that has no outcomes of this suite.

    Raises:
        ValueError: the earlier evaluation asked other questions.
    """
    if not (folder / f"{result.name}.json").is_file():
        return None
    outcomes, records = read_records(folder, result.name)
    if not outcomes or not result.outcomes:
        return None
    if [record.get("question") for record in records] != [record.get("question") for record in result.records]:
        raise ValueError(
            f"{folder} evaluated {result.name} on other questions; give both evaluations the same files, seed and limit"
        )
    return compare_paired(outcomes, result.outcomes)
