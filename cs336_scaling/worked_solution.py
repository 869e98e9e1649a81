"""Assignment 3 worked: spend a learner's budget through the service, fit, predict the target, train it, compare.

    scan       3 widths at 5 multiples of a rate rule, at 1e10 FLOPs: which multiple is best, and does it hold over widths?
    profiles   at the best multiple: 1e9 to 1e11 FLOPs by 6 sizes, then 3e11 by 3: what the law is fitted to
    predict    the parametric law from the budget on where it holds, by the held-out largest budget; its interval at the
               best shape for TARGET, ten times the largest fitted budget
    train      that very run, by our own training loop

Every question goes over HTTP to a real service (2024/25 API, profile `micro`, executor `bank`) whose database lies in
the folder. An answer that was paid for stays free, so the command can be stopped and given again. The service says of
each answer whether it was measured or comes from the bank's surface; both counts are in the report.

Handout: scaling_laws. Read next: `client.py`, `prediction.py`, `sweep_design.py`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.report import KeyFigure, KeyFigures, Paragraph, Picture, Section, Table
from cs336_basics.runs.stage import Stage, run_stages
from cs336_scaling.bootstrap import Interval
from cs336_scaling.isoflops import fit_isoflops
from cs336_scaling.parametric import fit_parametric_robust
from cs336_scaling.parametric_intervals import bootstrap_parametric
from cs336_scaling.plots import plot_predicted_against_real, plot_profiles
from cs336_scaling.prediction import held_out_error, law_window, predict
from cs336_scaling.runs_table import RunTable
from cs336_scaling.sweep_design import HEAD_DIM, RunSpec, by_rule, profile_shapes, rule_rate

BUDGET, TARGET = 2 * 10**12, 3e12
LEARNER = "worked-solution"
SCAN_BUDGET, SCAN_SHAPES, MULTIPLES = 1e10, ((16, 2), (32, 2), (64, 2)), (0.25, 0.5, 1.0, 2.0, 4.0)
PROFILE_BUDGETS, LAST_BUDGET, LAST_SIZES = (1e9, 3e9, 1e10, 3e10, 1e11), 3e11, 3
QUERIES, PREDICTION, TARGET_RUN = "queries/queries.json", "prediction/prediction.json", "target/record.json"
SERVICE_START_S = 60


@dataclass(frozen=True)
class SolutionOptions:
    """What is asked and trained."""

    bank: Path | None = None
    """runs that the service answers from; those that ship by default"""
    corpora: Path = Path("runs/sweep")
    """folder with the corpora of `cs336 scaling sweep`, made there when missing"""
    target: float = TARGET
    """FLOPs of the run that is predicted and trained"""
    seed: int = 0
    """of the target run and the bootstrap"""


def solve(options: SolutionOptions, directory: Path, *, say: Callable[[str], None]) -> Path:
    """All parts that are not done yet; returns the report.

    Raises:
        RuntimeError: the service refused a question or did not start.
    """
    stages = [_stage("queries", "spending the budget", options, (), QUERIES, _ask_all, _queries_section),
              _stage("prediction", "fitting and predicting", options, (QUERIES,), PREDICTION, _predict, _prediction_section),
              _stage("target", "training the target", options, (PREDICTION,), TARGET_RUN, _train_target, _target_section)]  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    run_stages(stages, directory, title="A scaling law, from a budget to a trained target", say=say)
    return directory / "report.html"


def _stage(
    name: str, title: str, options: SolutionOptions, inputs: tuple[str, ...], output: str, run, section
) -> Stage:
    return Stage(name=name, title=title, options=options, inputs=inputs, outputs=(output,), run=run, section=section)


# -- queries ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def service(folder: Path, bank: Path | None) -> Iterator[tuple[str, str]]:
    """A training service of our own with one learner; (address, key)."""
    from cs336_scaling.admin import give_new_key
    from cs336_scaling.db.engine import migrate, open_engine, sessionmaker

    folder.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{folder.resolve()}/service.db"
    engine = open_engine(url)
    migrate(engine)
    key = give_new_key(sessionmaker(engine, expire_on_commit=False), LEARNER)
    engine.dispose()
    environment = {
        **os.environ, "DB_ENV": "dev", "DATABASE_URL_DEV": url, "EXECUTOR": "bank", "PROFILE": "micro",
        "TOTAL_BUDGET_FLOPS": str(BUDGET), "BANK_PATH": str(bank.resolve()) if bank else "",
    }  # fmt: skip
    command = [sys.executable, "-m", "cs336_course.cli", "scaling", "serve", "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        try:
            line = child.stdout.readline()  # one line once it listens, nothing if it could not start
            if not line:
                raise RuntimeError(f"the training service did not start (exit code {child.wait(SERVICE_START_S)})")
            yield line.split(" on ")[1].split()[0], key
        finally:
            child.terminate()


def _ask_all(directory: Path, options: SolutionOptions) -> None:
    """The scan, then the profiles at the best multiple of the rate rule."""
    from cs336_scaling.client import Client

    with service(directory / "queries", options.bank) as (url, key):
        client = Client(url, api_key=key)

        def ask(spec: RunSpec) -> dict[str, Any]:
            answer = client.get_loss(
                d_model=spec.d_model, num_layers=spec.num_layers, num_heads=spec.d_model // HEAD_DIM,
                batch_size=spec.batch_size, learning_rate=spec.learning_rate, train_flops=int(spec.budget),
            )  # fmt: skip
            return {**asdict(spec), **answer}

        scan = [ask(_run(SCAN_BUDGET, shape, multiple)) for shape in SCAN_SHAPES for multiple in MULTIPLES]
        totals = {m: sum(a["loss"] for a in scan if math.isclose(_multiple(a), m)) for m in MULTIPLES}
        best = min(totals, key=totals.__getitem__)
        designs = [(budget, shape) for budget in PROFILE_BUDGETS for shape in profile_shapes(budget)]
        last = profile_shapes(LAST_BUDGET)
        middle = (len(last) - LAST_SIZES) // 2
        designs += [(LAST_BUDGET, shape) for shape in last[middle : middle + LAST_SIZES]]
        profiles = [ask(_run(budget, shape, best)) for budget, shape in designs]
        used = client.total_flops_used()
    write_json(directory / QUERIES, {"scan": scan, "multiple": best, "profiles": profiles, "used": used})


def _run(budget: float, shape: tuple[int, int], multiple: float) -> RunSpec:
    spec = by_rule("stories", "profile", budget, shape)
    return RunSpec(**{**asdict(spec), "learning_rate": multiple * spec.learning_rate})


def _multiple(answer: dict[str, Any]) -> float:
    return answer["learning_rate"] / rule_rate(answer["d_model"])


def _queries_section(directory: Path) -> Section:
    found = json.loads((directory / QUERIES).read_text(encoding="utf-8"))
    asked = found["scan"] + found["profiles"]
    measured = sum(answer["source"] == "measured" for answer in asked)
    widths = sorted({answer["d_model"] for answer in found["scan"]})
    losses = {(answer["d_model"], round(_multiple(answer), 6)): answer["loss"] for answer in found["scan"]}
    rows = [[f"{m:g}", *(losses[d, round(m, 6)] for d in widths)] for m in MULTIPLES]
    text = (
        f"{len(asked)} questions, {measured} answered by a run that was really made, {len(asked) - measured} by the "
        f"surface through the bank. The rate scan says: {found['multiple']:g} times the rule 0.02 * 64 / width."
    )
    return Section("Spending the budget", [
        KeyFigures([KeyFigure("FLOPs spent", f"{found['used']:.3g}", f"at most {BUDGET:.3g}", found["used"] <= BUDGET)]),
        Paragraph(text), Table(["multiple of the rule", *(f"loss at width {d}" for d in widths)], rows),
    ])  # fmt: skip


# -- prediction ---------------------------------------------------------------------------------------------------


def profile_table(answers: list[dict[str, Any]]) -> RunTable:
    """The answers to profile questions as runs, N = 12 L d^2."""
    n = np.array([12.0 * a["num_layers"] * a["d_model"] ** 2 for a in answers])
    budget = np.array([a["budget"] for a in answers])
    return RunTable(n, budget / (6 * n), budget, np.array([a["loss"] for a in answers]))


def best_shape(parameters: float) -> tuple[int, int]:
    """(width, layers) with 12 L d^2 nearest to `parameters`, about 24 channels of width per layer."""
    shapes = [(d, max(1, round(d / 24))) for d in range(HEAD_DIM, 257, HEAD_DIM)]
    return min(shapes, key=lambda shape: abs(math.log(12 * shape[1] * shape[0] ** 2 / parameters)))


def _predict(directory: Path, options: SolutionOptions) -> None:
    found = json.loads((directory / QUERIES).read_text(encoding="utf-8"))
    runs = law_window(profile_table(found["profiles"]))
    resampled = bootstrap_parametric(runs, fit_parametric_robust(runs), seed=options.seed)
    best = predict(resampled, runs, options.target)
    shape = best_shape(best.parameters.value)
    spec = replace(_run(options.target, shape, found["multiple"]), seed=options.seed)
    size = 12.0 * shape[1] * shape[0] ** 2
    held = held_out_error(runs, seed=options.seed)
    loss = resampled.loss(size, options.target / (6 * size))
    write_json(directory / PREDICTION, {
        "fitted_from": float(runs.budgets[0]), "law": asdict(resampled.fit.law),
        "parameters": asdict(best.parameters), "tokens": asdict(best.tokens), "warnings": list(best.warnings), "spec": asdict(spec),
        "loss": asdict(loss), "widened": asdict(held.widen(loss, options.target)),
        "held_out": {"budget": held.budget, "largest_error": float(np.abs(held.errors).max()), "inside": held.inside},
    })  # fmt: skip


def _prediction_section(directory: Path) -> Section:
    found = json.loads((directory / PREDICTION).read_text(encoding="utf-8"))
    runs = profile_table(json.loads((directory / QUERIES).read_text(encoding="utf-8"))["profiles"])
    law, spec, held = found["law"], RunSpec(**found["spec"]), found["held_out"]
    loss, widened, size = (Interval(**found[name]) for name in ("loss", "widened", "parameters"))
    text = (
        f"Fitted to the runs from {found['fitted_from']:.3g} FLOPs up, the window that best predicts the largest budget "
        f"from the others. L = {law['E']:.4g} + {law['A']:.4g} / N^{law['alpha']:.4g} + "
        f"{law['B']:.4g} / D^{law['beta']:.4g}. For "
        f"{spec.budget:.3g} FLOPs, {spec.budget / runs.budgets[-1]:.0f} times the largest fitted, the best size is {size}; "
        f"the nearest shape is width {spec.d_model}, {spec.num_layers} layers, with batch {spec.batch_size} and rate "
        f"{spec.learning_rate:.3g}. Predicted loss there: {loss}. Check beforehand: fitted without {held['budget']:.3g}, the "
        f"law misses that budget's runs by at most {held['largest_error']:.2%}; if it is as wrong again with every such step, "
        f"the loss lies in {widened}."
    )
    blocks = [Paragraph(text)]
    if found["warnings"]:
        blocks.append(Paragraph("Warnings:\n\n" + "\n".join(f"- {warning}" for warning in found["warnings"])))
    picture = Picture(
        plot_profiles(runs, fit_isoflops(runs, "lowest")), "profiles", "Loss over parameters, one curve per budget"
    )
    return Section("The law and its prediction", [*blocks, picture])


# -- target -------------------------------------------------------------------------------------------------------


def _train_target(directory: Path, options: SolutionOptions) -> None:
    from cs336_scaling.sweep import CorpusSize, prepare_corpus, run_one

    spec = RunSpec(**json.loads((directory / PREDICTION).read_text(encoding="utf-8"))["spec"])
    corpus = prepare_corpus(options.corpora / spec.corpus, spec.corpus, CorpusSize())
    print(f"about {spec.estimated_seconds() / 60:.0f} minutes on one thread", file=sys.stderr, flush=True)
    write_json(directory / TARGET_RUN, run_one(spec, corpus, directory / "target" / "run", progress=True))


def _target_section(directory: Path) -> Section:
    record = json.loads((directory / TARGET_RUN).read_text(encoding="utf-8"))
    found = json.loads((directory / PREDICTION).read_text(encoding="utf-8"))
    loss, widened = Interval(**found["loss"]), Interval(**found["widened"])
    real = record["loss"]
    if real is None:
        return Section(
            "The target", [Paragraph(f"The run diverged at step {record['diverged_at']}; no loss to compare.")]
        )
    error = loss.value / real - 1
    figures = [
        KeyFigure("predicted loss", str(loss)), KeyFigure("real loss", f"{real:.4f}"),
        KeyFigure("error", f"{error:+.2%}", "within 1%", abs(error) <= 0.01),
        KeyFigure("interval by the noise of the runs holds it", "yes" if real in loss else "no", "yes", real in loss),
        KeyFigure("widened interval holds it", "yes" if real in widened else "no", "yes", real in widened),
    ]  # fmt: skip
    text = f"{record['tokens']:,} tokens in {record['training']['num_steps']:,} steps, {record['seconds'] / 60:.1f} minutes."
    picture = Picture(
        plot_predicted_against_real([widened], [real], label="target, widened interval"),
        "target",
        "Predicted over real loss",
    )
    return Section("The target, really trained", [KeyFigures(figures), Paragraph(text), picture])
