"""The evaluation of one model as a page: headline numbers, a plot, a section per test, samples of what it wrote.

Read next: `cs336_basics/runs/report.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cs336_alignment.evaluation.generation import Estimate
from cs336_alignment.evaluation.results import SuiteResult
from cs336_alignment.statistics import PairedComparison
from cs336_basics.runs.plots import plot_values
from cs336_basics.runs.report import (
    Block,
    KeyFigure,
    KeyFigures,
    Paragraph,
    Picture,
    Preformatted,
    Report,
    Section,
    Table,
)

_SAMPLES = 3
_INTERVALS = "Intervals are 95 %: Wilson's for one answer per question, else from drawing questions again."


def evaluation_report(
    model: str, results: Sequence[SuiteResult], comparisons: Mapping[str, PairedComparison], compared: str = ""
) -> Report:
    """Build the page.

    Args:
        model: name of what was evaluated.
        results: one per test.
        comparisons: by test, against an earlier evaluation.
        compared: name of the earlier evaluation.
    """
    report = Report(f"Evaluation of {model}")
    figures = [_key_figure(result) for result in results]
    report.add(KeyFigures(figures), Paragraph(_INTERVALS))
    shares = [r for r in results if isinstance(r.headline, Estimate)]
    if shares:
        report.add(_headlines(shares))
    if comparisons:
        report.add(_paired(comparisons, compared))
    for result in results:
        report.add(_section(result))
    return report


def _key_figure(result: SuiteResult) -> KeyFigure:
    """The headline, its interval in the label."""
    value, label = result.headline, f"{result.name}: {result.measure}"
    if not isinstance(value, Estimate):
        return KeyFigure(label, shown(value))
    return KeyFigure(f"{label}, {value.low:.1%} to {value.high:.1%}", f"{value.value:.1%}")


def shown(value: Estimate | float | str | None) -> str:
    """A number for people."""
    if isinstance(value, Estimate):
        return f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"
    return "-" if value is None else value if isinstance(value, str) else f"{value:,.4g}"


def _headlines(results: Sequence[SuiteResult]) -> Picture:
    """All headline shares beside chance."""
    names = [result.name for result in results]
    found = [result.headline for result in results if isinstance(result.headline, Estimate)]
    values = {"model": [estimate.value for estimate in found]}
    intervals = {"model": [(estimate.low, estimate.high) for estimate in found]}
    if any(result.chance for result in results):
        values["chance"] = [result.chance or 0.0 for result in results]
    figure = plot_values(names, values, ylabel="share", intervals=intervals)
    alt = "; ".join(f"{name} {estimate}" for name, estimate in zip(names, found, strict=True))
    return Picture(figure, "headlines", alt, "Headline of each test with its 95 % interval.")


def _paired(comparisons: Mapping[str, PairedComparison], compared: str) -> Section:
    """Against an earlier evaluation, question by question."""
    rows = [
        [name, c.gained, c.lost, f"{c.z:+.2f}", f"{c.p_value:.2g}",
         "better" if c.p_value < 0.05 and c.z > 0 else "worse" if c.p_value < 0.05 else "no clear difference"]
        for name, c in comparisons.items()
    ]  # fmt: skip
    headers = ["test", "now right", "no longer right", "z", "p (McNemar, exact)", "verdict"]
    return Section(f"Compared with {compared}").add(
        Table(headers, rows),
        Paragraph("Only questions on which the two differ count. With several tests, some p below 0.05 come by luck."),
    )


def _section(result: SuiteResult) -> Section:
    """One test."""
    rows: list[list[str | None]] = [[result.measure, shown(result.headline)]]
    if result.chance is not None:
        rows.append(["chance", shown(result.chance)])
    rows += [[name, shown(value)] for name, value in result.further.items()]
    blocks: list[Block] = [Table(["measure", "value"], rows, caption=f"{len(result.records):,} questions")]
    if result.groups:
        groups = [[name, shown(estimate)] for name, estimate in result.groups.items()]
        blocks.append(Table(["group", "share"], groups))
    for record in result.records[:_SAMPLES]:
        text = "\n".join(
            f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
            for key, value in record.items()
        )
        blocks.append(Preformatted(text if len(text) < 2000 else text[:2000] + " ..."))
    return Section(result.name, blocks)


def compare_table(results: Sequence[SuiteResult]) -> dict[str, str]:
    """Name and headline of each test, for the terminal."""
    return {f"{result.name}, {result.measure}": shown(result.headline) for result in results}


def model_name(folder: Path) -> str:
    """How to call the model in a report: its folder and the one above."""
    return "/".join(folder.resolve().parts[-2:])
