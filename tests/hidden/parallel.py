"""Assignment 2, distributed: two processes must do what torch does in one on the whole batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, BadAnswer, Case
from cs336_course.grading.worker import parallel_drivers as drivers

from .comparing import arrays, difference, part

Rng = np.random.Generator
STEPS, ROWS, RATE = 3, 12, 0.2
SIZES = [6, 9, 9, 9, 4]


def ranks(answer: Answer) -> list[dict[str, Any]]:
    """The answers of the two processes."""
    found = part(answer, "ranks", list)
    if len(found) != drivers.WORLD_SIZE or not all(type(rank) is dict for rank in found):
        raise BadAnswer("not one answer per process")
    return found


def weights(rng: Rng, *, idle: bool, tied: bool) -> list[np.ndarray]:
    """Values for `network`, in the order of its parameters."""
    module = drivers.network(SIZES, tied=tied, idle=idle)
    return [(0.6 * rng.standard_normal(p.shape)).astype(np.float32) for p in module.parameters()]


def one_process(inputs: dict[str, Any]) -> list[list[np.ndarray]]:
    """Parameters after each step on whole batches from rank 0's weights, by torch."""
    import torch

    module = drivers.network(inputs["sizes"], tied=inputs["tied"], idle=inputs["idle"])
    drivers.fill(module, inputs["start"][0])
    after = []
    for x, y in zip(inputs["x"], inputs["y"], strict=True):
        module.zero_grad()
        torch.nn.functional.mse_loss(module(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        with torch.no_grad():
            for p in module.parameters():
                if p.grad is not None:
                    p -= inputs["lr"] * p.grad
        after.append([p.detach().numpy().copy() for p in module.parameters()])
    return after


def _data_parallel_case(
    rng: Rng, id: str, text: str, kind: str, *, tied: bool = False, idle: bool = False, bucket: float | None = None,
    early: bool = False, messages: tuple[int, int] | None = None,
) -> Case:  # fmt: skip
    """A case of the wrappers: `early` wants messages before backward has ended, `messages` how many there may be."""
    inputs: dict[str, Any] = {
        "kind": kind, "bucket_size_mb": bucket, "sizes": SIZES, "tied": tied, "idle": idle, "lr": RATE,
        "start": [weights(rng, idle=idle, tied=tied) for _ in range(drivers.WORLD_SIZE)],
        "x": rng.standard_normal((STEPS, ROWS, SIZES[0])).astype(np.float32),
        "y": rng.standard_normal((STEPS, ROWS, SIZES[-1])).astype(np.float32),
    }  # fmt: skip

    def complaints(rank: dict[str, Any]) -> list[str]:
        """What is wrong with the time and number of the messages."""
        begun, total = part(rank, "messages", list)
        found = ["nothing is sent before backward has ended"] if early and not begun > 0 else []
        if messages is not None and not messages[0] <= total <= messages[1]:
            found.append("far more messages than buckets" if total > messages[1] else "fewer messages than buckets")
        return found

    def judge(answer: Answer) -> str | None:
        right = one_process(inputs)
        for rank in ranks(answer):
            if problem := _same_training(rank, inputs["start"][0], right) or "; ".join(complaints(rank)):
                return problem
        return None

    def compared(answer: Answer) -> list[Any]:
        return [[rank.get("wrapped"), rank.get("after"), complaints(rank)] for rank in ranks(answer)]

    return Case(id, text, "data_parallel", inputs, judge, compared)


def _same_training(rank: dict[str, Any], start: list[np.ndarray], right: list[list[np.ndarray]]) -> str | None:
    if len(part(rank, "names", list)) != len(start):
        return "wrapping adds or drops parameters"
    for mine, first in zip(arrays(rank, "wrapped"), start, strict=True):
        if difference(mine, first, atol=0, rtol=0):
            return "after wrapping, a process does not hold rank 0's parameters (frozen ones count too)"
    steps = part(rank, "after", list)
    for number, expected in enumerate(right):
        for mine, value in zip(steps[number], expected, strict=True):
            if problem := difference(mine, value, atol=1e-5, rtol=1e-4, what=f"a parameter after step {number + 1}"):
                return problem
    return None


def naive_ddp(rng: Rng) -> list[Case]:
    return [
        _data_parallel_case(rng, "trains", "two processes train as one on the whole batch", "ddp"),
        _data_parallel_case(rng, "tied", "a weight that two layers share", "ddp", tied=True),
        _data_parallel_case(rng, "idle", "a parameter that forward does not use", "ddp", idle=True),
    ]


def ddp_overlap_individual_parameters(rng: Rng) -> list[Case]:
    wide = (6, 40)
    return [
        _data_parallel_case(rng, "trains", "two processes train as one on the whole batch", "individual"),
        _data_parallel_case(rng, "tied", "a shared weight is sent when both its gradients are added", "individual", tied=True),
        _data_parallel_case(rng, "idle", "a parameter that forward does not use", "individual", idle=True),
        _data_parallel_case(rng, "overlap", "gradients are sent one by one while backward goes on", "individual",
                            early=True, messages=wide),
    ]  # fmt: skip


def ddp_overlap_bucketed(rng: Rng) -> list[Case]:
    """The network has 7 trainable parameters of 4 to 81 float32 numbers."""
    return [
        _data_parallel_case(rng, "one-bucket", "None: one bucket for all", "bucketed", messages=(1, 5)),
        _data_parallel_case(rng, "small-buckets", "buckets of 400 bytes: a parameter or two each, sent during backward",
                            "bucketed", bucket=0.0004, early=True, messages=(4, 16)),
        _data_parallel_case(rng, "large-bucket", "a bucket larger than the model", "bucketed", bucket=1.0, messages=(1, 5)),
        _data_parallel_case(rng, "tied", "a weight that two layers share", "bucketed", bucket=0.0004, tied=True),
        _data_parallel_case(rng, "idle", "a bucket with a parameter that gets no gradient", "bucketed", bucket=0.0004,
                            idle=True),
    ]  # fmt: skip


def _sharded_case(
    rng: Rng, id: str, text: str, optimizer: str, settings: dict[str, Any], *, groups: list[Any] | None = None,
    late: list[int] | None = None, rates: list[float] | None = None, missing: bool = False,
) -> Case:  # fmt: skip
    """Five steps on parameters of uneven sizes; `late` ones join before step 3."""
    shapes = [(8, 6), (6,), (5, 8), (5,), (4, 7)]
    late = late or []
    first = [n for n in range(len(shapes)) if n not in late]
    gradients = [[rng.standard_normal(shape).astype(np.float32) for shape in shapes] for _ in range(5)]
    if missing:
        gradients[1][2] = gradients[3][0] = None  # type: ignore[call-overload]
    inputs = {
        "start": [rng.standard_normal(shape).astype(np.float32) for shape in shapes], "gradients": gradients,
        "optimizer": optimizer, "settings": settings, "groups": groups or [[first, {}]], "late": late,
        "late_step": 2 if late else 0, "late_rate": 0.03, "rates": rates,
    }  # fmt: skip

    def judge(answer: Answer) -> str | None:
        right, whole = _one_optimizer(inputs)
        held = []
        for rank in ranks(answer):
            if not part(rank, "cleared", bool):
                return "zero_grad leaves gradients of parameters that another process updates"
            for number, (mine, expected) in enumerate(zip(part(rank, "after", list), right, strict=True)):
                for value, wanted in zip(mine, expected, strict=True):
                    what = f"a parameter after step {number + 1}"
                    if problem := difference(value, wanted, atol=1e-6, rtol=1e-5, what=what):
                        return problem
            held.append(part(rank, "state", int))
        if max(held) > 0.75 * whole:
            return "a process holds the state of (nearly) all parameters: nothing is sharded"
        return None if sum(held) <= whole else "the processes together hold more state than there is"

    def compared(answer: Answer) -> list[Any]:
        sizes, whole = [part(rank, "state", int) for rank in ranks(answer)], _one_optimizer(inputs)[1]
        values = [[rank.get("after"), rank.get("cleared")] for rank in ranks(answer)]
        return [values, max(sizes) > 0.75 * whole, sum(sizes) > whole]

    return Case(id, text, "sharded_optimizer", inputs, judge, compared)


def _one_optimizer(inputs: dict[str, Any]) -> tuple[list[list[np.ndarray]], int]:
    """Parameters after each step by torch in one process, and how many numbers its state has."""
    import torch

    parameters = [torch.nn.Parameter(torch.from_numpy(value.copy())) for value in inputs["start"]]
    groups = [{"params": [parameters[n] for n in numbers], **more} for numbers, more in inputs["groups"]]
    optimizer = getattr(torch.optim, inputs["optimizer"])(groups, **inputs["settings"])
    after = []
    for step, gradients in enumerate(inputs["gradients"]):
        if inputs["late"] and step == inputs["late_step"]:
            late = [parameters[number] for number in inputs["late"]]
            optimizer.add_param_group({"params": late, "lr": inputs["late_rate"]})
        if inputs["rates"]:
            optimizer.param_groups[0]["lr"] = inputs["rates"][step]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else torch.from_numpy(gradient.copy())
        optimizer.step()
        after.append([p.detach().numpy().copy() for p in parameters])
    return after, drivers._numbers_in(optimizer.state)


def optimizer_state_sharding(rng: Rng) -> list[Case]:
    adamw = {"lr": 0.05, "weight_decay": 0.1, "betas": [0.8, 0.95]}
    groups = [[[0, 1, 2], {"lr": 0.02}], [[3, 4], {"weight_decay": 0.0}]]
    return [
        _sharded_case(rng, "adamw", "five steps of AdamW as in one process, half of the state each", "AdamW", adamw),
        _sharded_case(rng, "groups", "parameter groups keep their own settings", "AdamW", adamw, groups=groups),
        _sharded_case(rng, "late", "parameters added by add_param_group during training", "AdamW", adamw, late=[1, 4]),
        _sharded_case(rng, "schedule", "a new learning rate in param_groups counts", "SGD",
                      {"lr": 0.1, "momentum": 0.9, "nesterov": True}, rates=[0.1, 0.2, 0.05, 0.01, 0.3]),
        _sharded_case(rng, "missing", "a parameter without gradient is not updated", "AdamW", adamw, missing=True),
    ]  # fmt: skip


def _fsdp_case(rng: Rng, id: str, text: str, sizes: tuple[int, int, int], *, half: bool = False) -> Case:
    vocab, width, hidden = sizes
    scales = {"table": 1.0, "norm": 0.2, "up": width**-0.5, "down": hidden**-0.5, "head": width**-0.5}
    shapes = {"table": (vocab, width), "norm": (width,), "up": (hidden, width), "down": (width, hidden), "head": (vocab, width)}  # fmt: skip
    start = {
        name: (scales[name] * rng.standard_normal(shape) + (name == "norm")).astype(np.float32)
        for name, shape in shapes.items()
    }
    inputs = {
        "sizes": list(sizes), "start": list(start.values()), "half": half, "lr": 0.5,
        "ids": rng.integers(0, vocab, (STEPS, ROWS, 5)), "targets": rng.integers(0, vocab, (STEPS, ROWS, 5)),
    }  # fmt: skip

    def too_much(rank: dict[str, Any]) -> list[str]:
        """Names of weights of which a process holds more than its share of the rows."""
        shares = {name: -(-shape[0] // drivers.WORLD_SIZE) * shape[-1] for name, shape in shapes.items()}
        held = zip(shapes.items(), part(rank, "held", list), strict=True)
        return [name for (name, shape), numbers in held if len(shape) == 2 and numbers > shares[name]]

    def judge(answer: Answer) -> str | None:
        right = _one_language_model(inputs, start)
        for rank in ranks(answer):
            full = part(rank, "full", dict)
            if sorted(full) != sorted(right) or part(rank, "names", list) != list(right):
                return "parameters have other names than in the wrapped module"
            if too_much(rank):
                return f"{too_much(rank)[0]}: a process holds more than its share of the rows"
            for name, value in right.items():
                tolerance = 2e-3 if half else 1e-5
                if problem := difference(full[name], value, atol=tolerance, rtol=tolerance, what=f"{name} in full"):
                    return problem
            if part(rank, "kinds", list) != ["torch.float32 torch.float32"]:
                return "shards and their gradients must stay float32, and each needs a gradient"
            if rank.get("logits") != ("torch.float16" if half else "torch.float32"):
                return f"computes in {rank.get('logits')}"
        return None

    def compared(answer: Answer) -> list[Any]:
        return [[rank.get("full"), rank.get("kinds"), rank.get("logits"), too_much(rank)] for rank in ranks(answer)]

    return Case(id, text, "fsdp", inputs, judge, compared)


def _one_language_model(inputs: dict[str, Any], start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters after training in one process, with torch's plain operations; weights cast where `half`."""
    import torch

    values = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in start.items()}
    for ids, targets in zip(inputs["ids"], inputs["targets"], strict=True):
        w = {name: t.half() if inputs["half"] and name != "norm" else t for name, t in values.items()}
        x = w["table"][torch.from_numpy(ids)]
        wide = x.float()
        x = (wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w["norm"]).to(x.dtype)
        logits = (x + torch.relu(x @ w["up"].T) @ w["down"].T) @ w["head"].T
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, -2), torch.from_numpy(targets).flatten())
        grads = torch.autograd.grad(loss, list(values.values()))
        with torch.no_grad():
            for t, grad in zip(values.values(), grads, strict=True):
                t -= inputs["lr"] * grad
    return {f"{name}.weight": t.detach().numpy() for name, t in values.items()}


def fsdp(rng: Rng) -> list[Case]:
    return [
        _fsdp_case(rng, "trains", "two processes with half of each weight train as one", (20, 8, 16)),
        _fsdp_case(rng, "odd-rows", "rows that do not divide by the number of processes", (21, 10, 15)),
        _fsdp_case(rng, "float16", "compute_dtype float16 over float32 shards", (20, 8, 16), half=True),
    ]
