"""Plots of scaling laws: profiles, frontier, contours, intervals, predicted against real.

Each returns a `matplotlib.figure.Figure` made without pyplot, in the style of `cs336_basics/runs/plots.py`, to be put
into a report. Read next: `report.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cs336_basics.runs.plots import COLOURS
from cs336_scaling.bootstrap import Interval
from cs336_scaling.isoflops import IsoflopsFit
from cs336_scaling.isoflops_intervals import IsoflopsBootstrap
from cs336_scaling.parametric_law import ParametricLaw
from cs336_scaling.runs_table import RunTable

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


def plot_profiles(runs: RunTable, fit: IsoflopsFit) -> matplotlib.figure.Figure:
    """Loss over size, one curve per budget, with the parabola and the best size of each."""
    figure, axes = _new_figure()
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0.25, 0.8, len(fit.optima)))
    for optimum, colour in zip(fit.optima, colours, strict=True):
        profile = runs[runs.budget == optimum.budget]
        order = np.argsort(profile.parameters)
        axes.plot(profile.parameters[order], profile.loss[order], "o", color=colour, markersize=3)
        sizes = np.log(profile.parameters)
        if fit.method != "lowest" and len(np.unique(sizes)) > 2:
            curve = np.polyfit(sizes, profile.loss, 2)
            grid = np.linspace(sizes.min(), sizes.max(), 100)
            axes.plot(np.exp(grid), np.polyval(curve, grid), color=colour, linewidth=1, label=f"{optimum.budget:.0e}")
        else:
            mean = {size: profile.loss[profile.parameters == size].mean() for size in profile.parameters[order]}
            axes.plot(*zip(*mean.items(), strict=True), color=colour, linewidth=1, label=f"{optimum.budget:.0e}")
        axes.plot(optimum.parameters, optimum.loss, marker="*", color=colour, markersize=9)
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("loss, nats per token")
    axes.legend(frameon=False, fontsize=7, title="FLOPs", title_fontsize=7)
    return figure


def plot_frontier(resampled: IsoflopsBootstrap, until: float, *, confidence: float = 0.9) -> matplotlib.figure.Figure:
    """Best parameters and tokens over FLOPs up to `until`: points, laws and bands."""
    fit = resampled.fit
    budgets = np.array([optimum.budget for optimum in fit.optima])
    grid = np.geomspace(budgets.min(), max(until, budgets.max()), 60)
    figure, axes = _new_figure()
    columns = (("parameters", fit.parameters), ("tokens", fit.tokens))
    bands = zip(*(resampled.optimum(float(flops), confidence) for flops in grid), strict=True)
    for colour, (name, law), band in zip(COLOURS, columns, bands, strict=False):
        points = [getattr(optimum, name) for optimum in fit.optima]
        axes.plot(budgets, points, "o", color=colour, markersize=4)
        axes.plot(grid, law(grid), color=colour, label=f"{name}: {law.k:.3g} C^{law.a:.3f}")
        axes.fill_between(grid, [b.low for b in band], [b.high for b in band], color=colour, alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training FLOPs")
    axes.legend(frameon=False, loc="upper left")
    return figure


def plot_contours(runs: RunTable, law: ParametricLaw) -> matplotlib.figure.Figure:
    """Lines of equal loss over parameters and tokens, the runs, and the path of best sizes."""
    figure, axes = _new_figure()
    sizes, tokens = (np.geomspace(values.min() / 2, values.max() * 2, 120) for values in (runs.parameters, runs.tokens))
    surface = law.loss(sizes[None, :], tokens[:, None])
    levels = np.quantile(surface, np.linspace(0.02, 0.9, 10))
    lines = axes.contour(sizes, tokens, surface, levels=np.unique(levels), cmap="viridis", linewidths=1)
    axes.clabel(lines, fontsize=7, fmt="%.2f")
    axes.plot(runs.parameters, runs.tokens, "o", color=COLOURS[0], markersize=2.5, label="runs")
    best = law.allocation(np.geomspace(6 * sizes[0] * tokens[0], 6 * sizes[-1] * tokens[-1], 60))
    axes.plot(*best, color=COLOURS[1], label="best size")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(sizes[0], sizes[-1])
    axes.set_ylim(tokens[0], tokens[-1])
    axes.set_xlabel("parameters")
    axes.set_ylabel("tokens")
    axes.legend(frameon=False, loc="upper left")
    return figure


def plot_intervals(
    intervals: Mapping[str, Interval], *, xlabel: str, truth: float | None = None
) -> matplotlib.figure.Figure:
    """One number as several methods see it, each with its interval; the truth as a line where it is known."""
    figure, axes = _new_figure()
    names = list(intervals)
    for row, name in enumerate(names):
        interval = intervals[name]
        axes.plot([interval.low, interval.high], [row, row], color=COLOURS[0], linewidth=2)
        axes.plot(interval.value, row, "o", color=COLOURS[1], markersize=5)
    if truth is not None:
        axes.axvline(truth, color=COLOURS[2], linestyle="--", linewidth=1.2, label="truth")
        axes.legend(frameon=False, loc="lower right")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    return figure


def plot_predicted_against_real(
    predicted: Sequence[Interval], real: Sequence[float], *, label: str = "runs"
) -> matplotlib.figure.Figure:
    """Predicted loss with its interval over real loss; on the diagonal, the two agree."""
    if len(predicted) != len(real) or not real:
        raise ValueError(f"need as many predictions as losses, at least one; got {len(predicted)} and {len(real)}")
    figure, axes = _new_figure()
    values = [interval.value for interval in predicted]
    errors = np.array([[i.value - i.low, i.high - i.value] for i in predicted]).clip(min=0).T
    axes.errorbar(real, values, yerr=errors, fmt="o", color=COLOURS[0], markersize=3, elinewidth=1, label=label)
    ends = [min(*real, *(i.low for i in predicted)), max(*real, *(i.high for i in predicted))]
    axes.plot(ends, ends, color=COLOURS[-1], linestyle="--", linewidth=1)
    axes.set_xlabel("real loss")
    axes.set_ylabel("predicted loss")
    axes.legend(frameon=False, loc="upper left")
    return figure


def _new_figure() -> tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]:
    """An empty figure in the house's look."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib; install it with: pip install matplotlib") from error
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#8a8f98", alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes
