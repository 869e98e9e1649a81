"""The shipped IsoFLOP table gives the figures that the course's file is known to give."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cs336_scaling.isoflops import fit_isoflops, isoflops_optima
from cs336_scaling.isoflops_data import isoflops_records
from cs336_scaling.isoflops_intervals import bootstrap_isoflops
from cs336_scaling.parametric import fit_parametric, fit_parametric_robust
from cs336_scaling.parametric_intervals import bootstrap_parametric
from cs336_scaling.parametric_law import PUBLISHED
from cs336_scaling.power_law import fit_floored_power_law, fit_power_law_linear
from cs336_scaling.runs_table import SHIPPED, RunTable, load_isoflops

LOWEST = [762093419, 806647749, 1536852354, 1952041776, 3253402960, 5903836027, 6971055968, 6859328563, 12148905329]


@pytest.fixture(scope="module")
def runs():
    return load_isoflops()


def test_the_shipped_table_is_what_its_script_makes():
    assert json.loads(SHIPPED.read_text()) == isoflops_records()


def test_the_shipped_table_is_the_course_file_up_to_rounding(runs):
    folder = os.environ.get("CS336_REAL_DATA")
    if not folder or not (Path(folder) / "scaling" / "isoflops_curves.json").is_file():
        pytest.skip("CS336_REAL_DATA is not set")
    theirs = load_isoflops(Path(folder) / "scaling" / "isoflops_curves.json")
    theirs = theirs[np.lexsort((theirs.parameters, theirs.budget))]
    assert np.abs(runs.parameters - theirs.parameters).max() <= 1
    assert np.abs(runs.loss - theirs.loss).max() < 2e-8


def test_lowest_runs(runs):
    assert [optimum.parameters for optimum in isoflops_optima(runs, "lowest")] == pytest.approx(LOWEST, abs=1)


@pytest.mark.parametrize(
    ("method", "a", "k", "n", "b", "d"),
    [
        ("lowest", 0.46868, 1.16341, (7.005e10, 2.061e11), 0.53132, (2.379e11, 8.086e11)),
        ("parabola", 0.51458, 0.13317, (9.114e10, 2.981e11), 0.48542, (1.829e11, 5.592e11)),
        ("parabola_local", 0.51427, None, (9.169e10, 2.997e11), 0.48573, (1.818e11, 5.562e11)),
    ],
)
def test_power_laws(runs, method, a, k, n, b, d):
    fit = fit_isoflops(runs, method)
    assert fit.parameters.a == pytest.approx(a, abs=1e-4) and fit.tokens.a == pytest.approx(b, abs=1e-4)
    assert k is None or fit.parameters.k == pytest.approx(k, rel=1e-3)
    assert fit.parameters([1e23, 1e24]) == pytest.approx(n, rel=2e-3)
    assert fit.tokens([1e23, 1e24]) == pytest.approx(d, rel=2e-3)
    assert fit.warnings == ()


def test_the_linear_fit_and_its_bias(runs):
    optima = isoflops_optima(runs, "lowest")
    budgets = [optimum.budget for optimum in optima]
    sizes = fit_power_law_linear(budgets, [optimum.parameters for optimum in optima])
    tokens = fit_power_law_linear(budgets, [optimum.tokens for optimum in optima])
    assert (sizes.k, sizes.a) == pytest.approx((25.793, 0.40381), rel=1e-3)
    assert (tokens.k, tokens.a) == pytest.approx((0.0063376, 0.59677), rel=1e-3)
    assert sizes([1e23, 1e24]) == pytest.approx((5.002e10, 1.268e11), rel=2e-3)
    assert tokens([1e23, 1e24]) == pytest.approx((3.370e11, 1.332e12), rel=2e-3)


def test_the_law_of_the_loss(runs):
    optima = isoflops_optima(runs, "lowest")
    law = fit_floored_power_law([o.budget / 1e20 for o in optima], [o.loss for o in optima])
    assert (law.floor, law.k, law.c) == pytest.approx((2.710, 1.940, 0.1764), rel=2e-3)
    assert law([1e3, 1e4]) == pytest.approx((3.283, 3.092), abs=1e-3)


@pytest.mark.parametrize("largest", [3e21, 1e20])
def test_the_parametric_fit_is_the_truth(runs, largest):
    law = fit_parametric(runs[runs.budget <= largest]).law
    assert law.as_tuple() == pytest.approx((2.69, 1606.4, 3210.7, 0.34, 0.36), rel=1e-6)
    assert law.parameter_exponent == pytest.approx(0.514286, abs=1e-6)
    (n, d), flops = law.allocation([1e23, 1e24]), np.array([1e23, 1e24])
    assert n == pytest.approx((9.189e10, 3.003e11), rel=1e-3) and d == pytest.approx((1.814e11, 5.550e11), rel=1e-3)
    assert law.loss(n, d) == pytest.approx((3.2750, 3.0811), abs=1e-4)
    for biased, cost in ((7.005e10, 0.0026), (5.002e10, 0.0132)):  # a flat basin: a biased size costs little
        assert law.loss(biased, flops[0] / 6 / biased) - law.loss(n[0], d[0]) == pytest.approx(cost, abs=5e-4)


@pytest.mark.parametrize(
    ("method", "scheme", "a", "n", "tolerance"),
    [
        ("lowest", "budgets", (0.427, 0.541), (5.4e10, 1.25e11), 0.01),
        ("lowest", "runs", (0.398, 0.592), None, 0.02),
        ("parabola", "budgets", (0.511, 0.517), (8.89e10, 9.26e10), 0.002),
        ("parabola", "runs", (0.510, 0.521), None, 0.002),
    ],
)
def test_bootstrap_intervals(runs, method, scheme, a, n, tolerance):
    resampled = bootstrap_isoflops(runs, fit_isoflops(runs, method), scheme=scheme, num_resamples=4000, seed=0)
    interval = resampled.exponents(0.95)["a"]
    assert (interval.low, interval.high) == pytest.approx(a, abs=tolerance)
    if n is not None:
        interval = resampled.optimum(1e23, 0.95)[0]
        assert (interval.low, interval.high) == pytest.approx(n, rel=0.04)


def test_intervals_widen_with_half_a_percent_of_noise(runs):
    """Widths as published for one draw of the noise: parabola 0.031, parametric 0.023."""
    noise = np.exp(0.005 * np.random.default_rng(1).standard_normal(len(runs)))
    noisy = RunTable(runs.parameters, runs.tokens, runs.budget, runs.loss * noise)
    parabola = bootstrap_isoflops(noisy, fit_isoflops(noisy), scheme="residuals").exponents(0.95)["a"]
    fit = fit_parametric_robust(noisy)
    parametric = bootstrap_parametric(noisy, fit, num_resamples=300).parameters(0.95)["a"]
    assert 0.014 < parabola.high - parabola.low < 0.06
    assert 0.012 < parametric.high - parametric.low < 0.04
    assert 0.514286 in parametric


@pytest.mark.parametrize(("flops", "n", "ratio"), [(1e18, 8.1e7, 26), (1e19, 2.6e8, 24), (1e20, 8.5e8, 23),
                                                   (1e21, 2.8e9, 22), (5.76e23, 7.2e10, 18)])  # fmt: skip
def test_besiroglu_constants(flops, n, ratio):
    size, tokens = PUBLISHED["Besiroglu et al. 2024"].allocation(flops)
    assert size == pytest.approx(n, rel=0.03)
    assert tokens / size == pytest.approx(ratio, abs=0.9)


def test_rounded_hoffmann_constants_contradict_their_table():
    size, tokens = PUBLISHED["Hoffmann et al. 2022"].allocation([1e18, 5.76e23])
    assert tokens / size == pytest.approx((26, 93), rel=0.05)
