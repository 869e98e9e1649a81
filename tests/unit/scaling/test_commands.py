"""The verbs of `cs336 scaling` answer with the library's numbers and refuse nonsense in a line."""

from __future__ import annotations

import json

import pytest

from cs336_course.cli import main


def answer(capsys, *arguments):
    assert main(["scaling", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_size(capsys):
    values = answer(capsys, "size", "--depth", "20")
    assert values["total"]["parameters"] == pytest.approx(561.0e6, rel=1e-3) and values["total"]["shards"] == 216
    assert main(["scaling", "size"]) == 1
    assert "either --parameters or --depth" in capsys.readouterr().err


def test_fit_and_predict_on_the_shipped_table(capsys):
    values = answer(capsys, "fit", "--resamples", "30")["as given"]
    assert values["law"]["E"]["value"] == pytest.approx(2.69) and values["warnings"] == []
    assert values["exponent"]["lowest"]["value"] == pytest.approx(0.46868, abs=1e-4)
    values = answer(capsys, "predict", "1e23", "--resamples", "30")["as given"]
    assert values["parameters"]["value"] == pytest.approx(9.189e10, rel=1e-3)
    assert values["loss"]["value"] == pytest.approx(3.2750, abs=1e-4)


def test_plan(capsys):
    plan = answer(capsys, "plan", "2e18", "1e19", "--max-runs", "8")["plan"]
    assert sum(run["flops"] for run in plan["buy"]) == pytest.approx(plan["spent"]) and plan["spent"] <= 2e18


def test_plot(capsys, tmp_path):
    answer(capsys, "plot", "--out", str(tmp_path), "--resamples", "30")
    page = (tmp_path / "report.md").read_text()
    assert "9.189e+10" in page and "0.5143" in page
    assert len(list((tmp_path / "figures").glob("*.svg"))) == 5


def test_sweep_lists_its_runs(capsys, tmp_path):
    values = answer(capsys, "sweep", "--list-only", "--out", str(tmp_path / "none"))
    assert values["runs"] >= 200 and len(values["design"]) == values["runs"] and not (tmp_path / "none").exists()


def test_missing_files_are_told(capsys):
    assert main(["scaling", "fit", "nowhere.json"]) == 1
    assert "no runs at nowhere.json" in capsys.readouterr().err
