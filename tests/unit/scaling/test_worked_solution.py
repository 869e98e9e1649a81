"""The worked solution against a bank whose law is stated: the answers come over HTTP, the target is really trained."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from cs336_scaling.parametric_law import ParametricLaw
from cs336_scaling.sweep import CorpusSize, prepare_corpus
from cs336_scaling.sweep_design import sweep_runs
from cs336_scaling.worked_solution import BUDGET, PREDICTION, QUERIES, TARGET_RUN, SolutionOptions, best_shape, solve

pytest.importorskip("fastapi")
LAW = ParametricLaw(E=1.2, A=15.0, B=200.0, alpha=0.35, beta=0.4)


@pytest.fixture
def bank(tmp_path):
    """Every run of the design, with the loss that the law says."""
    path = tmp_path / "bank.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for spec in sweep_runs(("stories",)):
            size = 12 * spec.num_layers * spec.d_model**2
            record = {
                "id": spec.id, "corpus": "stories", "role": spec.role, "held_out": False, "budget": spec.budget,
                "model": {"d_model": spec.d_model, "num_layers": spec.num_layers, "num_heads": spec.d_model // 8},
                "training": {"batch_size": spec.batch_size, "learning_rate": spec.learning_rate, "seed": spec.seed},
                "parameters": {}, "tokens": spec.tokens, "seconds": 1.0,
                "loss": float(LAW.loss(size, spec.budget / 6 / size)) + (spec.role == "rate") * 0.1,
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")
    return path


def test_from_a_budget_to_a_trained_target(bank, tmp_path, capsys):
    prepare_corpus(tmp_path / "corpora" / "stories", "stories", CorpusSize(num_train=300, num_valid=20))
    options = SolutionOptions(bank, tmp_path / "corpora", target=2e9)
    out, said = tmp_path / "out", []
    page = solve(options, out, say=said.append)
    queries = json.loads((out / QUERIES).read_text())
    assert queries["used"] == sum(
        int(a["budget"]) for a in {a["total_flops_used"]: a for a in queries["scan"] + queries["profiles"]}.values()
    )
    assert queries["used"] <= BUDGET and queries["multiple"] == 1.0
    assert {a["source"] for a in queries["profiles"]} == {"measured"}
    predicted = json.loads((out / PREDICTION).read_text())
    n = 12 * predicted["spec"]["num_layers"] * predicted["spec"]["d_model"] ** 2
    assert predicted["loss"]["value"] == pytest.approx(float(LAW.loss(n, 2e9 / 6 / n)), rel=2e-3)
    record = json.loads((out / TARGET_RUN).read_text())
    assert record["budget"] == 2e9 and 0 < record["loss"] < 7 and record["curve"]
    assert "real loss" in page.read_text()
    again: list[str] = []
    solve(replace(options), out, say=again.append)
    assert sum("already done" in line for line in again) == 3


def test_the_best_shape_is_near():
    for parameters in (3e3, 1e5, 3e6):
        width, layers = best_shape(parameters)
        assert 12 * layers * width**2 == pytest.approx(parameters, rel=0.3) and width % 8 == 0
    assert asdict(SolutionOptions())["target"] == 3e12
