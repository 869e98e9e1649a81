"""Critical batch, noise scale, learning rates, repeated data, envelopes: each recovers what it was made from."""

from __future__ import annotations

import numpy as np
import pytest

from cs336_scaling.batch_size import bergsma_batch, fit_critical_batch, gradient_noise_scale, kaplan_critical_batch
from cs336_scaling.envelope import Curve, fit_envelope
from cs336_scaling.learning_rate import best_learning_rate, fit_rate_law
from cs336_scaling.parametric_law import ParametricLaw
from cs336_scaling.repetition import effective, fit_repetitions, loss_with_repetition

LAW = ParametricLaw(1.8, 300.0, 900.0, 0.33, 0.29)


def test_critical_batch_from_the_hyperbola():
    """(S/S_min - 1)(E/E_min - 1) = 1 with S_min = 500, E_min = 2e6."""
    ratio = np.array([0.05, 0.3, 1.0, 4.0, 20.0])  # S/S_min - 1
    steps, tokens = 500 * (1 + ratio), 2e6 * (1 + 1 / ratio)
    fit = fit_critical_batch(tokens / steps, steps)
    assert (fit.least_steps, fit.least_tokens, fit.critical) == pytest.approx((500, 2e6, 4000), rel=1e-9)
    assert fit.steps(4000) == pytest.approx(1000) and fit.warnings == ()


def test_batches_to_one_side_are_told():
    batches = np.array([100.0, 200.0, 400.0])
    assert "above all batches" in fit_critical_batch(batches, 500 + 2e6 / batches).warnings[0]
    with pytest.raises(ValueError, match="one side"):
        fit_critical_batch(batches, [100.0, 200.0, 400.0])


def test_noise_scale_of_gaussian_gradients():
    """Gradients of mean G and covariance Sigma per example; B_simple is tr Sigma / |G|^2."""
    rng = np.random.default_rng(0)
    mean, sd = np.full(50, 0.1), np.linspace(0.5, 1.5, 50)

    def squared_norm(batch):
        return float(((mean + sd / np.sqrt(batch) * rng.standard_normal((20_000, 50))) ** 2).sum(axis=1).mean())

    found = gradient_noise_scale(squared_norm(8), squared_norm(64), small_batch=8, large_batch=64)
    assert found == pytest.approx((sd**2).sum() / (mean**2).sum(), rel=0.05)
    with pytest.raises(ValueError, match="average over more"):
        gradient_noise_scale(1.0, 2.0, small_batch=8, large_batch=64)


def test_published_batches():
    assert kaplan_critical_batch(2.0) == pytest.approx(2e8 / 2 ** (1 / 0.21))
    assert bergsma_batch(8e9, reference_tokens=1e9) == 2**20  # 8^0.383 = 2.2, rounded down to a doubling
    assert bergsma_batch(1e9, reference_tokens=1e9) == 2**19


def test_best_rate_lies_between_the_rates_tried():
    rates = np.geomspace(1e-4, 1e-1, 9)
    best = best_learning_rate(rates[::-1], 3 + 0.2 * (np.log(rates[::-1]) - np.log(0.004)) ** 2)
    assert best.rate == pytest.approx(0.004, rel=1e-6) and best.loss == pytest.approx(3) and not best.warning


def test_rate_law_over_widths():
    rates = np.geomspace(1e-4, 1e-1, 13)
    sweeps = {}
    for width in (64, 128, 256, 512):
        off = np.log(rates) - np.log(0.5 * width**-0.8)
        losses = 3 + 0.1 * off**2
        losses[off > 2.5] = np.inf  # diverged
        sweeps[width] = (rates, losses)
    law = fit_rate_law(sweeps)
    assert law.gamma == pytest.approx(0.8, rel=1e-6) and law.law.k == pytest.approx(0.5, rel=1e-5)
    assert law.warnings == ()


def test_a_sweep_that_ends_too_early_is_told():
    rates = np.array([1e-3, 2e-3, 4e-3])
    assert "higher" in best_learning_rate(rates, [3.0, 2.0, 1.0]).warning
    assert any("third" in w for w in fit_rate_law({64: (rates, [3, 2, 3]), 128: (rates, [3, 2, 3])}).warnings)


def test_repeated_tokens_fade():
    unique = 100.0
    assert effective(50.0, unique) == 50.0 and effective(100.0, unique) == 100.0
    assert effective(400.0, unique) == pytest.approx(400, rel=0.08)  # four epochs are nearly fresh
    assert effective(1e9, unique) == pytest.approx(100 * (1 + 15.4), rel=1e-6)
    marginal = [float(effective(100.0 * (e + 0.01), unique) - effective(100.0 * e, unique)) for e in (1, 5, 20, 60)]
    assert marginal == sorted(marginal, reverse=True) and marginal[0] == pytest.approx(1.0, rel=0.01)


def test_repetition_law_is_recovered():
    rng = np.random.default_rng(0)
    n, unique = 10 ** rng.uniform(6, 8, 40), 10 ** rng.uniform(7, 8, 40)
    tokens = unique * rng.uniform(1, 40, 40)
    by_hand = [u * (1 + 9.0 * (1 - np.exp(-(d / u - 1) / 9.0))) for u, d in zip(unique, tokens, strict=True)]
    fit = fit_repetitions(LAW, n, tokens, LAW.loss(n, by_hand), unique=unique)
    assert fit.repetitions == pytest.approx(9.0, rel=1e-5) and fit.warnings == ()
    assert np.abs(fit.residuals).max() < 1e-6


def test_too_large_models_for_unique_tokens_lose_worth():
    """At the size that is best for U tokens, and below, parameters count in full."""
    unique = 1e8
    sizes = np.geomspace(1e3, 1e13, 200_001)
    enough = float(sizes[np.argmin(np.abs(LAW.allocation(6 * sizes * unique)[1] - unique))])
    full = {"unique": unique, "parameter_repetitions": float("inf")}
    for factor, equal in ((0.5, True), (0.99, True), (50.0, False)):
        with_limit = float(loss_with_repetition(LAW, factor * enough, unique, unique=unique))
        without = float(loss_with_repetition(LAW, factor * enough, unique, **full))
        assert (with_limit == pytest.approx(without, rel=1e-9)) is equal, factor


def test_envelope_of_many_sizes_finds_the_law():
    """Curves whose every point is a finished run; 60 sizes make the envelope nearly smooth."""
    sizes = np.geomspace(1e6, 1e9, 60)
    tokens = np.geomspace(1e6, 1e12, 400)
    envelope = fit_envelope([Curve(n, tokens, LAW.loss(n, tokens)) for n in sizes])
    inside = (envelope.sizes > sizes[2]) & (envelope.sizes < sizes[-3])
    best = LAW.allocation(envelope.flops[inside])[0]
    assert np.abs(np.log(envelope.sizes[inside] / best)).max() < 0.12  # the grid's step is 0.117


def test_envelopes_refuse_what_cannot_be_compared():
    with pytest.raises(ValueError, match="at least 3"):
        fit_envelope([Curve(1e6, [1, 2], [3, 2])])
    with pytest.raises(ValueError, match="same FLOPs"):
        fit_envelope([Curve(10.0**k, [1, 2], [3, 2]) for k in (3, 6, 9)])
