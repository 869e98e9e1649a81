"""The tour's stage of scaling: small runs made on the spot, a law through the bank, and a bigger run that tests it.

    live      IsoFLOP profiles on the tour's own stories, one thread each, two at a time: what a size costs and gains
    law       the parametric fit, with its intervals, to the runs of the bank that ships (stories, up to `fit_until`)
    target    the bank's best run of the largest budget, never fitted: its real loss beside the predicted interval

Handout: scaling_laws. Left out: the bank's own making (`cs336 scaling sweep`), a learner's budget and a target trained
on the spot (`cs336 scaling solve`). Read next: `worked_solution.py`.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cs336_basics.data import open_tokens, read_manifest, write_tokens
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.child_processes import training_context
from cs336_basics.runs.report import Block, KeyFigure, KeyFigures, Paragraph, Picture, Section
from cs336_basics.runs.stage import Stage
from cs336_basics.tokenization.progress import progress_bar
from cs336_basics.tour_tokenizers import TRAIN_TOKENS, VALID_TOKENS
from cs336_basics.training import train
from cs336_basics.training_config import OptimizerConfig, TrainConfig
from cs336_scaling.bank import bank_table, load_bank
from cs336_scaling.bootstrap import Interval
from cs336_scaling.isoflops import fit_isoflops
from cs336_scaling.parametric import fit_parametric_robust
from cs336_scaling.parametric_intervals import bootstrap_parametric
from cs336_scaling.plots import plot_predicted_against_real, plot_profiles
from cs336_scaling.runs_table import RunTable
from cs336_scaling.sweep_design import CONTEXT_LENGTH, RunSpec, by_rule

FOLDER = "scaling"
SHIPPED = Path(__file__).parent / "bank.jsonl"
RESULTS, VALID = f"{FOLDER}/results.json", f"{FOLDER}/valid.bin"


@dataclass(frozen=True)
class ScalingStageOptions:
    """Which runs are made, and which of the bank are fitted."""

    budgets: tuple[float, ...]
    """FLOPs, 6 * 12 L d^2 * tokens, of the live profiles"""
    shapes: tuple[tuple[int, int], ...]
    """(width, layers) at each budget"""
    valid_tokens: int
    """validated on at the end of each live run"""
    fit_until: float
    """FLOPs of the largest fitted budget of the bank"""
    seed: int


DEFAULT = ScalingStageOptions(
    budgets=(1e9, 3e9), shapes=((8, 1), (16, 1), (32, 1)), valid_tokens=20_000, fit_until=1e11, seed=0
)
"""6 runs, about 20 s on two CPU cores"""
QUICK = replace(DEFAULT, budgets=(1e8, 3e8), valid_tokens=5_000)


def scaling_stage(options: ScalingStageOptions) -> Stage:
    """Train the profiles and the target on the tokens of the first stage."""
    tokens = (TRAIN_TOKENS, f"{TRAIN_TOKENS}.json", VALID_TOKENS, f"{VALID_TOKENS}.json")
    return Stage(
        name=FOLDER, title="scaling law", options=options, inputs=tokens, outputs=(RESULTS,), run=_run, section=_section
    )


def live_runs(options: ScalingStageOptions) -> list[RunSpec]:
    """The profiles, the longest runs first."""
    runs = [by_rule("stories", "profile", budget, shape) for budget in options.budgets for shape in options.shapes]
    return sorted((replace(run, seed=options.seed) for run in runs), key=lambda run: -run.estimated_seconds())


def _run(directory: Path, options: ScalingStageOptions) -> None:
    manifest = read_manifest(directory / VALID_TOKENS)
    short = open_tokens(directory / VALID_TOKENS)[: options.valid_tokens]
    (directory / FOLDER).mkdir(exist_ok=True)
    write_tokens(directory / VALID, short.tolist(), vocab_size=manifest["vocab_size"])
    runs = live_runs(options)
    losses: list[float] = []
    with (
        progress_bar("training small models", enabled=True) as report,
        ProcessPoolExecutor(2, mp_context=training_context()) as pool,
    ):
        for loss in pool.map(_train_one, [(run, str(directory.resolve())) for run in runs]):
            losses.append(loss)
            report(len(losses), len(runs))
    fitted, target = bank_runs(options.fit_until)
    resampled = bootstrap_parametric(fitted, fit_parametric_robust(fitted), num_resamples=300, seed=options.seed)
    size, tokens = float(target.parameters[0]), float(target.tokens[0])
    write_json(directory / RESULTS, {
        "live": [asdict(run) | {"loss": loss} for run, loss in zip(runs, losses, strict=True)],
        "law": asdict(resampled.fit.law), "warnings": list(resampled.warnings()), "fit_until": options.fit_until,
        "target": {"parameters": size, "tokens": tokens, "budget": float(target.budget[0]), "loss": float(target.loss[0])},
        "predicted": asdict(resampled.loss(size, tokens)),
    })  # fmt: skip


def bank_runs(fit_until: float) -> tuple[RunTable, RunTable]:
    """The bank's runs on stories up to a budget, and the best of the largest budget as a table of one."""
    runs = bank_table(load_bank(SHIPPED), corpus="stories")
    largest = runs[runs.budget == runs.budgets[-1]]
    return runs[runs.budget <= fit_until * 1.001], largest[np.array([np.argmin(largest.loss)])]


def _train_one(job: tuple[RunSpec, str]) -> float:
    """Final validation loss; a run that is there already, after an interruption, is not made again."""
    import torch

    torch.set_num_threads(1)
    spec, directory = job[0], Path(job[1])
    vocab_size = read_manifest(directory / TRAIN_TOKENS)["vocab_size"]
    config = TrainConfig(
        model=replace(spec.model(), vocab_size=vocab_size, context_length=CONTEXT_LENGTH),
        optimizer=OptimizerConfig(
            max_learning_rate=spec.learning_rate, warmup_steps=max(1, spec.num_steps // 10), weight_decay=0.1
        ),
        train_tokens=directory / TRAIN_TOKENS, valid_tokens=directory / VALID, num_steps=spec.num_steps,
        batch_size=spec.batch_size, seed=spec.seed, device="cpu", precision="float32", eval_every=spec.num_steps,
        checkpoint_every=spec.num_steps,
    )  # fmt: skip
    return train(config, directory / FOLDER / "runs" / spec.id, progress=False)["validation_loss"]


def _table(runs: list[RunSpec], losses: list[float]) -> RunTable:
    sizes = np.array([12.0 * run.num_layers * run.d_model**2 for run in runs])
    budgets = np.array([run.budget for run in runs])
    return RunTable(sizes, budgets / (6 * sizes), budgets, np.array(losses))


def _section(directory: Path) -> Section:
    found: dict[str, Any] = json.loads((directory / RESULTS).read_text(encoding="utf-8"))
    live = [RunSpec(**{k: v for k, v in run.items() if k != "loss"}) for run in found["live"]]
    table, law, target = _table(live, [run["loss"] for run in found["live"]]), found["law"], found["target"]
    fitted, predicted, real = bank_runs(found["fit_until"])[0], Interval(**found["predicted"]), found["target"]["loss"]
    figures = [
        KeyFigure("small runs trained here", str(len(live))), KeyFigure("predicted loss", str(predicted)),
        KeyFigure("real loss", f"{real:.4f}"),
        KeyFigure("inside its interval", "yes" if real in predicted else "no", "yes", real in predicted),
    ]  # fmt: skip
    text = (
        f"Nobody tries a large run twice, so a law is fitted to small ones. {len(live)} were trained here just now, on the "
        f"tour's stories, at {' and '.join(f'{budget:.0e}' for budget in table.budgets)} FLOPs. The law comes from "
        f"{len(fitted)} runs of the bank that ships with the course, of {fitted.budgets[0]:.0e} to {fitted.budgets[-1]:.0e} "
        f"FLOPs: L = {law['E']:.3g} + {law['A']:.3g} / N^{law['alpha']:.3g} + {law['B']:.3g} / D^{law['beta']:.3g}. It then "
        f"had to predict a run of {target['budget']:.0e} FLOPs ({target['parameters']:,.0f} parameters, "
        f"{target['tokens']:,.0f} tokens) that it had not seen: {predicted.value / real - 1:+.1%} off."
    )
    blocks: list[Block] = [KeyFigures(figures), Paragraph(text)]
    if found["warnings"]:
        blocks.append(Paragraph("Warnings:\n\n" + "\n".join(f"- {warning}" for warning in found["warnings"])))
    here, bank = (plot_profiles(runs, fit_isoflops(runs, "lowest")) for runs in (table, fitted))
    compared = plot_predicted_against_real([predicted], [real], label="target")
    blocks.append(Picture(here, "scaling-live", "Loss over parameters of the runs made here, one curve per budget"))
    blocks.append(Picture(bank, "scaling-bank", "Loss over parameters of the bank's runs, one curve per budget"))
    blocks.append(Picture(compared, "scaling-target", "Predicted over real loss of the target"))
    return Section("Scaling law", blocks)
