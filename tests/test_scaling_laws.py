"""Assignment 3: IsoFLOP optima, power laws, the parametric fit, the best split of a budget, counting FLOPs."""

from __future__ import annotations

import numpy as np
import pytest

E, A, B, ALPHA, BETA = 1.8, 300.0, 900.0, 0.33, 0.29
BUDGETS = (1e18, 4e18, 2e19, 1e20, 8e20)


def law(n, d):
    return E + A / np.asarray(n) ** ALPHA + B / np.asarray(d) ** BETA


def best_size(budget):
    """The least loss on a very fine grid of sizes."""
    sizes = np.geomspace(1e5, 1e13, 400_001)
    losses = law(sizes, budget / (6 * sizes))
    return sizes[losses.argmin()], losses.min()


def profiles(sizes_per_budget=9, width=3.0, off_centre=1.0):
    runs = []
    for budget in BUDGETS:
        middle = best_size(budget)[0] * off_centre
        for size in np.geomspace(middle / width, middle * width, sizes_per_budget):
            loss = float(law(size, budget / (6 * size)))
            runs.append({"parameters": float(size), "compute_budget": budget, "final_loss": loss})
    return runs


def columns(runs):
    n = np.array([run["parameters"] for run in runs])
    budget = np.array([run["compute_budget"] for run in runs])
    return n, budget / (6 * n), np.array([run["final_loss"] for run in runs])


def test_lowest_run_of_each_budget(adapters):
    runs = profiles()
    shuffled = [runs[i] for i in np.random.default_rng(0).permutation(len(runs))]
    optima = adapters.run_isoflops_optima(shuffled, "lowest")
    assert sorted(optima) == sorted(BUDGETS)
    for budget in BUDGETS:
        best = min((run for run in runs if run["compute_budget"] == budget), key=lambda run: run["final_loss"])
        assert optima[budget] == (best["parameters"], best["final_loss"])


def test_parabola_finds_the_minimum_between_two_sizes(adapters):
    optima = adapters.run_isoflops_optima(profiles(sizes_per_budget=8), "parabola")
    for budget in BUDGETS:
        size, loss = best_size(budget)
        assert optima[budget][0] == pytest.approx(size, rel=0.05)
        assert optima[budget][1] == pytest.approx(loss, rel=0.001)


def test_parabola_is_the_vertex_of_least_squares(adapters):
    """Against numpy's polynomial fit, sizes off-centre."""
    runs = profiles(off_centre=2.0)
    optima = adapters.run_isoflops_optima(runs, "parabola")
    for budget in BUDGETS:
        profile = [run for run in runs if run["compute_budget"] == budget]
        fit = np.polynomial.Polynomial.fit(
            np.log([run["parameters"] for run in profile]), [run["final_loss"] for run in profile], 2
        )
        vertex = fit.deriv().roots()[0]
        assert optima[budget][0] == pytest.approx(np.exp(vertex), rel=1e-6)
        assert optima[budget][1] == pytest.approx(fit(vertex), rel=1e-9)


def test_power_law_is_fitted_in_the_logarithm(adapters):
    rng = np.random.default_rng(3)
    x = np.geomspace(1e3, 1e21, 30)
    y = 0.07 * x**0.46 * np.exp(0.3 * rng.standard_normal(30))
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    k, a = adapters.run_fit_power_law(x, y)
    assert a == pytest.approx(slope, rel=1e-9)
    assert k == pytest.approx(np.exp(intercept), rel=1e-6)


def test_power_law_without_noise_is_exact(adapters):
    x = np.array([6e18, 1e19, 3e20, 3e21])
    assert adapters.run_fit_power_law(x, 1.163 * x**0.469) == pytest.approx((1.163, 0.469), rel=1e-9)


def test_parametric_fit_recovers_the_law(adapters):
    assert adapters.run_fit_parametric(*columns(profiles(width=6.0))) == pytest.approx((E, A, B, ALPHA, BETA), rel=1e-3)


@pytest.mark.parametrize("seed", range(12))
def test_parametric_fit_of_random_laws(adapters, seed):
    """From one start many of these end in another valley."""
    rng = np.random.default_rng(seed)
    n, d, _ = columns(profiles(width=6.0))
    floor, alpha, beta = rng.uniform(0.5, 3.0), *rng.uniform(0.15, 0.9, 2)
    a, b = rng.uniform(0.2, 2.0, 2) * np.array([n.mean() ** alpha, d.mean() ** beta])
    found = adapters.run_fit_parametric(n, d, floor + a / n**alpha + b / d**beta)
    assert found == pytest.approx((floor, a, b, alpha, beta), rel=2e-2)


def test_parametric_fit_shrugs_off_an_outlier(adapters):
    """One of 45 losses is 20 % too high; a least-squares fit of the five numbers would move by far more."""
    n, d, loss = columns(profiles(width=6.0))
    loss[7] *= 1.2
    found = adapters.run_fit_parametric(n, d, loss)
    assert found[0] == pytest.approx(E, rel=0.01)
    assert found[3:] == pytest.approx((ALPHA, BETA), rel=0.02)


@pytest.mark.parametrize("budget", [1e18, 1e21, 1e24])
def test_allocation_is_the_least_loss_of_the_budget(adapters, budget):
    size, tokens = adapters.run_optimal_allocation((E, A, B, ALPHA, BETA), budget)
    assert 6 * size * tokens == pytest.approx(budget, rel=1e-9)
    assert size == pytest.approx(best_size(budget)[0], rel=1e-3)


def test_flops_count_every_matrix_product(adapters):
    """Against a sum over all products of one forward pass: (rows, inner, columns) each."""
    layers, d, vocab, seq, tokens = 3, 64, 1000, 32, 3200
    products = [(seq, d, 3 * d), (seq, d, seq), (seq, seq, d), (seq, d, d), (seq, d, 4 * d), (seq, 4 * d, d)] * layers
    products.append((seq, d, vocab))
    forward = sum(2 * rows * inner * columns for rows, inner, columns in products)
    config = {"num_layers": layers, "d_model": d, "vocab_size": vocab, "context_length": seq, "num_tokens": tokens}
    assert adapters.run_count_flops(config) == pytest.approx(3 * forward * tokens / seq, rel=1e-9)
