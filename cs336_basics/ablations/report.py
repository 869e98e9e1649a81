"""What the ablations' report says: per question a table, losses by step and by the clock, and all variants in the end.

Everything comes from the results that the stages have written. Read next: `../runs/report.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cs336_basics.ablations.catalogue import BASELINE, BY_NAME
from cs336_basics.ablations.experiment import Summary, summarize
from cs336_basics.runs.plots import plot_overlaid_curves
from cs336_basics.runs.report import Block, Cell, KeyFigure, KeyFigures, Paragraph, Picture, Section, Table

if TYPE_CHECKING:
    from cs336_basics.ablations.stages import AblationConfig

Result = dict[str, Any]
HEADERS = ("run", "weights", "validation loss", "above floor", "to baseline", "tokens", "seconds")


def introduction(config: AblationConfig) -> str:
    """What was done, in words."""
    model, train = config.train.model, config.train
    seeds = "one seed" if config.seeds == 1 else f"{config.seeds} seeds, mean and standard deviation of which are given"
    return (
        f"Every run differs from the baseline in one thing. Baseline: num_layers {model.num_layers}, d_model "
        f"{model.d_model}, num_heads {model.num_heads}, d_ff {model.d_ff}, context_length {model.context_length}; "
        f"{train.num_steps} steps of batch {train.batch_size}, {train.optimizer.name} at learning rate "
        f"{train.optimizer.max_learning_rate:g}; {seeds}. Losses are nats per token on the whole validation text. "
        "Seconds are those of training steps alone, on this machine, as it was busy at the time. A model this small, "
        "trained this briefly, shows the direction of large effects; differences of one percent need more seeds."
    )


def section(name: str, baseline: Sequence[Result], results: Sequence[Result]) -> Section:
    """The report of one stage, from its results and the baseline's."""
    if name == BASELINE:
        return Section("The baseline", [_table(baseline, baseline), *_curves(name, baseline)])
    ablation, shown = BY_NAME[name], [*baseline, *results]
    blocks: list[Block] = [Paragraph(ablation.explanation), _table(shown, baseline)]
    blocks += [Paragraph(text) for text in (_verdict(baseline, results), _divergences(results)) if text]
    blocks += _curves(name, shown)
    if name == "norm":
        blocks.append(_gradient_norms(shown))
    return Section(ablation.title, blocks)


def _table(shown: Sequence[Result], baseline: Sequence[Result]) -> Table:
    """One row per variant."""
    rows = [_row(_summary(result, baseline)) for result in shown]
    changes = [f"{r['label']}: {_settings(r['changes'])}" for r in shown if r["changes"]]
    return Table(HEADERS, rows, align="lrrrrrr", caption="; ".join(changes))


def _summary(result: Result, baseline: Sequence[Result]) -> Summary:
    return summarize(result["label"], result["outcomes"], baseline[0]["outcomes"])


def _row(summary: Summary) -> list[Cell]:
    """The cells of a table's row."""
    if summary.loss is None:
        loss = f"diverged at step {summary.diverged_at:,}"
    else:
        loss = f"{summary.loss:.4f}" + (f" +- {summary.spread:.4f}" if summary.spread is not None else "")
    return [
        summary.label, f"{summary.parameters:,}", loss,
        None if summary.above_floor is None else f"{summary.above_floor:.1%}",
        None if summary.difference is None else f"{summary.difference:+.4f}",
        f"{summary.tokens:,}", f"{summary.seconds:.1f}",
    ]  # fmt: skip


def _settings(changes: dict[str, Any]) -> str:
    """Changed settings in a caption; those that only follow from another are left out."""
    follow = {"log_every", "eval_every", "checkpoint_every"}
    return ", ".join(f"{name.split('.')[-1]} {value}" for name, value in changes.items() if name not in follow)


def _verdict(baseline: Sequence[Result], results: Sequence[Result]) -> str:
    """The best run, computed."""
    summaries = [_summary(result, baseline) for result in (*baseline, *results)]
    finished = [summary for summary in summaries if summary.loss is not None]
    if len(finished) < 2:
        return ""
    ranked = sorted(finished, key=lambda summary: summary.loss or 0.0)
    order = ", ".join(f"{summary.label} ({summary.loss:.4f})" for summary in ranked)
    return f"In this experiment, best first: {order}."


def _divergences(results: Sequence[Result]) -> str:
    """Which runs diverged, where, and where they stood before."""
    told = []
    for result in results:
        for outcome in result["outcomes"]:
            if outcome["diverged_at"] is not None:
                losses = [record["train_loss"] for record in outcome["log"]]
                lowest = f"; the lowest training loss it had logged was {min(losses):.3f}" if losses else ""
                end = "" if outcome["validation_loss"] is None else f"; it ended at {outcome['validation_loss']:.1f}"
                told.append(f"**{result['label']}** diverged at step {outcome['diverged_at']:,}{lowest}{end}.")
    return " ".join(told)


def _curves(name: str, shown: Sequence[Result]) -> list[Block]:
    """Validation loss of the first seed by step (by tokens where batches differ) and by the clock."""
    floor = shown[0]["outcomes"][0]["entropy_floor"]
    first = next((p["validation_loss"] for p in _log(shown[0]) if "validation_loss" in p), math.inf)
    top = 1.2 * first if math.isfinite(first) else None  # worse curves may leave the picture, the table has them
    blocks: list[Block] = []
    by_progress = ("tokens", "tokens read", "tokens") if name == "batch_size" else ("step", "step", "step")
    for key, xlabel, title in (by_progress, ("seconds", "seconds of training", "clock")):
        curves = {
            r["label"]: [(p[key], p["validation_loss"]) for p in _log(r) if "validation_loss" in p] for r in shown
        }
        if any(curves.values()):
            figure = plot_overlaid_curves(curves, xlabel=xlabel, floor=floor, top=top)
            alt = f"Validation loss by {xlabel}: " + "; ".join(
                f"{label} ends at {points[-1][1]:.3f}" for label, points in curves.items() if points
            )
            blocks.append(Picture(figure, f"{name.replace('_', '-')}-by-{title}", alt))
    return blocks


def _gradient_norms(shown: Sequence[Result]) -> Picture:
    """Norm of the gradient before clipping, by step."""
    curves = {r["label"]: [(p["step"], p["grad_norm"]) for p in _log(r) if p["grad_norm"] > 0] for r in shown}
    figure = plot_overlaid_curves(curves, xlabel="step", ylabel="gradient norm before clipping", logarithmic=True)
    alt = "Gradient norm by step: " + "; ".join(
        f"{label} at most {max(norm for _, norm in points):.3g}" for label, points in curves.items() if points
    )
    return Picture(figure, "norm-gradients", alt)


def _log(result: Result) -> list[dict[str, Any]]:
    """The log of a variant's first seed."""
    return result["outcomes"][0]["log"]


def overview(results: dict[str, Any]) -> Section:
    """All variants, best first, those that diverged at the end."""
    summaries = [Summary(**row) for row in results["variants"]]
    finished = sorted((s for s in summaries if s.loss is not None), key=lambda s: s.loss or 0.0)
    diverged = [s for s in summaries if s.loss is None]
    floor, base = results["entropy_floor"], summaries[0]
    figures = [KeyFigure("variants", str(len(summaries))), KeyFigure("diverged", str(len(diverged)))]
    if base.loss is not None:
        figures.append(KeyFigure("baseline's loss", f"{base.loss:.4f}"))
    if floor is not None:
        figures.append(KeyFigure("entropy floor", f"{floor:.4f}"))
    if finished:
        figures.append(KeyFigure("best", f"{finished[0].loss:.4f} ({finished[0].label})"))
    rows = [_row(summary) for summary in (*finished, *diverged)]
    return Section("All runs side by side", [KeyFigures(figures), Table(HEADERS, rows, align="lrrrrrr")])
