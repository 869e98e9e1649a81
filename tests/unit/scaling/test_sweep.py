"""The bank: a design of enough runs, records that can be trained again, and a sweep that goes on where it was."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cs336_basics.model import TransformerLM
from cs336_scaling.bank import bank_table, is_held_out, load_bank, load_tables
from cs336_scaling.sweep import CorpusSize, run_sweep
from cs336_scaling.sweep_design import BUDGETS, SHAPES, RunSpec, by_rule, profile_shapes, sweep_runs


def test_the_design_is_what_the_bank_needs():
    runs = sweep_runs()
    assert len(runs) >= 200 and len({run.id for run in runs}) == len(runs)
    budgets = [run.budget for run in runs]
    assert max(budgets) / min(budgets) >= 1000
    assert {run.seed for run in runs if run.role == "seed"} == {1, 2, 3}
    twins = {replace(run, role="", seed=0) for run in runs if run.role == "profile"}
    assert all(replace(run, role="", seed=0) in twins for run in runs if run.role == "seed")
    held = np.mean([is_held_out(run.id) for run in runs])
    assert 0.05 < held < 0.16
    assert sum(run.estimated_seconds() for run in runs) < 6 * 3600


def test_runs_spend_their_budget():
    built = {
        shape: sum(
            p.numel() for name, p in TransformerLM(by_rule("stories", "", 1e9, shape).model(), device="meta")
            .named_parameters() if name.startswith("layers.") and p.dim() == 2
        ) for shape in SHAPES
    }  # fmt: skip
    for budget in BUDGETS:
        for shape in profile_shapes(budget):
            run = by_rule("stories", "profile", budget, shape)
            assert 6 * built[shape] * run.tokens == pytest.approx(budget, rel=0.05), shape


def test_unknown_corpora_are_refused():
    with pytest.raises(ValueError, match="stories, stdlib"):
        sweep_runs(("pile",))


def test_a_sweep_fills_the_bank_and_goes_on(tmp_path):
    specs = [RunSpec("stories", "profile", 1e7, 8, 1, 1, 0.01), RunSpec("stories", "profile", 2e7, 8, 1, 1, 0.01)]
    size, lines = CorpusSize(num_train=40, num_valid=5), []
    bank = run_sweep(specs[:1], tmp_path, size=size, say=lines.append)
    first = bank.read_bytes()
    with open(bank, "ab") as file:
        file.write(b'{"id": "torn')  # a kill in the middle of a line
    run_sweep(specs, tmp_path, size=size, say=lines.append)
    assert bank.read_bytes().startswith(first) and len(lines) == 2
    run_sweep(specs, tmp_path, size=size, say=lines.append)
    assert len(lines) == 2 and not list((tmp_path / "runs").iterdir())
    record = load_bank(bank)[1]
    assert record["id"] == specs[1].id and record["tokens"] == specs[1].num_steps * 128
    assert record["entropy_floor"] < record["loss"] < 7.0
    weights = TransformerLM(specs[1].model()).get_num_params()
    assert record["parameters"]["total"] == weights
    assert record["parameters"]["with_head"] - record["parameters"]["non_embedding"] == 8 * 512
    assert record["flops"]["6ND total"] == 6 * weights * record["tokens"]


def test_a_bank_is_read_under_each_rule(tmp_path):
    rows = []
    for i, (role, held, loss) in enumerate(
        [("profile", False, 3.0), ("seed", False, 3.1), ("rate", False, 9.0), ("profile", True, 4.0),
         ("profile", False, None)]
    ):  # fmt: skip
        rows.append({
            "id": f"{i:x}", "corpus": "stories", "role": role, "held_out": held, "budget": 1e9, "model": {},
            "training": {}, "parameters": {"non_embedding": 10 + i, "with_head": 20 + i, "total": 30 + i},
            "tokens": 100, "loss": loss,
        })  # fmt: skip
    path = tmp_path / "bank.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = load_tables(path)
    assert {rule: table.parameters.tolist() for rule, table in tables.items()} == {
        "non_embedding": [10, 11], "with_head": [20, 21], "total": [30, 31]
    }  # fmt: skip
    assert bank_table(load_bank(path), corpus="stories", held_out=True).loss.tolist() == [4.0]
    with pytest.raises(ValueError, match="no finished runs"):
        bank_table(load_bank(path), corpus="stdlib")
    path.write_text(path.read_text() + json.dumps(rows[0]) + "\n")
    with pytest.raises(ValueError, match="repeats the run 0"):
        load_bank(path)
