"""Assignment 1, training: clipping, AdamW, schedule, batches, checkpoints against float64 formulas and torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, Case

from .comparing import arrays, close, difference, part

Rng = np.random.Generator


def gradient_clipping(rng: Rng) -> list[Case]:
    def case(id: str, text: str, grads: list[np.ndarray | None], limit: float, as_generator: bool = False) -> Case:
        norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grads if g is not None))
        factor = limit / (norm + 1e-6) if norm > limit else 1.0

        def judge(answer: Answer) -> str | None:
            rows = part(answer, "gradients", list)
            if len(rows) != len(grads):
                return "another number of gradients"
            for actual, grad in zip(rows, grads, strict=True):
                if grad is None:
                    wrong = None if actual is None else "a parameter without gradient got one"
                else:
                    wrong = difference(actual, grad * factor, atol=1e-13, rtol=1e-5, what="gradients")
                if wrong:
                    return wrong
            return None

        inputs = {"gradients": grads, "max_l2_norm": limit, "as_generator": as_generator}
        return Case(id, text, "clip", inputs, judge)

    def grads(scale: float) -> list[np.ndarray | None]:
        return [(scale * rng.standard_normal(shape)).astype(np.float32) for shape in ((4, 3), (5,), (2, 2, 2))]

    return [
        case("large", "one factor from the norm of all gradients together", grads(3.0), 0.7),
        case("small", "gradients within the limit stay as they are", grads(0.01), 5.0),
        case("without", "parameters without gradient are skipped", [None, *grads(2.0), None], 0.5),
        case("generator", "the parameters may come from a generator", grads(2.0), 0.5, as_generator=True),
        case("tiny-limit", "norm + 1e-6 in the denominator", grads(1e-5), 1e-6),
    ]


def adamw(rng: Rng) -> list[Case]:
    def case(id: str, text: str, steps: int = 10, scale: float = 1.0, holes: bool = False, **more: Any) -> Case:
        start = [(3 * rng.standard_normal(shape)).astype(np.float64) for shape in ((3, 2), (4,))]
        gradients = [[scale * rng.standard_normal(p.shape) for p in start] for _ in range(steps)]
        rows: list[list[np.ndarray | None]] = [list(row) for row in gradients]
        if holes:
            rows[1][0] = rows[4][1] = None
        settings = {"lr": 0.03, "betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.1, **more.pop("settings", {})}
        inputs = {"start": start, "gradients": rows, "settings": settings, **more}

        def judge(answer: Answer) -> str | None:
            after = part(answer, "after", list)
            for step, expected in enumerate(_adamw(inputs)):
                actual = arrays({"after": after[step] if step < len(after) else None}, "after")
                for mine, right in zip(actual, expected, strict=False):
                    if wrong := difference(mine, right, atol=1e-9, rtol=1e-7, what=f"weights after step {step + 1}"):
                        return wrong
            return None

        return Case(id, text, "adamw", inputs, judge)

    return [
        case("ten-steps", "decay first, then the bias-corrected update"),
        case("no-decay", "without weight decay it is Adam", settings={"weight_decay": 0.0}),
        case("large-eps", "eps is added to the corrected root", scale=1e-3, settings={"eps": 1e-2}),
        case("strong-decay", "decay is decoupled from the gradient", settings={"weight_decay": 0.9, "lr": 0.1}),
        case("holes", "a parameter without gradient is left alone, its step count too", holes=True),
        case(
            "rates",
            "the learning rate is read at each step",
            rates=[0.1, 0.05, 0.02, 0.01, 0.3, 0.2, 0.1, 0.1, 0.2, 0.1],
        ),
        case("reload", "state_dict holds all the state", reload_before=4),
    ]


def _adamw(inputs: dict[str, Any]) -> list[list[np.ndarray]]:
    """The published algorithm (Loshchilov and Hutter, algorithm 2, decay as in torch) in float64."""
    settings = inputs["settings"]
    (beta1, beta2), eps, decay = settings["betas"], settings["eps"], settings["weight_decay"]
    theta = [p.copy() for p in inputs["start"]]
    state = [(0, np.zeros_like(p), np.zeros_like(p)) for p in theta]
    after = []
    for step, row in enumerate(inputs["gradients"]):
        rate = inputs["rates"][step] if inputs.get("rates") else settings["lr"]
        for i, grad in enumerate(row):
            if grad is None:
                continue
            t, m, v = state[i]
            t, m, v = t + 1, beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad**2
            state[i] = t, m, v
            corrected = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
            theta[i] = theta[i] * (1 - rate * decay) - rate * corrected
        after.append([p.copy() for p in theta])
    return after


def learning_rate_schedule(rng: Rng) -> list[Case]:
    def case(id: str, text: str, high: float, low: float, warmup: int, end: int) -> Case:
        steps = [*range(0, end + 6)]

        def rate(it: int) -> float:
            if it < warmup:
                return high * it / warmup
            if it > end:
                return low
            return low + (high - low) * (1 + math.cos(math.pi * (it - warmup) / (end - warmup))) / 2

        arguments = {
            "max_learning_rate": high,
            "min_learning_rate": low,
            "warmup_iters": warmup,
            "cosine_cycle_iters": end,
        }
        judge = close(lambda: [rate(it) for it in steps], atol=1e-12, rtol=1e-9)
        return Case(id, text, "schedule", {"arguments": arguments, "steps": steps}, judge)

    warmup = int(rng.integers(3, 9))
    return [
        case("usual", "linear warm-up from 0, half a cosine, then the minimum", 0.8, 0.05, warmup, warmup + 11),
        case("zero-floor", "a minimum of 0", 3e-4, 0.0, 5, 23),
        case("short", "a warm-up of one step", 1.0, 0.2, 1, 4 + int(rng.integers(0, 5))),
    ]


def data_loading(rng: Rng) -> list[Case]:
    def case(id: str, text: str, length: int, context: int, batch: int, count: int) -> Case:
        data = rng.permutation(60_000)[:length].astype(np.uint16)
        place = {int(token): i for i, token in enumerate(data)}

        def judge(answer: Answer) -> str | None:
            x, y = part(answer, "x", np.ndarray), part(answer, "y", np.ndarray)
            if answer.get("kinds") != ["torch.int64", "torch.int64", "cpu"]:
                return f"inputs, targets, device are {answer.get('kinds')}, expected int64, int64, cpu"
            if x.shape != (count, batch, context) or y.shape != x.shape:
                return f"{count} batches have shapes {x.shape} and {y.shape}"
            if not set(x[..., 0].ravel().tolist()) <= set(place):
                return "inputs are not tokens of the data set"
            starts = np.vectorize(place.__getitem__)(x[..., 0].ravel())
            if starts.max() + context >= length:
                return "starts too late for a target to exist"
            windows = data[starts[:, None] + np.arange(context + 1)].astype(np.int64)
            if not np.array_equal(windows[:, :-1], x.reshape(-1, context)):
                return "inputs are not consecutive tokens"
            if not np.array_equal(windows[:, 1:], y.reshape(-1, context)):
                return "targets are not the inputs moved by one token"
            return _uniform(starts, length - context)

        inputs = {"dataset": data, "context_length": context, "batch_size": batch, "count": count, "seed": 7}
        return Case(id, text, "batches", inputs, judge)

    def refused(answer: Answer) -> str | None:
        return (
            None
            if answer.get("raised") in ("RuntimeError", "AssertionError")
            else "a device that cannot exist is no error"
        )

    return [
        case("uniform", "every start from the first to the last with a target is equally likely", 50, 7, 32, 200),
        case("one-window", "a data set with room for a single window", 9, 8, 4, 3),
        case("single", "context of one token", 12, 1, 8, 60),
        Case(
            "device", "the device asked for is used", "bad_device", {"dataset": np.arange(20, dtype=np.uint16)}, refused
        ),
    ]


def _uniform(starts: np.ndarray, choices: int) -> str | None:
    """Each start within 6 standard deviations of its expected count; all starts present where that is certain."""
    counts = np.bincount(starts, minlength=choices)
    mean = len(starts) / choices
    if np.abs(counts - mean).max() > 6 * math.sqrt(mean) + 1:
        missing = (
            "; the last one never comes" if counts[-1] == 0 else "; the first one never comes" if counts[0] == 0 else ""
        )
        return f"starts are not uniform{missing}"
    return None


def checkpointing(rng: Rng) -> list[Case]:
    def case(id: str, text: str, to_file_object: bool, iteration: int) -> Case:
        start = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (3,), (2, 3), (2,))]
        rows = rng.standard_normal((8, 4)).astype(np.float32)
        inputs = {"start": start, "rows": rows, "iteration": iteration, "to_file_object": to_file_object}

        def judge(answer: Answer) -> str | None:
            if answer.get("iteration") != iteration:
                return "load_checkpoint does not return the iteration that was saved"
            saved, again = arrays(answer, "saved"), arrays(answer, "loaded")
            if any(difference(a, b, atol=0, rtol=0) for a, b in zip(again, saved, strict=True)):
                return "the weights loaded are not those saved"
            resumed, without = arrays(answer, "resumed"), arrays(answer, "without_break")
            if any(difference(a, b, atol=1e-7, rtol=1e-5) for a, b in zip(resumed, _trained(inputs), strict=True)):
                return "training goes on differently after loading: the optimizer's state is not restored"
            if any(difference(a, b, atol=1e-7, rtol=1e-5) for a, b in zip(without, _trained(inputs), strict=True)):
                return "saving or loading has changed the model that was saved"
            return None

        return Case(id, text, "checkpoint", inputs, judge)

    return [
        case("path", "a path: iteration, weights and optimizer state come back", False, int(rng.integers(100, 10_000))),
        case("file-object", "a binary file object", True, int(rng.integers(100, 10_000))),
        case("zero", "iteration 0", False, 0),
    ]


def _trained(inputs: dict[str, Any]) -> list[np.ndarray]:
    """The weights after all rows without any checkpoint, by torch in this process."""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), inputs["start"], strict=True):
            parameter.copy_(torch.from_numpy(value))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, betas=(0.8, 0.9))
    for row in inputs["rows"]:
        optimizer.zero_grad()
        model(torch.from_numpy(row)).square().sum().backward()
        optimizer.step()
    return [parameter.detach().numpy().astype(np.float64) for parameter in model.parameters()]
