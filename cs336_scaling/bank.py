"""The bank: finished training runs, one JSON record per line, with all that is needed to run each again.

    id               hash of what was asked for; one record per id
    corpus, role     text; why the run was made (`sweep_design.py`)
    held_out         True for a tenth of the runs, by id: never to be fitted on, only to be predicted
    budget           FLOPs that were to be spent, 6 * non_embedding * tokens
    model, training  the configuration: sizes; batch, rate, steps, seed ...
    parameters       N under each counting rule      flops   under each rule (`flops.py`)
    tokens, epochs   trained on; the same over the corpus's tokens
    loss             on the whole validation split, nats per token; None when the run diverged, at step diverged_at
    entropy_floor    the least loss possible in expectation; None where unknown
    curve            [tokens, training loss] now and then
    seconds          of training, validation left out
    data             SHA-256 of the training text      machine  versions, processor, commit

Left out: weights (a record is enough to train them again). Read next: `sweep_design.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cs336_basics.runs.log import read_records
from cs336_scaling.flops import COUNTING_RULES, CountingRule
from cs336_scaling.runs_table import RunTable, load_isoflops

REQUIRED = ("id", "corpus", "role", "held_out", "budget", "model", "training", "parameters", "tokens", "loss")
HELD_OUT_ONE_IN = 10


def load_bank(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All records; a line torn by a kill is passed over.

    Raises:
        FileNotFoundError: no such file. ValueError: a record that is not one of the bank's, or an id twice.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no bank at {path}; `cs336 scaling sweep` makes one")
    records, seen = read_records(Path(path)), set()
    for number, record in enumerate(records, start=1):
        missing = [key for key in REQUIRED if key not in record]
        if missing:
            raise ValueError(f"{path} line {number} has no {missing[0]!r}; it is no record of a bank")
        if record["id"] in seen:
            raise ValueError(f"{path} line {number} repeats the run {record['id']}; remove one of the two")
        seen.add(record["id"])
    return records


def is_held_out(run_id: str) -> bool:
    """Whether a run belongs to the tenth that nothing is fitted on, by its hexadecimal id."""
    return int(run_id, 16) % HELD_OUT_ONE_IN == 0


def bank_table(
    records: Iterable[Mapping[str, Any]],
    *,
    corpus: str,
    rule: CountingRule = "non_embedding",
    roles: tuple[str, ...] = ("profile", "seed"),
    held_out: bool = False,
) -> RunTable:
    """The runs of one corpus as a table, diverged ones left out.

    Args:
        records: of the bank.
        corpus: "stories" or "stdlib".
        rule: how N is counted; budgets stay those that were asked for.
        roles: which runs; by default those at the rates and batches meant to be best.
        held_out: the runs kept for prediction instead of those for fitting.

    Raises:
        ValueError: an unknown rule, or no such runs.
    """
    if rule not in COUNTING_RULES:
        raise ValueError(f"rule must be one of {', '.join(COUNTING_RULES)}; got {rule!r}")
    rows = [
        r for r in records
        if r["corpus"] == corpus and r["role"] in roles and r["held_out"] is held_out and r["loss"] is not None
    ]  # fmt: skip
    if not rows:
        raise ValueError(f"the bank has no finished runs of {corpus!r} with roles {roles} and held_out={held_out}")
    columns = [[r["parameters"][rule], r["tokens"], r["budget"], r["loss"]] for r in rows]
    return RunTable(*np.array(columns, dtype=np.float64).T)


def load_tables(path: str | os.PathLike[str] | None, *, corpus: str = "stories") -> dict[str, RunTable]:
    """A file of either format as one table per counting rule; None is the shipped IsoFLOP table.

    The handout's format has one N, whose rule it does not say; the only key is then "as given".
    """
    if path is None:
        return {"as given": load_isoflops()}
    if not Path(path).is_file():
        raise FileNotFoundError(f"no runs at {path}; give a file in the handout's format or a bank")
    with open(path, encoding="utf-8") as file:
        if file.read(64).lstrip().startswith("["):
            return {"as given": load_isoflops(path)}
    records = load_bank(path)
    return {rule: bank_table(records, corpus=corpus, rule=rule) for rule in COUNTING_RULES}
