"""Plots that every package's reports share: loss curves of one run or several, values as bars, ranks.

Each function returns a `matplotlib.figure.Figure` made without pyplot, so that nothing global is touched and no
display is needed. Colours are middle tones, legible on white and on dark paper; black and white turn with the page
(see `report_svg.py`).

Left out: scaling-law plots (`cs336_scaling/plots.py`). Read next: `intervals.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cs336_basics.runs.intervals import wilson_interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

COLOURS = ("#3b7dd8", "#e07b28", "#2f9e67", "#b05fc4", "#8a8f98")


def plot_loss_curves(
    records: Sequence[Mapping[str, Any]],
    *,
    floor: float | None = None,
    train_key: str = "train_loss",
    validation_key: str = "validation_loss",
    floor_label: str = "entropy floor",
) -> matplotlib.figure.Figure:
    """Training and validation loss over steps, with the best loss possible as a line where it is known.

    Args:
        records: a run's log (`RunDirectory.read_log`); records without "step" or without a loss are passed over.
        floor: the entropy of the source, in the losses' unit (nats per token).
        train_key: name of the training loss in the records.
        validation_key: name of the validation loss in the records.
        floor_label: what to call the line.

    Raises:
        ValueError: no record has either loss.
        ImportError: matplotlib is not installed.
    """
    figure, axes = _new_figure()
    curves = {key: _curve(records, key) for key in (train_key, validation_key)}
    if not any(curves.values()):
        raise ValueError(f"no record has 'step' and {train_key!r} or {validation_key!r}; keys seen: {_keys(records)}")
    if curves[train_key]:
        axes.plot(*zip(*curves[train_key], strict=True), color=COLOURS[0], linewidth=1.2, label="training")
    if curves[validation_key]:
        x, y = zip(*curves[validation_key], strict=True)
        axes.plot(x, y, color=COLOURS[1], linewidth=1.8, marker="o", markersize=4, label="validation")
    if floor is not None:
        axes.axhline(floor, color=COLOURS[2], linewidth=1.5, linestyle="--", label=f"{floor_label} {floor:.3f}")
        last = max(points[-1][1] for points in curves.values() if points)
        axes.set_ylim(0.9 * floor, max(3 * floor, 1.2 * last))  # the first steps fall from far above
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.legend(frameon=False)
    return figure


def plot_overlaid_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    xlabel: str,
    ylabel: str = "validation loss, nats per token",
    floor: float | None = None,
    floor_label: str = "entropy floor",
    top: float | None = None,
    logarithmic: bool = False,
) -> matplotlib.figure.Figure:
    """Several runs' curves in one picture, the first one thicker.

    Args:
        curves: label to points (x, y), in order of x; a label without points is left out.
        xlabel, ylabel: what the axes show.
        floor, floor_label: a line that no curve should cross, such as the entropy of the source, and its name.
        top: upper end of the vertical axis, so that a diverging run does not flatten the others.
        logarithmic: vertical axis in powers of ten.

    Raises:
        ValueError: no curve has a point.
        ImportError: matplotlib is not installed.
    """
    if not any(curves.values()):
        raise ValueError(f"no curve has a point; labels are {list(curves)}")
    figure, axes = _new_figure()
    from matplotlib.ticker import MaxNLocator

    for i, (label, points) in enumerate(curves.items()):
        if points:
            colour, dashes = COLOURS[i % len(COLOURS)], ("-", "--", ":")[i // len(COLOURS) % 3]
            axes.plot(*zip(*points, strict=True), color=colour, linestyle=dashes, linewidth=1.2 if i else 2.4,
                      marker="o", markersize=2.5, label=label)  # fmt: skip
    if floor is not None:
        axes.axhline(floor, color=COLOURS[-1], linewidth=1.5, linestyle="--", label=f"{floor_label} {floor:.3f}")
    if logarithmic:
        axes.set_yscale("log")
    if top is not None:
        shown = [y for points in curves.values() for _, y in points if y <= top]  # not what diverged
        lowest = min([*shown, top if floor is None else floor])
        axes.set_ylim(lowest - 0.05 * (top - lowest), top)
    if xlabel == "step":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, fontsize=8)
    return figure


def plot_bars(
    groups: Sequence[str],
    counts: Mapping[str, Sequence[tuple[int, int]]],
    *,
    chance: float | None = None,
    ylabel: str = "accuracy",
) -> matplotlib.figure.Figure:
    """Accuracies as grouped bars with 95 % Wilson intervals, such as before and after training on each task.

    Args:
        groups: what stands below the bars, one name per group ("addition", ...).
        counts: series name ("before", "after") to one (right answers, answers in all) per group.
        chance: accuracy of guessing, in [0, 1], drawn as a line.
        ylabel: name of the vertical axis.

    Raises:
        ValueError: a series has not one entry per group, or counts out of range.
        ImportError: matplotlib is not installed.
    """
    figure, axes = _new_figure()
    width = 0.8 / len(counts)
    for i, (name, pairs) in enumerate(counts.items()):
        if len(pairs) != len(groups):
            raise ValueError(f"series {name!r} has {len(pairs)} entries for {len(groups)} groups; give one per group")
        places = [group + (i - (len(counts) - 1) / 2) * width for group in range(len(groups))]
        shares = [right / total for right, total in pairs]
        limits = [wilson_interval(right, total) for right, total in pairs]
        below = [share - low for share, (low, _) in zip(shares, limits, strict=True)]
        above = [high - share for share, (_, high) in zip(shares, limits, strict=True)]
        axes.bar(places, shares, width * 0.92, color=COLOURS[i % len(COLOURS)], label=name)
        axes.errorbar(places, shares, yerr=[below, above], fmt="none", ecolor="black", elinewidth=1.2, capsize=4)
    if chance is not None:
        axes.axhline(chance, color=COLOURS[-1], linewidth=1.5, linestyle="--", label=f"chance {chance:.0%}")
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(0, 1.03)
    axes.set_ylabel(ylabel)
    figure.legend(frameon=False, loc="outside upper center", ncols=len(counts) + 1)
    return figure


def plot_values(
    groups: Sequence[str],
    values: Mapping[str, Sequence[float]],
    *,
    ylabel: str,
    xlabel: str = "",
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> matplotlib.figure.Figure:
    """Any values as grouped bars, with intervals where they are known.

    Args:
        groups: what stands below the bars, one name per group.
        values: series name to one value per group.
        ylabel: name of the vertical axis.
        xlabel: name of the horizontal axis.
        intervals: series name to one (low, high) per group.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _new_figure()
    width = 0.8 / len(values)
    for i, (name, heights) in enumerate(values.items()):
        places = [group + (i - (len(values) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, heights, width * 0.92, color=COLOURS[i % len(COLOURS)], label=name)
        limits = (intervals or {}).get(name)
        if limits is not None:
            below = [max(0.0, height - low) for height, (low, _) in zip(heights, limits, strict=True)]
            above = [max(0.0, high - height) for height, (_, high) in zip(heights, limits, strict=True)]
            axes.errorbar(places, heights, yerr=[below, above], fmt="none", ecolor="black", elinewidth=1, capsize=2)
    axes.set_xticks(range(len(groups)), groups, rotation=45 if len(groups) > 8 else 0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    figure.legend(frameon=False, loc="outside upper center", ncols=len(values))
    return figure


def plot_ranked(counts: Sequence[int], *, threshold: int, ylabel: str) -> matplotlib.figure.Figure:
    """Counts from the largest to the smallest on logarithmic axes, with a threshold as a line (Zipf's plot).

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _new_figure()
    ranked = sorted((count for count in counts if count > 0), reverse=True)
    axes.plot(range(1, len(ranked) + 1), ranked, color=COLOURS[0], linewidth=1.6)
    axes.axhline(threshold, color=COLOURS[1], linewidth=1.5, linestyle="--", label=f"threshold {threshold}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rank")
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False)
    return figure


def _new_figure() -> tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]:
    """An empty figure in the house's look."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib; install it with: pip install matplotlib") from error
    figure = Figure(figsize=(6.0, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#8a8f98", alpha=0.3, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _curve(records: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, loss) of the records that have both."""
    return [(r["step"], r[key]) for r in records if r.get("step") is not None and r.get(key) is not None]


def _keys(records: Sequence[Mapping[str, Any]]) -> str:
    """The names the records use, for an error message."""
    return ", ".join(sorted({key for record in records for key in record})) or "none"
