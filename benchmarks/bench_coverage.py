"""Do 90 % intervals of the parametric fit hold the truth 90 % of the time, and is its optimum always the global one?

    python benchmarks/bench_coverage.py [--for-seconds 3600] [--out FILE] [--quick]

Coverage: random laws and IsoFLOP designs of 20 to 56 runs, noise of 0.2 % and 1 % in the loss; the target has 10 times
the largest budget. Global optimum: 100 random surfaces; on the half without noise the least objective is 0, at the
truth; on the others it is the best of torch's L-BFGS from the truth, from the fit and from 20 random starts.

The work is dealt in pieces of some seconds, each with a seed of its own and written when it is done: a run that was
ended, by --for-seconds or otherwise, goes on where it stopped. About a quarter of an hour of one core; --quick a minute.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_scaling.parametric import fit_parametric
from cs336_scaling.parametric_law import ParametricLaw

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "unit" / "scaling"))
from simulated_runs import coverage, descend_with_torch, isoflop_design, random_law, simulate  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "scaling_fits.json"
NOISES = (0.002, 0.01)
SURFACES_PER_PIECE, DESIGNS_PER_PIECE = 5, 25
Pieces = dict[str, dict[str, Any]]


def global_optima(seeds: range, starts: int) -> dict[str, float]:
    """How many surfaces the fit solves, and its worst excess over the best descent."""
    solved, worst = 0, 0.0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        design = isoflop_design(rng)
        law = random_law(rng, design)
        noise = (0.0, 0.002, 0.0, 0.01)[seed % 4]
        runs = simulate(rng, design, law, noise)
        fit = fit_parametric(runs)
        others = [law, fit.law] + [_random_start(rng, law) for _ in range(starts)]
        best = descend_with_torch(runs, others, fit.delta, max_iter=500, tolerance=1e-13) if noise else 0.0
        excess = fit.objective - best
        solved += excess <= 1e-6 * fit.objective + 1e-12
        worst = max(worst, excess / max(fit.objective, 1e-12))
    return {"surfaces": len(seeds), "solved": int(solved), "worst_relative_excess": worst}


def _random_start(rng: np.random.Generator, law: ParametricLaw) -> ParametricLaw:
    """Far from the truth: exponents anew, coefficients off by up to e^2."""
    alpha, beta = rng.uniform(0.05, 1.5, 2)
    a, b, e = np.exp(rng.uniform(-2, 2, 3))
    return ParametricLaw(e * law.E, a * law.A, b * law.B, alpha, beta)


def plan(*, surfaces: int, starts: int, designs: int, resamples: int) -> dict[str, Callable[[], dict[str, float]]]:
    """All pieces by name, not yet run."""
    pieces: dict[str, Callable[[], dict[str, float]]] = {}
    for first in range(0, surfaces, SURFACES_PER_PIECE):
        seeds = range(first, first + SURFACES_PER_PIECE)
        pieces[f"optimum {first}"] = lambda seeds=seeds: global_optima(seeds, starts)
    for noise in NOISES:
        for seed in range(designs // DESIGNS_PER_PIECE):
            pieces[f"coverage {noise} {seed}"] = lambda seed=seed, noise=noise: coverage(
                1000 + seed, num_designs=DESIGNS_PER_PIECE, num_resamples=resamples, noise=noise
            )
    return pieces


def summary(pieces: Pieces) -> dict[str, Any]:
    """Totals over the pieces done so far."""
    optimum = [result for name, result in pieces.items() if name.startswith("optimum")]
    totals: dict[str, Any] = {"optimum": {
        "surfaces": sum(piece["surfaces"] for piece in optimum), "solved": sum(piece["solved"] for piece in optimum),
        "worst_relative_excess": max((piece["worst_relative_excess"] for piece in optimum), default=0.0),
    }}  # fmt: skip
    for noise in NOISES:
        done = [result for name, result in pieces.items() if name.startswith(f"coverage {noise} ")]
        hits, designs = sum((Counter(piece) for piece in done), Counter()), DESIGNS_PER_PIECE * len(done)
        shares = {name: number / designs for name, number in hits.items()}
        totals[f"coverage, noise {noise:.1%}"] = {"designs": designs, **shares}
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--for-seconds", type=float, default=3600.0, help="begin no further piece after this time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result; an unfinished one is continued")
    parser.add_argument("--quick", action="store_true", help="fewer designs; results are printed, not written")
    options = parser.parse_args()
    sizes = {"surfaces": 100, "starts": 20, "designs": 500, "resamples": 300}
    if options.quick:
        sizes = {"surfaces": 10, "starts": 3, "designs": 50, "resamples": 100}
    todo, done = plan(**sizes), {}
    if not options.quick and options.out.exists():
        done = json.loads(options.out.read_text(encoding="utf-8")).get("pieces", {})
        done = {} if set(done) >= set(todo) else done  # a complete one is measured anew
    end = time.monotonic() + options.for_seconds
    for name in [name for name in todo if name not in done]:
        if time.monotonic() > end:
            break
        done[name] = todo[name]()
        print(name, done[name], flush=True)
        if not options.quick:
            facts = {"measured": datetime.date.today().isoformat(), **sizes, "environment": describe_environment()}
            write_json(options.out, {**facts, **summary(done), "pieces": done})
    print(f"{len(done)} of {len(todo)} pieces:", json.dumps(summary(done), indent=2))


if __name__ == "__main__":
    main()
