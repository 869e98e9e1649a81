"""The parametric fit finds the global optimum, its intervals are honest, and it says what a design cannot tell."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_runs import coverage, descend_with_torch, isoflop_design, random_law, simulate

from cs336_scaling.bootstrap import draw_counts, draw_residuals, percentile_interval
from cs336_scaling.parametric import fit_parametric, noise_delta, refit
from cs336_scaling.parametric_intervals import bootstrap_parametric
from cs336_scaling.parametric_law import ParametricLaw
from cs336_scaling.runs_table import RunTable, load_isoflops


def surface(seed, noise):
    rng = np.random.default_rng(seed)
    design = isoflop_design(rng)
    law = random_law(rng, design)
    return simulate(rng, design, law, noise), law


@pytest.mark.parametrize("block", range(5))
def test_exact_surfaces_are_recovered(block):
    """50 of the 100 surfaces; the truth has objective 0."""
    for seed in range(10 * block, 10 * block + 10):
        runs, law = surface(seed, 0.0)
        assert fit_parametric(runs).law.as_tuple() == pytest.approx(law.as_tuple(), rel=1e-4), seed


@pytest.mark.parametrize("block", range(5))
def test_noisy_surfaces_reach_the_global_optimum(block):
    """The other 50: no worse than torch's L-BFGS started at the truth, which is next to the optimum."""
    for seed in range(100 + 10 * block, 110 + 10 * block):
        runs, law = surface(seed, (0.002, 0.01)[seed % 2])
        fit = fit_parametric(runs)
        assert fit.objective <= descend_with_torch(runs, [law], fit.delta) * (1 + 1e-6) + 1e-12, seed


def test_objective_and_residuals_are_those_of_the_law():
    runs, _ = surface(7, 0.01)
    fit = fit_parametric(runs)
    errors = np.log([fit.law.loss(n, d) / loss for n, d, loss in zip(runs.parameters, runs.tokens, runs.loss)])  # noqa: B905
    huber = sum(e * e / 2 if abs(e) <= 1e-3 else 1e-3 * (abs(e) - 5e-4) for e in errors)
    assert fit.residuals == pytest.approx(errors, abs=1e-9)
    assert fit.objective == pytest.approx(huber, rel=1e-6)


def test_many_fits_at_once_are_single_fits():
    runs, law = surface(3, 0.01)
    other = simulate(np.random.default_rng(1), runs, law, 0.01)
    table = refit(runs, law, log_loss=np.log([runs.loss, other.loss]), delta=0.01)
    for row, single in zip(table, (runs, other), strict=True):
        assert row == pytest.approx(fit_parametric(single, delta=0.01).law.as_tuple(), rel=1e-2)


def test_counts_as_weights_are_repeated_runs():
    runs, law = surface(4, 0.01)
    counts = draw_counts(runs.budget, num_resamples=1, rng=np.random.default_rng(0))
    assert counts.sum() == len(runs)
    repeated = runs[np.repeat(np.arange(len(runs)), counts[0].astype(int))]
    weighted = refit(runs, law, log_loss=np.log(runs.loss)[None], delta=0.01, weights=counts)[0]
    assert weighted == pytest.approx(fit_parametric(repeated, delta=0.01).law.as_tuple(), rel=1e-2)


@pytest.mark.long
def test_ninety_percent_intervals_hold_the_truth_nine_times_in_ten():
    """60 designs; a binomial 90 % has a standard deviation of 4 %. The full run is benchmarks/bench_coverage.py."""
    hits = coverage(seed=5, num_designs=60, num_resamples=100, noise=0.005)
    for quantity in ("loss of a new run", "N_opt", "a", "E", "alpha", "beta"):
        assert 0.80 <= hits[quantity] / 60 <= 0.99, (quantity, hits)


def test_residuals_are_drawn_with_the_noise_of_their_source():
    rng = np.random.default_rng(0)
    residuals = rng.standard_normal(2000) * 0.01
    drawn = draw_residuals(residuals, fitted=5, num_resamples=500, rng=rng)
    assert drawn.std() == pytest.approx(0.01, rel=0.05) and abs(drawn.mean()) < 1e-4
    assert noise_delta(residuals) == pytest.approx(0.01345, rel=0.05)


def test_percentile_interval():
    interval = percentile_interval(50.0, np.arange(101.0), 0.9)
    assert (interval.low, interval.high) == pytest.approx((5.0, 95.0)) and 50.0 in interval and 96.0 not in interval
    with pytest.raises(ValueError, match="have no answer"):
        percentile_interval(0.0, [1.0, np.nan, np.nan], 0.9)


def test_a_narrow_design_is_told():
    law = ParametricLaw(2.0, 300.0, 900.0, 0.33, 0.29)
    n = np.array([1e8, 1.5e8, 2e8] * 4)
    d = np.repeat(np.geomspace(1e8, 1e11, 4), 3)
    runs = RunTable(n, d, np.repeat(np.geomspace(6e16, 1e20, 4), 3), law.loss(n, d))
    assert any("parameters span a factor of 2" in warning for warning in fit_parametric(runs).warnings)


def test_one_budget_is_told_and_too_few_runs_are_refused():
    table = load_isoflops()
    one = table[table.budget == 6e18]
    assert any("one budget" in warning for warning in fit_parametric(one).warnings)
    with pytest.raises(ValueError, match="at least 6 runs"):
        fit_parametric(one[np.arange(5)])


def test_noise_that_hides_an_exponent_is_told():
    law = ParametricLaw(2.0, 30.0, 1e-9, 0.33, 0.29)
    rng = np.random.default_rng(0)
    runs = simulate(rng, isoflop_design(rng), law, 0.01)
    fit = fit_parametric(runs, delta=0.02)
    warnings = bootstrap_parametric(runs, fit, num_resamples=100).warnings()
    assert any("beta" in warning or "term of D" in warning for warning in warnings), warnings
