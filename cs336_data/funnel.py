"""The funnel: how many documents each step got, dropped and passed on, summed over all files.

Every record of the input is in it once: handed out by the reader or counted under one of its reasons, kept or dropped
by exactly one step (the first that objects). Read next: `report.py`, which draws it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FunnelRow:
    """A step's documents in and out, and the reasons of those between."""

    step: str
    came: int
    left: int
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Documents the step took out."""
        return self.came - self.left


def build_funnel(manifests: Sequence[Mapping[str, Any]], corpus: Sequence[Mapping[str, Any]]) -> list[FunnelRow]:
    """Rows for reading, extraction, every step and every corpus step, in order.

    Args:
        manifests: of the files that could be read.
        corpus: records of `run_corpus_steps`.
    """
    reader = added(manifest["reader"] for manifest in manifests)
    reader.pop("other_kind", None)  # requests and metadata: no pages
    handed_out = sum(manifest["funnel"]["extract"].get("in", 0) for manifest in manifests)
    damaged = {reason: count for reason, count in sorted(reader.items()) if reason != "records"}
    rows = [FunnelRow("read", handed_out + sum(damaged.values()), handed_out, damaged)]
    steps: dict[str, Counter[str]] = {}
    for manifest in manifests:
        for step, counts in manifest["funnel"].items():
            steps.setdefault(step, Counter()).update(counts)
    for step, counts in steps.items():
        reasons = {reason: n for reason, n in sorted(counts.items()) if reason not in ("in", "out")}
        rows.append(FunnelRow(step, counts["in"], counts["out"], reasons))
    for record in corpus:
        rows.append(FunnelRow(record["step"], record["in"], record["out"]))
    return rows


def added(counts: Any) -> Counter[str]:
    """The sum of counters given as dictionaries."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return total


def summed_histograms(manifests: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Score name -> documents per bin, over all files."""
    total: dict[str, list[int]] = {}
    for manifest in manifests:
        for score, bins in manifest["histograms"].items():
            former = total.get(score, [0] * len(bins))
            total[score] = [a + b for a, b in zip(former, bins, strict=True)]
    return dict(sorted(total.items()))


def threshold_sweep(bins: Sequence[int]) -> list[tuple[float, float]]:
    """(threshold, share of documents with at least that score), from 0 to 1."""
    total, left, points = sum(bins), sum(bins), []
    for i, count in enumerate([*bins, 0]):
        points.append((i / len(bins), left / total if total else 0.0))
        left -= count
    return points
