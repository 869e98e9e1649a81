"""Plans against brute force, and predictions of runs that were held out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from simulated_runs import simulate

from cs336_scaling.bootstrap import Interval
from cs336_scaling.design import PRIOR_SD, candidate_runs, plan_runs
from cs336_scaling.parametric import fit_parametric_robust
from cs336_scaling.parametric_intervals import bootstrap_parametric
from cs336_scaling.parametric_law import ParametricLaw
from cs336_scaling.prediction import HeldOut, held_out_error, law_window, predict
from cs336_scaling.runs_table import RunTable, load_isoflops

LAW = ParametricLaw(1.8, 300.0, 900.0, 0.33, 0.29)
BUDGETS = [1e17, 1e18, 1e19]


def log_loss(theta, run, centre):
    """The law in theta = (a, b, e, alpha, beta), a and b at the centre."""
    (n, d), (a, b, e, alpha, beta) = np.log(run) - centre, theta
    return np.log(np.exp(a - alpha * n) + np.exp(b - beta * d) + np.exp(e))


def half_width(runs, candidates, target, noise):
    """Of the target's ln L, by numerical derivatives and one matrix inverse."""
    centre = np.log(candidates).mean(axis=0)
    theta = np.array([np.log(LAW.A) - LAW.alpha * centre[0], np.log(LAW.B) - LAW.beta * centre[1], np.log(LAW.E),
                      LAW.alpha, LAW.beta])  # fmt: skip

    def slope(run):
        return np.array([
            (log_loss(theta + h, run, centre) - log_loss(theta - h, run, centre)) / 2e-6 for h in 1e-6 * np.eye(5)
        ])  # fmt: skip

    information = np.diag(PRIOR_SD**-2.0) + sum(np.outer(slope(run), slope(run)) for run in runs) / noise**2
    goal = slope(np.array([float(x) for x in LAW.allocation(target)]))
    return 1.645 * np.sqrt(goal @ np.linalg.inv(information) @ goal)


def test_the_promised_width_is_that_of_the_runs_bought():
    candidates = candidate_runs(LAW, BUDGETS, sizes=4)
    done = candidates[:5]
    plan = plan_runs([LAW], candidates, budget=4e19, target=1e21, noise=0.01, done=done, max_runs=6)
    assert plan.half_width_before == pytest.approx(half_width(done, candidates, 1e21, 0.01), rel=1e-3)
    bought = [(p.parameters, p.tokens) for p in plan.purchases]
    assert plan.half_width_after == pytest.approx(half_width(done + bought, candidates, 1e21, 0.01), rel=1e-3)
    widths = [plan.half_width_before] + [p.half_width for p in plan.purchases]
    assert widths == sorted(widths, reverse=True)


def test_one_purchase_is_the_best_of_all():
    candidates = candidate_runs(LAW, BUDGETS, sizes=4)
    plan = plan_runs([LAW], candidates, budget=1e19, target=1e21, noise=0.01, done=candidates[:5], max_runs=1)
    best = min(half_width([*candidates[:5], run], candidates, 1e21, 0.01) for run in candidates)
    assert plan.half_width_after == pytest.approx(best, rel=1e-3)


def test_two_purchases_are_near_the_best_pair():
    candidates = candidate_runs(LAW, BUDGETS, sizes=4)
    plan = plan_runs([LAW], candidates, budget=2e19, target=1e21, noise=0.01, done=candidates[::3], max_runs=2)
    best = min(
        half_width([*candidates[::3], *pair], candidates, 1e21, 0.01)
        for pair in itertools.combinations_with_replacement(candidates, 2)
    )
    assert best <= plan.half_width_after * (1 + 1e-3) and plan.half_width_after < 1.15 * best


def test_plans_stay_within_their_budget():
    candidates = candidate_runs(LAW, BUDGETS)
    plan = plan_runs([LAW], candidates, budget=2.5e19, target=1e21, noise=0.01)
    assert plan.spent == pytest.approx(sum(p.flops for p in plan.purchases)) and plan.spent <= 2.5e19
    with pytest.raises(ValueError, match="cheapest"):
        plan_runs([LAW], candidates, budget=1e16, target=1e21, noise=0.01)


def test_candidates_spend_their_budget_round_the_best_size():
    runs = candidate_runs(LAW, [1e18], sizes=5, width=4.0)
    assert [6 * n * d for n, d in runs] == pytest.approx([1e18] * 5)
    assert runs[2][0] == pytest.approx(float(LAW.allocation(1e18)[0]))


def test_prediction_of_a_run_ten_times_larger():
    table = load_isoflops()
    law = ParametricLaw(2.69, 1606.4, 3210.7, 0.34, 0.36)
    runs = simulate(np.random.default_rng(3), table, law, 0.005)
    found = predict(bootstrap_parametric(runs, fit_parametric_robust(runs), num_resamples=200), runs, 3e22)
    size, tokens = (float(x) for x in law.allocation(3e22))
    assert size in found.parameters and tokens in found.tokens and float(law.loss(size, tokens)) in found.loss
    assert found.loss.value == pytest.approx(float(law.loss(size, tokens)), rel=0.01)
    assert found.warnings == ()
    far = predict(bootstrap_parametric(runs, fit_parametric_robust(runs), num_resamples=50), runs, 1e26)
    assert any("times the largest" in warning for warning in far.warnings)


def test_the_largest_budget_is_held_out():
    """Without noise its runs are predicted exactly; a budget that does not follow the law shows."""
    runs = load_isoflops()
    assert np.abs(held_out_error(runs, num_resamples=20).errors).max() < 1e-6
    off = np.where(runs.budget == 3e21, runs.loss * 1.05, runs.loss)
    held = held_out_error(RunTable(runs.parameters, runs.tokens, runs.budget, off), num_resamples=20)
    assert held.errors == pytest.approx(np.full(8, 1 / 1.05 - 1), abs=1e-6) and held.inside == 0.0


def test_the_window_begins_where_the_law_does():
    """Budgets below a bend follow another law: they are left out, and only they."""
    runs = simulate(np.random.default_rng(5), load_isoflops(), LAW, 0.002)
    bend = runs.budgets[2]
    bent = np.where(runs.budget < bend, runs.loss * (bend / runs.budget) ** 0.05, runs.loss)
    window = law_window(RunTable(runs.parameters, runs.tokens, runs.budget, bent))
    assert window.budgets.tolist() == runs.budgets[2:].tolist()
    assert window.loss.tolist() == runs.loss[runs.budget >= bend].tolist()
    with pytest.raises(ValueError, match="no window of the 16 runs"):
        law_window(runs[runs.budget < bend])


def test_an_interval_is_widened_by_what_the_law_got_wrong():
    """A factor of 4 between budgets, 10 % off there: 16 times further out is two steps, 1.1 ** 2 on either side."""
    loss = Interval(2.0, 1.9, 2.1, 0.9)
    held = HeldOut(4e10, (), np.array([0.02, 0.1, -0.05]), 0.5, 4.0)
    wide = held.widen(loss, 64e10)
    assert (wide.value, wide.low, wide.high) == pytest.approx((2.0, 1.9 / 1.21, 2.1 * 1.21))
    near = held.widen(loss, 5e10)  # never less than one step
    assert (near.low, near.high) == pytest.approx((1.9 / 1.1, 2.1 * 1.1))
