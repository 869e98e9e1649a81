"""A report on one table of runs: all methods beside each other, their plots, intervals and warnings.

Read next: `cli.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cs336_basics.runs.report import Block, Paragraph, Picture, Report, Section, Table, write_report
from cs336_scaling.bootstrap import Interval
from cs336_scaling.isoflops import METHODS, fit_isoflops
from cs336_scaling.isoflops_intervals import IsoflopsBootstrap, bootstrap_isoflops
from cs336_scaling.parametric import fit_parametric_robust
from cs336_scaling.parametric_intervals import ParametricBootstrap, bootstrap_parametric
from cs336_scaling.plots import (
    plot_contours,
    plot_frontier,
    plot_intervals,
    plot_predicted_against_real,
    plot_profiles,
)
from cs336_scaling.prediction import held_out_error
from cs336_scaling.runs_table import RunTable


@dataclass(frozen=True)
class Fits:
    """All methods on one table; a method that the runs do not allow has its reason instead."""

    runs: RunTable
    profiles: dict[str, IsoflopsBootstrap]
    parametric: ParametricBootstrap
    refused: dict[str, str]


def fit_all(runs: RunTable, *, num_resamples: int = 300, seed: int = 0) -> Fits:
    """Every method with its resamples.

    Raises:
        ValueError: the parametric fit is not possible.
    """
    profiles: dict[str, IsoflopsBootstrap] = {}
    refused: dict[str, str] = {}
    for method in METHODS:
        try:
            fit = fit_isoflops(runs, method)
            profiles[method] = bootstrap_isoflops(runs, fit, num_resamples=num_resamples, seed=seed)
            profiles[method].exponents()
        except ValueError as reason:
            profiles.pop(method, None)
            refused[method] = str(reason)
    parametric = bootstrap_parametric(runs, fit_parametric_robust(runs), num_resamples=num_resamples, seed=seed)
    return Fits(runs, profiles, parametric, refused)


def exponent_intervals(fits: Fits, confidence: float = 0.9) -> dict[str, Interval]:
    """a of N proportional to C^a by method."""
    found = {name: resampled.exponents(confidence)["a"] for name, resampled in fits.profiles.items()}
    return found | {"parametric": fits.parametric.parameters(confidence)["a"]}


def warnings_of(fits: Fits, confidence: float = 0.9) -> list[str]:
    """All warnings, each once, with the methods that were refused."""
    found = [warning for resampled in fits.profiles.values() for warning in resampled.fit.warnings]
    found += fits.parametric.warnings(confidence)
    return list(dict.fromkeys(found)) + [f"{method} refused: {reason}" for method, reason in fits.refused.items()]


def write_fit_report(
    tables: Mapping[str, Fits], directory: Path, *, targets: tuple[float, ...], confidence: float = 0.9
) -> Path:
    """Write report.html and report.md on the fits under each counting rule; returns the HTML file."""
    report = Report("Scaling laws")
    for rule, fits in tables.items():
        report.add(_section(rule, fits, targets, confidence))
    return write_report(report, directory)[0]


def _section(rule: str, fits: Fits, targets: tuple[float, ...], confidence: float) -> Section:
    law, slug = fits.parametric.fit.law, rule.replace(" ", "-").replace("_", "-")
    blocks: list[Block] = [
        Paragraph(
            f"{len(fits.runs)} runs, budgets {fits.runs.budgets.min():.3g} to {fits.runs.budgets.max():.3g} FLOPs. "
            f"L = {law.E:.4g} + {law.A:.4g} / N^{law.alpha:.4g} + {law.B:.4g} / D^{law.beta:.4g}. Intervals hold the "
            f"truth {confidence:.0%} of the time if the law is right."
        ),
        _targets_table(fits, targets, confidence),
        Table(["number", "value", "low", "high"], [
            [name, i.value, i.low, i.high] for name, i in fits.parametric.parameters(confidence).items()
        ]),
    ]  # fmt: skip
    warnings = warnings_of(fits, confidence)
    if warnings:
        blocks.append(Paragraph("Warnings:\n\n" + "\n".join(f"- {warning}" for warning in warnings)))
    for method in ("parabola", "lowest"):
        if method in fits.profiles:
            resampled = fits.profiles[method]
            blocks.append(Picture(plot_profiles(fits.runs, resampled.fit), f"profiles-{slug}", "Loss over size"))
            until = max((*targets, float(fits.runs.budgets.max())))
            frontier = plot_frontier(resampled, until, confidence=confidence)
            blocks.append(Picture(frontier, f"frontier-{slug}", "Best parameters and tokens over FLOPs"))
            break
    exponents = plot_intervals(exponent_intervals(fits, confidence), xlabel="a of N = k C^a")
    blocks.append(Picture(plot_contours(fits.runs, law), f"contours-{slug}", "Lines of equal loss"))
    blocks.append(Picture(exponents, f"exponents-{slug}", "Exponent by method with intervals"))
    blocks += _held_out(fits.runs, slug)
    return Section(f"Parameters counted as {rule}", blocks)


def _targets_table(fits: Fits, targets: tuple[float, ...], confidence: float) -> Table:
    """N and D at the targets by method, and the loss by the parametric one."""
    rows: list[list[str | float | None]] = []
    for flops in targets:
        for method, resampled in fits.profiles.items():
            size, tokens = resampled.optimum(flops, confidence)
            rows.append([f"{flops:.3g}", method, str(size), str(tokens), None])
        sized = fits.parametric.fit.law.allocation(flops)
        loss = fits.parametric.loss(float(sized[0]), float(sized[1]), confidence)
        columns = [
            str(fits.parametric.interval(lambda law, i=i, flops=flops: float(law.allocation(flops)[i]), confidence))  # type: ignore[misc]
            for i in (0, 1)
        ]
        rows.append([f"{flops:.3g}", "parametric", *columns, str(loss)])
    return Table(["FLOPs", "method", "parameters", "tokens", "loss"], rows)


def _held_out(runs: RunTable, slug: str) -> list[Block]:
    """The largest budget predicted from the others, where there are enough."""
    try:
        held = held_out_error(runs)
    except ValueError as reason:
        return [Paragraph(f"The largest budget was not held out: {reason}.")]
    real = runs[runs.budget == held.budget].loss
    text = (
        f"Fitted without the largest budget ({held.budget:.3g}), the law predicts its runs with errors up to "
        f"{float(np.abs(held.errors).max()):.2%}; {held.inside:.0%} of them lie inside their intervals."
    )
    figure = plot_predicted_against_real(held.predicted, real.tolist(), label="held out")
    return [Paragraph(text), Picture(figure, f"held-out-{slug}", "Predicted over real loss of the largest budget")]
