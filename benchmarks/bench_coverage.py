"""Do 90 % intervals of the parametric fit hold the truth 90 % of the time, and is its optimum always the global one?

    python benchmarks/bench_coverage.py [--quick]

Coverage: random laws and IsoFLOP designs of 20 to 56 runs, noise of 0.2 % and 1 % in the loss; the target has 10 times
the largest budget. Global optimum: 100 random surfaces, half without noise; the fit's objective against the best of
torch's L-BFGS from the truth, from the fit and from 20 random starts. About an hour of one core; --quick some minutes.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

import numpy as np

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_scaling.parametric import fit_parametric
from cs336_scaling.parametric_law import ParametricLaw

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "unit" / "scaling"))
from simulated_runs import coverage, descend_with_torch, isoflop_design, random_law, simulate  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "scaling_fits.json"


def global_optima(count: int, starts: int) -> dict[str, float]:
    """How many of `count` surfaces the fit solves, and its worst excess over the best descent."""
    solved, worst = 0, 0.0
    for seed in range(count):
        rng = np.random.default_rng(seed)
        design = isoflop_design(rng)
        law = random_law(rng, design)
        runs = simulate(rng, design, law, (0.0, 0.002, 0.0, 0.01)[seed % 4])
        fit = fit_parametric(runs)
        others = [law, fit.law] + [_random_start(rng, law) for _ in range(starts)]
        excess = fit.objective - descend_with_torch(runs, others, fit.delta)
        solved += excess <= 1e-6 * fit.objective + 1e-12
        worst = max(worst, excess / max(fit.objective, 1e-12))
    return {"surfaces": count, "solved": int(solved), "worst_relative_excess": worst}


def _random_start(rng: np.random.Generator, law: ParametricLaw) -> ParametricLaw:
    """Far from the truth: exponents anew, coefficients off by up to e^2."""
    alpha, beta = rng.uniform(0.05, 1.5, 2)
    a, b, e = np.exp(rng.uniform(-2, 2, 3))
    return ParametricLaw(e * law.E, a * law.A, b * law.B, alpha, beta)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer designs; results are printed, not written")
    quick = parser.parse_args().quick
    designs, resamples = (50, 100) if quick else (500, 300)
    results: dict[str, object] = {"optimum": global_optima(20 if quick else 100, 3 if quick else 20)}
    print(results["optimum"], flush=True)
    for noise in (0.002, 0.01):
        hits = coverage(1, num_designs=designs, num_resamples=resamples, noise=noise)
        results[f"coverage, noise {noise:.1%}"] = {name: count / designs for name, count in hits.items()}
        print(noise, results[f"coverage, noise {noise:.1%}"], flush=True)
    if not quick:
        facts = {"measured": datetime.date.today().isoformat(), "designs": designs, "resamples": resamples}
        write_json(RESULTS, {**facts, **results, "environment": describe_environment()})


if __name__ == "__main__":
    main()
