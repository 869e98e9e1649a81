"""One run of an ablation and its outcome; a run that diverges has an outcome too.

Each run is an ordinary training run in a directory of its own, so that it resumes after a kill in the same bits. It
counts as diverged at step s when, for the first time,

    the loss or the gradient became nan or infinite in update s, which ended the run, or
    the loss logged at step s was MARGIN_NATS above the one it began with

The second is what too high a learning rate commonly does: the loss jumps up by tens of nats, and comes down again only
as the schedule lowers the rate.

Several seeds of one variant are separate runs; `summarize` makes mean and spread of them. Left out: significance tests
(two or three seeds carry none). Read next: `stages.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cs336_basics.data import read_manifest
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.training import Diverged, train
from cs336_basics.training_config import TrainConfig

MARGIN_NATS = 1.0
CURVES = ("train_loss", "validation_loss", "grad_norm", "seconds")


def run_experiment(config: TrainConfig, directory: Path, *, progress: bool = True) -> dict[str, Any]:
    """Train in `directory`, or go on there, and return the outcome.

    Returns:
        `diverged_at` (step or None), `validation_loss` (None without one), `entropy_floor` (None where unknown),
        `parameters`, `steps`, `tokens`, `seconds` (of training, without validation) and `log`: the records' step and
        CURVES.

    Raises:
        Interrupted: stopped by Ctrl-C or SIGTERM after saving; otherwise as `train`, save that `Diverged` is caught.
    """
    diverged_at = None
    try:
        train(config, directory, progress=progress)
    except Diverged as end:
        diverged_at = end.step
    run = RunDirectory(directory)
    log = [{key: record[key] for key in ("step", "tokens", *CURVES) if key in record} for record in run.read_log()]
    summary = run.summary() if run.is_complete else {}
    last = log[-1] if log else {"step": 0, "tokens": 0, "seconds": 0.0}
    blown_up = first_blow_up(log)
    manifest = read_manifest(config.valid_tokens)
    return {
        "diverged_at": diverged_at if blown_up is None else blown_up,
        "validation_loss": summary.get("validation_loss"),
        "entropy_floor": manifest["nats"] / manifest["num_tokens"] if "nats" in manifest else None,
        "parameters": count_parameters(config), "steps": last["step"], "tokens": last["tokens"],
        "seconds": last["seconds"], "log": log,
    }  # fmt: skip


def first_blow_up(log: Sequence[Mapping[str, Any]]) -> int | None:
    """The first logged step with a loss more than MARGIN_NATS above the first training loss; None without one."""
    for record in log:
        if max(record["train_loss"], record.get("validation_loss", 0.0)) > log[0]["train_loss"] + MARGIN_NATS:
            return record["step"]
    return None


def count_parameters(config: TrainConfig) -> int:
    """Weights of the model, counted without making them."""
    from cs336_basics.model import TransformerLM

    return TransformerLM(config.model, device="meta").get_num_params()


def with_seed(config: TrainConfig, index: int) -> TrainConfig:
    """The run number `index` of a variant; number 0 has the configured seed."""
    return replace(config, seed=config.seed + index)


@dataclass(frozen=True)
class Summary:
    """A variant over its seeds; `loss` and what follows from it are None when any of its runs diverged."""

    label: str
    parameters: int
    tokens: int
    seconds: float
    """mean over seeds"""
    diverged_at: int | None
    """the earliest step at which a seed diverged"""
    loss: float | None
    """mean validation loss over seeds"""
    spread: float | None
    """standard deviation over seeds; None for one seed"""
    above_floor: float | None
    """loss / entropy floor - 1"""
    difference: float | None
    """loss minus the baseline's, each the mean over seeds"""


def summarize(label: str, outcomes: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> Summary:
    """Mean, spread and difference to the baseline over seeds."""
    loss, reference, floor = _mean_loss(outcomes), _mean_loss(baseline), outcomes[0]["entropy_floor"]
    spread = None
    if loss is not None and len(outcomes) > 1:
        squares = math.fsum((o["validation_loss"] - loss) ** 2 for o in outcomes)
        spread = math.sqrt(squares / (len(outcomes) - 1))
    diverged = [o["diverged_at"] for o in outcomes if o["diverged_at"] is not None]
    return Summary(
        label, outcomes[0]["parameters"], outcomes[0]["tokens"],
        math.fsum(o["seconds"] for o in outcomes) / len(outcomes), min(diverged, default=None), loss, spread,
        None if loss is None or floor is None else loss / floor - 1,
        None if loss is None or reference is None else loss - reference,
    )  # fmt: skip


def _mean_loss(outcomes: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean final validation loss; None when a run diverged."""
    if any(o["diverged_at"] is not None for o in outcomes):
        return None
    return math.fsum(o["validation_loss"] for o in outcomes) / len(outcomes)
