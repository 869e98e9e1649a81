"""The section of a report that sets a run against the truth about its input. Read next: `truth.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cs336_basics.runs.intervals import wilson_interval
from cs336_basics.runs.report import Block, KeyFigure, KeyFigures, Paragraph, Section, Table
from cs336_data.funnel import added
from cs336_data.synthetic_crawl.pages import ARTICLE, REFERENCE, UNREADABLE

_INTRODUCTION = """
The input is a synthetic crawl, of which every page is known. **Recall** is the share of the pages a step is there to
drop, and that reached it, which it dropped; **precision** the share of what it dropped that does not belong in the
result (reference pages, of which nobody can say, left out). The generated pages are easier to tell apart than those of
a real crawl.
"""


def truth_section(measured: Mapping[str, Any]) -> Section:
    """Tables of `measure_run`'s result."""
    blocks: list[Block] = [
        Paragraph(_INTRODUCTION), KeyFigures(truth_figures(measured)), _steps_table(measured), _fates_table(measured),
        _wanted_table(measured), _copies_table(measured), _details_table(measured),
    ]  # fmt: skip
    return Section("Measured against the truth", blocks)


def truth_figures(measured: Mapping[str, Any]) -> list[KeyFigure]:
    """The headline numbers."""
    kept = measured["kept_by_kind"]
    judged = sum(count for kind, count in kept.items() if kind not in REFERENCE)
    passed = measured["wanted"][ARTICLE]
    alike = [sum(row[key] for row in measured["copies"]) for key in ("alike", "alike_found")]
    contaminated = measured["contaminated"]
    figures = [
        KeyFigure("of what is kept, articles", _share(kept.get(ARTICLE, 0), judged)),
        KeyFigure("articles that pass all filters", _share(passed[1], passed[0])),
        KeyFigure("copies found (Jaccard at least 0.8)", _share(alike[1], alike[0])),
    ]
    if contaminated is not None:
        found = _share(contaminated["planted_dropped"], contaminated["planted"])
        figures.append(KeyFigure("contaminated pages found", found))
    return figures


def _steps_table(measured: Mapping[str, Any]) -> Table:
    rows = [
        [row["step"], row["aimed"], _interval(row["aimed_dropped"], row["aimed"]), row["dropped"],
         _interval(row["rightly_dropped"], row["dropped"])]
        for row in measured["steps"]
    ]  # fmt: skip
    headers = ["step", "aimed at", "recall", "dropped", "precision"]
    return Table(headers, rows, align="lrrrr", caption="Steps that judge single pages, with 95 % intervals.")


def _fates_table(measured: Mapping[str, Any]) -> Table:
    fates = measured["fates"]
    rows: list[list[Any]] = []
    for kind in [kind for kind in fates if kind not in UNREADABLE]:
        ends = sorted(fates[kind].items(), key=lambda pair: -pair[1])
        droppers = ", ".join(f"{step} {count}" for step, count in ends if step != "kept")
        rows.append([kind, sum(fates[kind].values()), fates[kind].get("kept", 0), droppers])
    damaged = added(fates[kind] for kind in fates if kind in UNREADABLE)
    if damaged:
        rows.append(["damaged", damaged.total(), damaged["kept"], f"read {damaged['read']}"])
    headers = ["kind of page", "pages", "kept", "dropped by"]
    return Table(headers, rows, align="lrrl", caption="Where pages of each kind ended.")


def _wanted_table(measured: Mapping[str, Any]) -> Table:
    rows = [[kind, total, _interval(passed, total)] for kind, (total, passed) in measured["wanted"].items()]
    return Table(["real pages", "pages", "pass all filters"], rows, align="lrr")


def _copies_table(measured: Mapping[str, Any]) -> Table:
    rows = [
        [f"{row['replaced']:.1%}", row["pairs"], row["jaccard"], row["alike"], _share(row["alike_found"], row["alike"]),
         row["unlike_dropped"]]
        for row in measured["copies"]
    ]  # fmt: skip
    headers = ["words replaced", "pairs", "mean Jaccard", "at least 0.8", "of these found", "below 0.8, dropped"]
    return Table(headers, rows, align="rrrrrr", caption="Planted copies of which both pages passed the filters.")


def _details_table(measured: Mapping[str, Any]) -> Table:
    rows: list[list[Any]] = [
        [f"letters of {row['charset']} declared {row['declared']}", row["pages"], _share(row["intact"], row["pages"])]
        for row in measured["markers"]
    ]
    for kind, (planted, right) in measured["personal"].items():
        rows.append([f"{kind} {'left alone' if kind == 'look-alikes' else 'masked'}", planted, _share(right, planted)])
    return Table(["planted in articles", "planted", "right"], rows, align="lrr", caption="Decoding and masking.")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _interval(part: int, whole: int) -> str:
    if not whole:
        return "-"
    low, high = wilson_interval(part, whole)
    return f"{part / whole:.1%} ({low:.0%} to {high:.0%})"
