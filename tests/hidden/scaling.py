"""Assignment 3: fits on fresh laws against numpy's own fits and fine grids, and a client against a service.

Only chinchilla_isoflops has points in the course; those of the others are ours. scaling_laws (50) is graded by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, BadAnswer, Case

from .comparing import difference, part

Rng = np.random.Generator
BUDGETS = [2e18, 7e18, 3e19, 1.1e20, 5e20]


def random_law(rng: Rng) -> tuple[float, float, float, float, float]:
    """E, A, B, alpha, beta of L = E + A / N^alpha + B / D^beta, with unequal parts."""
    alpha, beta = float(rng.uniform(0.3, 0.42)), float(rng.uniform(0.24, 0.3))
    return float(rng.uniform(1.4, 2.2)), float(rng.uniform(200, 500)), float(rng.uniform(150, 400)), alpha, beta


def loss_of(law: tuple[float, ...], n: Any, d: Any) -> Any:
    e, a, b, alpha, beta = law
    return e + a / np.asarray(n, float) ** alpha + b / np.asarray(d, float) ** beta


def best_size(law: tuple[float, ...], budget: float) -> float:
    """The size of the least loss, by a fine grid around it and around that again."""
    sizes = np.geomspace(1e5, 1e14, 20_001)
    for _ in range(2):
        place = int(loss_of(law, sizes, budget / (6 * sizes)).argmin())
        sizes = np.geomspace(sizes[max(0, place - 1)], sizes[min(len(sizes) - 1, place + 1)], 20_001)
    return float(sizes[int(loss_of(law, sizes, budget / (6 * sizes)).argmin())])


def table(rng: Rng, law: tuple[float, ...], *, width: float, count: int, noise: float = 0.0) -> list[dict[str, float]]:
    """Runs of each budget around its best size, off centre, in random order."""
    runs = []
    for budget in BUDGETS:
        middle = best_size(law, budget) * float(rng.uniform(0.8, 1.3))
        for size in np.geomspace(middle / width, middle * width, count):
            loss = float(loss_of(law, size, budget / (6 * size)) * (1 + noise * rng.standard_normal()))
            runs.append({"parameters": float(size), "compute_budget": budget, "final_loss": loss})
    return [runs[int(i)] for i in rng.permutation(len(runs))]


def chinchilla_isoflops(rng: Rng) -> list[Case]:
    law = random_law(rng)

    def optima(id: str, text: str, method: str, runs: list[dict[str, float]]) -> Case:
        def judge(answer: Answer) -> str | None:
            right = [_optimum([run for run in runs if run["compute_budget"] == budget], method) for budget in BUDGETS]
            problem = difference(answer.get("budgets"), np.array(BUDGETS), atol=0, rtol=1e-12, what="compute budgets")
            for place, name in enumerate(("sizes", "losses")):
                wanted = np.array([pair[place] for pair in right])
                problem = problem or difference(answer.get(name), wanted, atol=0, rtol=1e-6, what=name)
            return problem

        return Case(id, text, "isoflops", {"runs": runs, "method": method}, judge)

    def power(id: str, text: str, x: np.ndarray, y: np.ndarray) -> Case:
        def expected() -> list[float]:
            slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
            return [float(np.exp(intercept)), float(slope)]

        return numbers(id, text, "run_fit_power_law", [x, y], expected, rtol=1e-5)

    x = np.geomspace(3e17, 4e21, 8)
    k, a = float(rng.uniform(0.05, 3.0)), float(rng.uniform(0.42, 0.58))
    noise = np.exp(0.4 * rng.standard_normal(8))
    return [
        optima("lowest", "the run of least loss of each budget", "lowest", table(rng, law, width=3.0, count=9)),
        optima("lowest-noisy", "the run of least loss, where losses are noisy", "lowest",
               table(rng, law, width=8.0, count=7, noise=0.01)),
        optima("parabola", "vertex and value of the least-squares parabola in ln N", "parabola",
               table(rng, law, width=3.0, count=8)),
        optima("parabola-wide", "a parabola through all runs of a budget, also far ones", "parabola",
               table(rng, law, width=12.0, count=7, noise=0.01)),
        power("power-exact", "(k, a) of y = k x^a", x, k * x**a),
        power("power-noisy", "least squares of ln y on ln x", x, k * x**a * noise),
    ]  # fmt: skip


def _optimum(runs: list[dict[str, float]], method: str) -> tuple[float, float]:
    size = np.array([run["parameters"] for run in runs])
    loss = np.array([run["final_loss"] for run in runs])
    if method == "lowest":
        return float(size[loss.argmin()]), float(loss.min())
    fit = np.polynomial.Polynomial.fit(np.log(size), loss, 2)
    vertex = float(fit.deriv().roots()[0])
    return float(np.exp(vertex)), float(fit(vertex))


def numbers(
    id: str, text: str, function: str, arguments: list[Any], expected: Callable[[], list[float]], *, rtol: float
) -> Case:
    """A case of an adapter of numbers, each within a relative tolerance."""

    def judge(answer: Answer) -> str | None:
        return difference(answer.get("value"), np.array(expected()), atol=0, rtol=rtol, what="numbers")

    return Case(id, text, "numbers", {"function": function, "arguments": arguments}, judge)


def parametric_fit(rng: Rng) -> list[Case]:
    def case(id: str, text: str, *, outlier: float = 1.0, rtol: float) -> Case:
        law = random_law(rng)
        runs = table(rng, law, width=6.0, count=9)
        n, budget, loss = (
            np.array([run[key] for run in runs]) for key in ("parameters", "compute_budget", "final_loss")
        )
        loss[int(rng.integers(len(loss)))] *= outlier
        return numbers(id, text, "run_fit_parametric", [n, budget / (6 * n), loss], lambda: list(law), rtol=rtol)

    text = "(E, A, B, alpha, beta) of the law that made the losses"
    return [
        case("first", text, rtol=0.02),
        case("second", text, rtol=0.02),
        case("outlier", "one loss 20% too high hardly moves a Huber fit of ln L", outlier=1.2, rtol=0.15),
    ]


def optimal_allocation(rng: Rng) -> list[Case]:
    cases = []
    for number, budget in enumerate((3e18, 5.76e23, 1e26)):
        law = random_law(rng)

        def expected(law: Any = law, budget: float = budget) -> list[float]:
            size = best_size(law, budget)
            return [size, budget / (6 * size)]

        text = "parameters and tokens of the least loss with 6 N D = C"
        cases.append(
            numbers(f"budget-{number + 1}", text, "run_optimal_allocation", [list(law), budget], expected, rtol=2e-3)
        )
    return cases


def count_flops(rng: Rng) -> list[Case]:
    cases = []
    for number in range(3):
        layers, d, vocab, context = (
            int(rng.integers(low, high)) for low, high in ((1, 9), (3, 20), (50, 400), (8, 40))
        )
        d, tokens = 16 * d, context * int(rng.integers(100, 1000))
        config = {
            "num_layers": layers,
            "d_model": d,
            "vocab_size": vocab,
            "context_length": context,
            "num_tokens": tokens,
        }

        def expected(c: dict[str, int] = config) -> list[float]:
            seq, width = c["context_length"], c["d_model"]
            layer = [(seq, width, 3 * width), (seq, width, seq), (seq, seq, width), (seq, width, width)]
            layer += [(seq, width, 4 * width), (seq, 4 * width, width)]
            products = [*layer * c["num_layers"], (seq, width, c["vocab_size"])]
            return [3 * sum(2.0 * a * b * n for a, b, n in products) * c["num_tokens"] / seq]

        text = "forward and backward of every matrix product, attention and head counted"
        cases.append(numbers(f"model-{number + 1}", text, "run_count_flops", [config], expected, rtol=1e-9))
    return cases


def service_client(rng: Rng) -> list[Case]:
    key = "".join(str(int(digit)) for digit in rng.integers(0, 10, 8))
    number, used = int(rng.integers(10, 10_000)), float(rng.integers(1, 40_000))
    config = _config(rng)
    budget = {"used_seconds": used, "remaining_seconds": 43200.0 - used, "total_budget_seconds": 43200.0}
    queued = {"status_type": "queued", "queued_at": "2026-05-01T12:00:00Z"}
    experiment = {"experiment_id": number, "training_config": config, "status": queued}
    loss = round(float(rng.uniform(2, 4)), 3)
    final = {"training_config": config, "predicted_final_loss": loss}
    handed_in = {**final, "submitted_at": "2026-05-02T12:00:00Z"}
    answers = {
        "GET /budget": [200, budget], "POST /submit": [200, {"experiment_id": number, "budget_summary": budget}],
        "GET /experiments": [200, [experiment]], f"GET /experiment/{number}": [200, experiment],
        f"GET /experiment/{number + 1}": [404, {"detail": "this experiment is not yours"}],
        "POST /final_submission": [200, handed_in], "GET /final_submission": [200, None],
    }  # fmt: skip

    def case(id: str, text: str, calls: list[list[Any]], seen: list[list[Any]], results: list[Any]) -> Case:
        def judge(answer: Answer) -> str | None:
            if part(answer, "results", list) != [{"value": result} for result in results]:
                return "does not return what the service answers"
            given = part(answer, "seen", list)
            if given != [[method, path, key, body] for method, path, body in seen]:
                return _request_mistake(given, seen, key)
            return None

        return Case(id, text, "service", {"key": key, "answers": answers, "calls": calls}, judge)

    def told(answer: Answer) -> str | None:
        (result,) = part(answer, "results", list)
        if "RuntimeError" not in result.get("raised", []):
            return "an HTTP error is not a RuntimeError"
        whole = "404" in result["text"] and "this experiment is not yours" in result["text"]
        return None if whole else "the error does not tell status and reason"

    error = {"key": key, "answers": answers, "calls": [["get_experiment", number + 1]]}
    return [
        case("budget", "get_budget", [["get_budget"]], [["GET", "/budget", None]], [budget]),
        case("submit", "submit_experiment", [["submit_experiment", config]], [["POST", "/submit", config]],
             [{"experiment_id": number, "budget_summary": budget}]),
        case("experiments", "list_experiments and get_experiment", [["list_experiments"], ["get_experiment", number]],
             [["GET", "/experiments", None], ["GET", f"/experiment/{number}", None]], [[experiment], experiment]),
        case("final", "save_final_submission, and get_final_submission before there is one",
             [["get_final_submission"], ["save_final_submission", config, loss], ["save_final_submission_json", final]],
             [["GET", "/final_submission", None], *[["POST", "/final_submission", final]] * 2], [None, handed_in, handed_in]),
        Case("error", "an HTTP error is told with its status and the service's reason", "service", error, told, _kinds),
        *[_bad_key(answers, f"key-{n}", bad) for n, bad in enumerate((key[:7], f"{key}1", f"{key[:7]}x"))],
    ]  # fmt: skip


def _bad_key(answers: dict[str, Any], id: str, bad: str) -> Case:
    def judge(answer: Answer) -> str | None:
        (result,) = part(answer, "results", list)
        if part(answer, "seen", list):
            return "a key that cannot be right is sent to the service"
        return None if "ValueError" in result.get("raised", []) else "a malformed key is no ValueError"

    inputs = {"key": bad, "answers": answers, "calls": [["get_budget"]]}
    return Case(id, "a key that is not 8 digits is refused before anything is sent", "service", inputs, judge, _kinds)


def _kinds(answer: Answer) -> list[Any]:
    """What a diagnosis compares: exceptions by their kind, since their words are free."""
    results = part(answer, "results", list)
    if not all(type(result) is dict for result in results):
        raise BadAnswer("results of unknown form")
    return [[result.get("raised", [None])[0], result.get("value")] for result in results] + [answer.get("seen")]


def _request_mistake(given: list[Any], seen: list[list[Any]], key: str) -> str:
    """Which part of the requests differs."""
    if len(given) != len(seen):
        return f"{len(given)} requests, expected {len(seen)}"
    for mine, (method, path, body) in zip(given, seen, strict=True):
        for what, value, wanted in zip(
            ("method", "path", "X-API-Key", "body"), mine, (method, path, key, body), strict=True
        ):
            if value != wanted:
                return f"the {what} of a request is not what the service expects"
    return "requests differ"


def _config(rng: Rng) -> dict[str, Any]:
    """A training configuration of the 2026 service."""
    heads = int(rng.integers(2, 8))
    return {
        "architecture_config": {
            "attention_bias": False, "head_dim": 32, "hidden_size": 32 * heads, "intermediate_size": 96 * heads,
            "num_attention_heads": heads, "num_hidden_layers": int(rng.integers(1, 8)), "num_key_value_heads": heads,
            "rms_norm_eps": 1e-6, "rope_theta": 10000, "tie_word_embeddings": False, "dtype": "float32",
            "vocab_size": 32000,
        },
        "optimizer_config": {
            "lr_scheduler": {"peak_value": 3e-4, "final_lr_frac": 0.1, "warmup_frac": 0.05, "init_value": 0.0},
            "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "eps_root": 1e-8, "grad_clip_norm": 1.0,
        },
        "train_batch_size": 128, "val_batch_size": 32, "n_evals": 16, "total_train_tokens": 2**20,
        "max_runtime_seconds": int(rng.integers(20, 300)), "model_seed": 0,
    }  # fmt: skip


PROBLEMS = {
    "chinchilla_isoflops": (5, chinchilla_isoflops),
    "parametric_fit": (5, parametric_fit),
    "optimal_allocation": (2, optimal_allocation),
    "count_flops": (2, count_flops),
    "service_client": (6, service_client),
}
