"""The verbs `cs336 scaling fit | predict | plan | plot | size | sweep | solve`. Read next: `report.py`, `sweep.py`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cs336_basics.runs.command_line import parse, print_result
from cs336_scaling.sizing import Rates

if TYPE_CHECKING:
    from cs336_scaling.bootstrap import Interval
    from cs336_scaling.parametric_intervals import ParametricBootstrap
    from cs336_scaling.runs_table import RunTable

Switch = tyro.conf.FlagCreatePairsOff[bool]
Runs = Annotated[Path | None, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class _Bootstrapped:
    """What the fitting commands share."""

    corpus: str = "stories"
    """which corpus of a bank"""
    confidence: float = 0.9
    """of the intervals, in (0, 1)"""
    resamples: int = 300
    """of the bootstrap"""
    seed: int = 0
    """of the bootstrap"""
    json: Switch = False
    """print the result as JSON"""


@dataclass(frozen=True)
class Fit(_Bootstrapped):
    """Fit all laws to finished runs, under each parameter-counting rule, with intervals and warnings."""

    runs: Runs = None
    """runs in the handout's format or a bank; the shipped IsoFLOP table by default"""


def fit(argv: list[str]) -> None:
    """`cs336 scaling fit`."""
    o = parse(Fit, argv, "scaling fit", example="scaling fit runs/sweep/bank.jsonl --corpus stories")
    from cs336_scaling.bank import load_tables
    from cs336_scaling.report import exponent_intervals, fit_all, warnings_of

    values: dict[str, Any] = {}
    for rule, table in load_tables(o.runs, corpus=o.corpus).items():
        fits = fit_all(table, num_resamples=o.resamples, seed=o.seed)
        values[rule] = {
            "runs": len(table),
            "exponent": {method: _interval(i) for method, i in exponent_intervals(fits, o.confidence).items()},
            "law": {name: _interval(i) for name, i in fits.parametric.parameters(o.confidence).items()},
            "typical residual": _typical(fits.parametric),
            "warnings": warnings_of(fits, o.confidence),
        }
    _print(values, as_json=o.json)


@dataclass(frozen=True)
class Predict(_Bootstrapped):
    """Predict the best size, tokens and loss for a budget, under each parameter-counting rule."""

    flops: tyro.conf.Positional[float]
    """training FLOPs of the target, 6 N D"""
    runs: Runs = None
    """runs in the handout's format or a bank; the shipped IsoFLOP table by default"""
    window: Switch = False
    """fit only the budgets from which on the law best predicts the largest: for runs before a bend of the curve"""


def predict(argv: list[str]) -> None:
    """`cs336 scaling predict`."""
    o = parse(Predict, argv, "scaling predict", example="scaling predict 1e23")
    from cs336_scaling.bank import load_tables
    from cs336_scaling.prediction import held_out_error, law_window, predict

    values: dict[str, Any] = {}
    for rule, every in load_tables(o.runs, corpus=o.corpus).items():
        table = law_window(every) if o.window else every
        found = predict(_fitted(table, o.resamples, o.seed), table, o.flops, confidence=o.confidence)
        values[rule] = {
            "parameters": _interval(found.parameters), "tokens": _interval(found.tokens),
            "loss": _interval(found.loss), "fitted from": f"{table.budgets[0]:.3g} FLOPs", "warnings": list(found.warnings),
        }  # fmt: skip
        try:
            held = held_out_error(table, seed=o.seed, confidence=o.confidence)
            values[rule]["held-out budget"] = (
                f"{held.budget:.3g}: errors up to {abs(held.errors).max():.2%}, {held.inside:.0%} inside"
            )
            values[rule]["loss, if the law is as wrong again per step"] = _interval(held.widen(found.loss, o.flops))
        except ValueError as reason:
            values[rule]["held-out budget"] = f"none: {reason}"
    _print(values, as_json=o.json)


@dataclass(frozen=True)
class PlanRuns:
    """Which runs to buy next: those that narrow the prediction of the target's loss most, within a budget."""

    budget: tyro.conf.Positional[float]
    """FLOPs to spend"""
    target: tyro.conf.Positional[float]
    """FLOPs of the run to predict"""
    runs: Runs = None
    """runs done so far, in the handout's format or a bank; without them, published laws stand in"""
    corpus: str = "stories"
    """which corpus of a bank"""
    rule: str = "non_embedding"
    """how parameters are counted (a bank knows non_embedding, with_head and total)"""
    smallest: float | None = None
    """FLOPs of the cheapest run to consider; a ten-thousandth of the budget by default"""
    largest: float | None = None
    """FLOPs of the dearest; a third of the budget by default"""
    noise: float | None = None
    """standard deviation of ln loss between seeds; that of the fit by default, 0.005 without runs"""
    max_runs: int = 40
    """at most so many"""
    json: Switch = False
    """print the result as JSON"""


def plan(argv: list[str]) -> None:
    """`cs336 scaling plan`."""
    o = parse(PlanRuns, argv, "scaling plan", example="scaling plan 2e18 1e19")
    import numpy as np

    from cs336_scaling.bank import load_tables
    from cs336_scaling.design import candidate_runs, plan_runs
    from cs336_scaling.parametric_law import PUBLISHED

    laws, done, noise = list(PUBLISHED.values()), [], o.noise or 0.005
    if o.runs is not None:
        tables = load_tables(o.runs, corpus=o.corpus)
        table = tables.get(o.rule) or tables.get("as given")
        if table is None:
            raise ValueError(f"rule must be one of {', '.join(tables)}; got {o.rule!r}")
        resampled = _fitted(table, 30, 0)
        laws = list(resampled.laws)
        done = list(zip(table.parameters.tolist(), table.tokens.tolist(), strict=True))
        noise = o.noise or max(1e-4, _typical(resampled))
    budgets = np.geomspace(o.smallest or o.budget / 1e4, o.largest or o.budget / 3, 7)
    candidates = candidate_runs(laws[0], budgets.tolist())
    found = plan_runs(
        laws, candidates, budget=o.budget, target=o.target, noise=noise, done=done, max_runs=o.max_runs
    )  # fmt: skip
    buy = [
        f"N {p.parameters:.3g}, D {p.tokens:.3g}, C {p.flops:.3g}: loss within {p.half_width:.2%} afterwards"
        for p in found.purchases
    ]
    values = {
        "buy": [asdict(p) for p in found.purchases] if o.json else buy, "spent": found.spent,
        "half width of the target's loss before": f"{found.half_width_before:.2%}",
        "half width of the target's loss after": f"{found.half_width_after:.2%}",
        "noise assumed": noise,
    }  # fmt: skip
    _print({"plan": values}, as_json=o.json)


@dataclass(frozen=True)
class Plot(_Bootstrapped):
    """Write a report with profiles, frontier, contours, intervals and the largest budget held out."""

    runs: Runs = None
    """runs in the handout's format or a bank; the shipped IsoFLOP table by default"""
    out: Path = Path("runs/scaling-report")
    """folder of the report"""
    targets: tuple[float, ...] = (1e23, 1e24)
    """FLOPs to predict"""


def plot(argv: list[str]) -> None:
    """`cs336 scaling plot`."""
    o = parse(Plot, argv, "scaling plot", example="scaling plot runs/sweep/bank.jsonl --targets 1e13")
    from cs336_scaling.bank import load_tables
    from cs336_scaling.report import fit_all, write_fit_report

    tables = load_tables(o.runs, corpus=o.corpus)
    fits = {rule: fit_all(table, num_resamples=o.resamples, seed=o.seed) for rule, table in tables.items()}
    page = write_fit_report(fits, o.out, targets=o.targets, confidence=o.confidence)
    print_result({"report": str(page)}, as_json=o.json)


@dataclass(frozen=True)
class Size:
    """What a model takes to train: tokens, characters, shards, FLOPs, hours, memory, under each counting rule."""

    parameters: float | None = None
    """number of parameters; or give --depth"""
    depth: int | None = None
    """number of layers of nanochat's depth dial (d_model 64 per layer)"""
    vocab_size: int = 65_536
    """for --depth"""
    rates: tyro.conf.OmitArgPrefixes[Rates] = field(default_factory=Rates)
    json: Switch = False
    """print the result as JSON"""


def size(argv: list[str]) -> None:
    """`cs336 scaling size`."""
    o = parse(Size, argv, "scaling size", example="scaling size --depth 20")
    from cs336_scaling.sizing import NANOCHAT_SHARDS, largest_model, model_of_depth, size_model

    if (o.parameters is None) == (o.depth is None):
        raise ValueError("give either --parameters or --depth")
    values: dict[str, Any] = {}
    if o.depth is not None:
        shape = model_of_depth(o.depth, vocab_size=o.vocab_size)
        sizes: dict[str, float] = {rule: shape.pop(rule) for rule in ("non_embedding", "with_head", "total")}
        values["shape"] = shape
    else:
        assert o.parameters is not None
        sizes = {"as given": o.parameters}
    for rule, number in sizes.items():
        needs = asdict(size_model(number, o.rates))
        values[rule] = needs if o.json else {name: f"{value:,.4g}" for name, value in needs.items()}
    enough = largest_model(NANOCHAT_SHARDS, o.rates)
    values["text"] = {f"{NANOCHAT_SHARDS} shards are enough for": f"{enough:.3g} parameters"}
    _print(values, as_json=o.json)


@dataclass(frozen=True)
class Sweep:
    """Train the runs of the bank that are missing; stopped or killed, the same command goes on."""

    out: Path = Path("runs/sweep")
    """folder of corpora, runs in progress and bank.jsonl"""
    corpora: tuple[str, ...] = ("stories", "stdlib")
    """which corpora"""
    workers: int = 2
    """runs at once, one thread each"""
    max_budget: float | None = None
    """leave out dearer runs (FLOPs)"""
    roles: tuple[str, ...] = ()
    """profile, seed, rate, batch, shape, random; all by default"""
    list_only: Switch = False
    """print the runs and an estimate of the hours, train nothing"""
    json: Switch = False
    """print the result as JSON"""


def sweep(argv: list[str]) -> None:
    """`cs336 scaling sweep`."""
    o = parse(Sweep, argv, "scaling sweep", example="scaling sweep --workers 2 --max-budget 1e11")
    from cs336_scaling.sweep import run_sweep
    from cs336_scaling.sweep_design import sweep_runs

    specs = [
        spec for spec in sweep_runs(o.corpora)
        if (o.max_budget is None or spec.budget <= o.max_budget) and (not o.roles or spec.role in o.roles)
    ]  # fmt: skip
    if not specs:
        raise ValueError("no run of the design is of these roles and budgets")
    hours = sum(spec.estimated_seconds() for spec in specs) / 3600
    values: dict[str, Any] = {"runs": len(specs), "core_hours": round(hours, 2)}
    if o.list_only:
        if o.json:
            values["design"] = [asdict(spec) | {"id": spec.id} for spec in specs]
        print_result(values, as_json=o.json)
        return
    bank = run_sweep(specs, o.out, workers=o.workers, say=lambda line: print(line, file=sys.stderr, flush=True))
    print_result({**values, "bank": str(bank)}, as_json=o.json)


@dataclass(frozen=True)
class Solve:
    """Assignment 3 worked: spend 2e12 FLOPs through the service, fit, predict a 3e12 run, train it, compare."""

    out: Path = Path("runs/scaling-solution")
    """folder of the answers, the target run and the report"""
    bank: Path | None = None
    """runs that the service answers from; those that ship by default"""
    corpora: Path = Path("runs/sweep")
    """folder with the corpora of `scaling sweep`, made there when missing"""
    target: float = 3e12
    """FLOPs of the run to predict and train; 3e12 takes about a quarter of an hour on one core"""
    seed: int = 0
    """of the bootstrap and the target run"""
    json: Switch = False
    """print the result as JSON"""


def solve(argv: list[str]) -> None:
    """`cs336 scaling solve`."""
    o = parse(Solve, argv, "scaling solve", example="scaling solve --target 3e12")
    from cs336_scaling.worked_solution import SolutionOptions, solve

    options = SolutionOptions(o.bank, o.corpora, o.target, o.seed)
    page = solve(options, o.out, say=lambda line: print(line, file=sys.stderr, flush=True))
    print_result({"report": str(page)}, as_json=o.json)


def _fitted(table: RunTable, resamples: int, seed: int) -> ParametricBootstrap:
    """The parametric fit with its resamples."""
    from cs336_scaling.parametric import fit_parametric_robust
    from cs336_scaling.parametric_intervals import bootstrap_parametric

    return bootstrap_parametric(table, fit_parametric_robust(table), num_resamples=resamples, seed=seed)


def _typical(resampled: ParametricBootstrap) -> float:
    """Root mean square of the residuals of ln L."""
    return float((resampled.fit.residuals**2).mean() ** 0.5)


def _interval(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _print(values: dict[str, Any], *, as_json: bool) -> None:
    """JSON as it is; for people, one row per number, under a heading per group."""
    if as_json:
        print(json.dumps(values, indent=2))
        return
    rows: dict[str, str] = {}
    for group, entries in values.items():
        for name, value in entries.items():
            rows |= _rows(f"{group}: {name}", value)
    print_result(rows, as_json=False)


def _rows(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict) and set(value) == {"value", "low", "high"}:
        return {name: f"{value['value']:.4g}  [{value['low']:.4g}, {value['high']:.4g}]"}
    if isinstance(value, dict):
        return {key: text for part, inner in value.items() for key, text in _rows(f"{name} {part}", inner).items()}
    if isinstance(value, list):
        return {f"{name} {i}": str(item) for i, item in enumerate(value, start=1)}
    return {name: f"{value:.4g}" if isinstance(value, float) else str(value)}
