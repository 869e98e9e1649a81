"""Profiles that have no optimum, or have it at their edge, are refused or told; files with mistakes too."""

from __future__ import annotations

import numpy as np
import pytest

from cs336_scaling.isoflops import fit_isoflops, isoflops_optima
from cs336_scaling.isoflops_intervals import bootstrap_isoflops, lines
from cs336_scaling.power_law import fit_floored_power_law, fit_power_law
from cs336_scaling.runs_table import RunTable, from_records, load_isoflops


def profile(losses, budget=6e18, sizes=None):
    n = np.geomspace(1e8, 1e9, len(losses)) if sizes is None else np.asarray(sizes)
    return RunTable(n, budget / (6 * n), np.full(len(losses), budget), np.asarray(losses, dtype=float))


def test_a_lowest_run_at_the_edge_is_told():
    (low,), (high,) = (isoflops_optima(profile(losses), "lowest") for losses in ([3, 4, 5], [5, 4, 3]))
    assert "smallest" in low.warning and "largest" in high.warning
    assert isoflops_optima(profile([4, 3, 5]), "lowest")[0].warning == ""


def test_a_parabola_beyond_the_sizes_is_told_and_one_without_minimum_refused():
    (optimum,) = isoflops_optima(profile([4.0, 3.5, 3.15, 3.0]), "parabola")
    assert optimum.parameters > 1e9 and "larger" in optimum.warning
    with pytest.raises(ValueError, match="opens downwards"):
        isoflops_optima(profile([3, 4, 3]), "parabola")
    with pytest.raises(ValueError, match="needs 3"):
        isoflops_optima(profile([3, 4]), "parabola")


def test_several_seeds_of_one_size_are_used():
    twice = profile([4.1, 3.9, 3.0, 3.2, 4.0, 4.2], sizes=[1e8, 1e8, 3e8, 3e8, 9e8, 9e8])
    mean = profile([4.0, 3.1, 4.1], sizes=[1e8, 3e8, 9e8])
    for method in ("parabola", "parabola_local"):
        assert isoflops_optima(twice, method)[0].parameters == pytest.approx(
            isoflops_optima(mean, method)[0].parameters, rel=1e-9
        )


def test_few_budgets_are_told():
    assert any("budgets" in warning for warning in fit_isoflops(load_isoflops()[np.arange(16)]).warnings)


def test_lines_of_many_rows_are_single_lines():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 5, 8))
    y[2, 3:5] = np.nan
    found = lines(x, y)
    for row in range(5):
        kept = np.isfinite(y[row])
        slope, intercept = np.polyfit(x[row, kept], y[row, kept], 1)
        assert found[row] == pytest.approx((intercept, slope), rel=1e-9)


def test_parabola_intervals_hold_the_truth_nine_times_in_ten():
    """Profiles that are parabolas, so that the method has no bias of its own."""
    rng, hits = np.random.default_rng(0), 0
    budgets = np.geomspace(1e18, 1e21, 6)
    for _ in range(200):
        tables = []
        for budget in budgets:
            x = np.linspace(-1.5, 1.5, 7)
            loss = 3 + 0.1 * x**2 + 0.01 * rng.standard_normal(7)
            n = 1e-2 * budget**0.5 * np.exp(x)
            tables.append((n, budget / (6 * n), np.full(7, budget), loss))
        runs = RunTable(*(np.concatenate(column) for column in zip(*tables, strict=True)))
        resampled = bootstrap_isoflops(runs, fit_isoflops(runs), num_resamples=200, seed=int(rng.integers(2**31)))
        hits += 0.5 in resampled.exponents(0.9)["a"]
    assert 0.85 <= hits / 200 <= 0.95, hits


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no runs"),
        ([{"parameters": 1, "compute_budget": 2}], "final_loss"),
        ([{"parameters": -1, "compute_budget": 2, "final_loss": 3}], "positive"),
        ([{"parameters": 1, "compute_budget": 2, "final_loss": float("nan")}], "diverged"),
    ],
)
def test_bad_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        from_records(rows)


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "runs.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_isoflops(path)
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="list of objects"):
        load_isoflops(path)


def test_power_laws_refuse_what_has_no_logarithm():
    with pytest.raises(ValueError, match="positive"):
        fit_power_law([1.0, 2.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="different x"):
        fit_power_law([2.0, 2.0], [1.0, 3.0])


def test_floored_power_law_recovers_the_truth():
    x = np.geomspace(1, 1e4, 9)
    law = fit_floored_power_law(x, 1.7 + 2.5 * x**-0.3)
    assert (law.floor, law.k, law.c) == pytest.approx((1.7, 2.5, 0.3), rel=1e-6)
