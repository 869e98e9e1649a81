"""Wrong fits and counts of assignment 3. Read next: `service_clients.py`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cs336_course.misconceptions.bank import Misconception, wrong

Floats = npt.NDArray[np.float64]
Optimum = tuple[float, float]
Law = tuple[float, float, float, float, float]


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_isoflops(), *_parametric(), *_allocation(), *_flops()]


def lowest(size: Floats, loss: Floats) -> Optimum:
    """The run of least loss."""
    return float(size[loss.argmin()]), float(loss.min())


def vertex(size: Floats, loss: Floats, *, logarithm: bool = True) -> Optimum:
    """The parabola's vertex, in ln N unless told otherwise."""
    x = np.log(size) if logarithm else size
    fit = np.polynomial.Polynomial.fit(x, loss, 2)
    place = float(fit.deriv().roots()[0])
    return float(np.exp(place)) if logarithm else place, float(fit(place))


def power_law(x: Floats, y: Floats) -> tuple[float, float]:
    """(k, a) by least squares in the logarithm."""
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return float(np.exp(intercept)), float(slope)


def _isoflops() -> list[Misconception]:
    def entry(
        name: str,
        says: str,
        example: str,
        *,
        low: Callable[[Floats, Floats], Optimum] = lowest,
        parabola: Callable[[Floats, Floats], Optimum] = vertex,
        power: Callable[[Floats, Floats], tuple[float, float]] = power_law,
    ) -> Misconception:
        def optima(runs: list[dict[str, float]], method: str) -> dict[float, Optimum]:
            found = {}
            for budget in {run["compute_budget"] for run in runs}:
                mine = [run for run in runs if run["compute_budget"] == budget]
                size, loss = (np.array([run[key] for run in mine]) for key in ("parameters", "final_loss"))
                found[budget] = (low if method == "lowest" else parabola)(size, loss)
            return found

        return wrong("chinchilla_isoflops", name, says, example, run_isoflops_optima=optima, run_fit_power_law=power)

    def nearest(size: Floats, loss: Floats) -> Optimum:
        place = int(np.abs(np.log(size) - math.log(vertex(size, loss)[0])).argmin())
        return float(size[place]), float(loss[place])

    def middle_three(size: Floats, loss: Floats) -> Optimum:
        order = np.argsort(size)
        best = min(max(int(loss[order].argmin()), 1), len(size) - 2)
        return vertex(size[order][best - 1 : best + 2], loss[order][best - 1 : best + 2])

    def linear(x: Floats, y: Floats) -> tuple[float, float]:
        """Least squares of y itself, by a fine search over the exponent."""
        exponents = np.linspace(0.01, 1.2, 20_001)
        scaled = x / x.max()
        terms = scaled[None, :] ** exponents[:, None]
        factors = terms @ y / (terms**2).sum(1)
        best = int(((factors[:, None] * terms - y) ** 2).sum(1).argmin())
        return float(factors[best] / x.max() ** exponents[best]), float(exponents[best])

    def through_ends(x: Floats, y: Floats) -> tuple[float, float]:
        a = math.log(y[-1] / y[0]) / math.log(x[-1] / x[0])
        return float(y[0] / x[0] ** a), a

    return [
        entry("first-run", "the first run of each budget is taken instead of that of least loss", "runs in another order", low=lambda n, y: (float(n[0]), float(y[0]))),
        entry("largest-run", "the largest model of each budget is taken", "a budget whose largest model is too large", low=lambda n, y: (float(n.max()), float(y[n.argmax()]))),
        entry("size-in-logarithm", "the vertex is returned as ln N", "a vertex at ln N = 18 is N = e^18", parabola=lambda n, y: (math.log(vertex(n, y)[0]), vertex(n, y)[1])),
        entry("parabola-in-N", "the parabola is fitted in N instead of ln N", "sizes that span a factor of 10", parabola=lambda n, y: vertex(n, y, logarithm=False)),
        entry("nearest-run", "the run nearest to the vertex is returned instead of the vertex", "two runs left and right of the minimum", parabola=nearest),
        entry("loss-of-the-lowest-run", "the loss is that of the lowest run instead of the parabola's at its vertex", "two runs left and right of the minimum", parabola=lambda n, y: (vertex(n, y)[0], float(y.min()))),
        entry("three-runs-only", "the parabola goes through the lowest run and its neighbours instead of all runs", "noisy losses", parabola=middle_three),
        entry("always-lowest", "the method is not used", 'method = "parabola"', parabola=lowest),
        entry("fit-of-y", "y itself is fitted instead of ln y, so that the largest run decides alone", "points that err by factors", power=linear),
        entry("k-in-logarithm", "k is returned as ln k", "y = x: k = 1, not 0", power=lambda x, y: (math.log(power_law(x, y)[0]), power_law(x, y)[1])),
        entry("k-a-swapped", "k and a have changed places", "y = 2 x: (2, 1)", power=lambda x, y: power_law(x, y)[::-1]),
        entry("through-the-ends", "the line goes through the first and last point only", "three points, the middle one off the line", power=through_ends),
    ]  # fmt: skip


def fitted(n: Floats, d: Floats, loss: Floats) -> Law:
    """The right fit, by the library's own code: what is wrong comes after it."""
    from cs336_scaling.parametric import fit_parametric
    from cs336_scaling.runs_table import RunTable

    return fit_parametric(RunTable(n, d, 6 * n * d, loss)).law.as_tuple()


def least_squares(n: Floats, d: Floats, loss: Floats, of: Callable[[Floats], Floats]) -> Law:
    """The fit with squared errors of `of(L)`, by damped Gauss-Newton from a robust start."""
    e, a, b, alpha, beta = fitted(n, d, loss)
    x = np.array([math.log(max(e, 1e-3)), math.log(a), math.log(b), alpha, beta])

    def errors(x: Floats) -> Floats:
        law = np.exp(x[0]) + np.exp(x[1] - x[3] * np.log(n)) + np.exp(x[2] - x[4] * np.log(d))
        return of(law) - of(loss)

    damping = 1e-3
    for _ in range(300):
        now = errors(x)
        slopes = np.stack([(errors(x + 1e-6 * unit) - now) / 1e-6 for unit in np.eye(5)], axis=1)
        normal = slopes.T @ slopes
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), -slopes.T @ now)
        better = float((errors(x + step) ** 2).sum()) < float((now**2).sum())
        x, damping = (x + step, damping / 3) if better else (x, damping * 3)
    return float(np.exp(x[0])), float(np.exp(x[1])), float(np.exp(x[2])), float(x[3]), float(x[4])


def _parametric() -> list[Misconception]:
    def entry(name: str, says: str, example: str, change: Callable[[Law], tuple[float, ...]]) -> Misconception:
        return wrong("parametric_fit", name, says, example,
                     run_fit_parametric=lambda N, D, L: change(fitted(N, D, L)))  # fmt: skip

    def squares(name: str, says: str, of: Callable[[Floats], Floats]) -> Misconception:
        return wrong("parametric_fit", name, says, "one loss that is 20% too high",
                     run_fit_parametric=lambda N, D, L: least_squares(N, D, L, of))  # fmt: skip

    return [
        entry("A-B-in-logarithm", "A and B are returned as the logarithms that were optimised", "A = 300 is ln A = 5.7", lambda p: (p[0], math.log(p[1]), math.log(p[2]), p[3], p[4])),
        entry("E-in-logarithm", "E is returned as the logarithm that was optimised", "E = 1.8 is ln E = 0.59", lambda p: (math.log(p[0]), *p[1:])),
        entry("exponents-swapped", "alpha and beta have changed places", "alpha = 0.3, beta = 0.2", lambda p: (p[0], p[1], p[2], p[4], p[3])),
        entry("A-B-swapped", "A and B have changed places", "A = 400, B = 200", lambda p: (p[0], p[2], p[1], p[3], p[4])),
        entry("N-D-swapped", "parameters and tokens have changed places", "A / N^alpha + B / D^beta", lambda p: (p[0], p[2], p[1], p[4], p[3])),
        entry("E-last", "the numbers come in the order A, B, alpha, beta, E", "the adapter's docstring: E first", lambda p: (*p[1:], p[0])),
        entry("negative-exponents", "exponents have the sign of N^-alpha", "alpha = 0.3, not -0.3", lambda p: (p[0], p[1], p[2], -p[3], -p[4])),
        squares("squares-of-L", "squared errors of L are minimised instead of Huber losses of ln L", lambda x: x),
        squares("squares-of-ln-L", "squared errors of ln L are minimised instead of Huber losses", np.log),
    ]  # fmt: skip


def allocation(law: Law, budget: float, how: str = "") -> tuple[float, float]:
    """(N, D) of the least loss, or not quite."""
    _, a, b, alpha, beta = law
    ratio = (b * beta) / (a * alpha) if how == "inverted" else (a * alpha) / (b * beta)
    if how == "exponents-forgotten":
        ratio = a / b
    product = budget if how == "six-forgotten" else budget / 2 if how == "two-N-D" else budget / 6
    power = alpha / (alpha + beta) if how == "exponents-swapped" else beta / (alpha + beta)
    size = ratio ** (1 / (alpha + beta)) * product**power
    if how == "equal-split":
        size = math.sqrt(product)
    if how == "twenty-tokens":
        size = math.sqrt(product / 20)
    return (product / size, size) if how == "N-D-swapped" else (size, product / size)


def _allocation() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        return wrong("optimal_allocation", how, says, example,
                     run_optimal_allocation=lambda params, C: allocation(params, C, how))  # fmt: skip

    return [
        entry("N-D-swapped", "parameters and tokens have changed places", "the order of the result: (N, D)"),
        entry("inverted", "the ratio of the two terms is upside down", "A = B, alpha twice beta"),
        entry("exponents-forgotten", "alpha and beta are missing in the ratio alpha A / (beta B)", "A = B, alpha twice beta"),
        entry("exponents-swapped", "N grows with C^(alpha / (alpha + beta)) instead of beta / (alpha + beta)", "alpha above beta: tokens must grow faster"),
        entry("six-forgotten", "C = N D is used instead of C = 6 N D", "6 N D must give the budget back"),
        entry("two-N-D", "C = 2 N D is used, which is forward only", "6 N D must give the budget back"),
        entry("equal-split", "N = D, whatever the law says", "two different laws"),
        entry("twenty-tokens", "D = 20 N, whatever the law says", "two different laws"),
    ]  # fmt: skip


def flops(config: dict[str, int], how: str = "") -> float:
    """6 (12 L d^2 + V d) + 12 L d T per token, or not quite."""
    layers, d, vocab = config["num_layers"], config["d_model"], config["vocab_size"]
    seq, tokens = config["context_length"], config["num_tokens"]
    body, head, attention = 12 * layers * d * d, vocab * d, 12.0 * layers * d * seq
    if how in ("no-head", "body-only"):
        head = 0
    if how in ("no-attention", "body-only"):
        attention = 0.0
    attention *= {"causal-half": 0.5, "attention-forward-only": 1 / 3}.get(how, 1.0)
    if how == "embedding-counted":
        head *= 2
    per_token = 6 * (body + head) + attention
    per_token *= {"forward-only": 1 / 3, "multiply-add-is-one": 1 / 2, "backward-as-forward": 2 / 3}.get(how, 1.0)
    return float(per_token * (seq if how == "one-sequence" else tokens))


def _flops() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        return wrong("count_flops", how, says, example, run_count_flops=lambda config: flops(config, how))

    return [
        entry("no-attention", "the products of scores and of weights with values are missing", "a context longer than d_model"),
        entry("no-head", "the head's product with the vocabulary is missing", "a small model with a large vocabulary"),
        entry("body-only", "6 N D is counted with N = 12 L d^2: neither head nor attention", "a small model with a large vocabulary"),
        entry("causal-half", "attention is counted for half of the scores, but the whole matrix is computed", "the adapter's docstring: 12 L d T"),
        entry("attention-forward-only", "attention's backward is missing", "the adapter's docstring: 12 L d T"),
        entry("embedding-counted", "the look-up of embeddings is counted as a product", "a vocabulary of 50,000"),
        entry("forward-only", "only forward is counted", "backward costs twice forward"),
        entry("backward-as-forward", "backward is counted as one forward; it is two", "each product has two gradients"),
        entry("multiply-add-is-one", "a multiplication with its addition is counted as one", "(1, n) x (n, 1): 2 n"),
        entry("one-sequence", "the count is for one sequence instead of num_tokens", "twice the tokens, twice the FLOPs"),
    ]  # fmt: skip
