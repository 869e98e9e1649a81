"""Wrong clipping, AdamW, schedules, batches and checkpoints. Read next: `tokenization.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cs336_course.misconceptions.bank import Misconception, wrong


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_clipping(), *_adamw(), *_schedule(), *_batches(), *_checkpoints()]


def _clipping() -> list[Misconception]:
    def entry(
        name: str, says: str, example: str, compute: Callable[[list[Tensor], float], list[Tensor]]
    ) -> Misconception:
        def run_gradient_clipping(parameters: Iterable[Any], max_l2_norm: float) -> None:
            grads = [p.grad for p in parameters if p.grad is not None]
            for grad, new in zip(grads, compute(grads, max_l2_norm), strict=True):
                grad.copy_(new)

        return wrong("gradient_clipping", name, says, example, run_gradient_clipping=run_gradient_clipping)

    def norm(grads: list[Tensor]) -> Tensor:
        return torch.stack([g.norm() for g in grads]).norm()

    def per_parameter(grads: list[Tensor], limit: float) -> list[Tensor]:
        return [g * min(1.0, limit / (float(g.norm()) + 1e-6)) for g in grads]

    def scaled(grads: list[Tensor], limit: float, total: Tensor, eps: float = 1e-6) -> list[Tensor]:
        return [g * (limit / (total + eps)) for g in grads] if total > limit else grads

    return [
        entry("per-parameter", "each gradient is clipped by its own norm instead of one norm over all", "two gradients of norm 1 with a limit of 1", per_parameter),
        entry("by-value", "each number is clamped to the limit", "the gradient (3, 4) with a limit of 1: (0.6, 0.8)", lambda g, m: [x.clamp(-m, m) for x in g]),
        entry("always", "gradients within the limit are scaled up to it", "a norm of 1 with a limit of 5", lambda g, m: [x * m / (norm(g) + 1e-6) for x in g]),
        entry("l1", "the L1 norm is used", "the gradient (3, 4): its norm is 5, not 7", lambda g, m: scaled(g, m, sum((x.abs().sum() for x in g), torch.zeros(())))),
        entry("norms-added", "the norms are added up instead of the squares", "two gradients of norm 3 and 4: the norm is 5", lambda g, m: scaled(g, m, sum((x.norm() for x in g), torch.zeros(())))),
        entry("no-root", "the square of the norm is used", "the gradient (3, 4): its norm is 5, not 25", lambda g, m: scaled(g, m, norm(g) ** 2)),
        entry("no-epsilon", "1e-6 is not added to the norm", "a limit of 1e-6", lambda g, m: scaled(g, m, norm(g), 0.0)),
        entry("mean", "the root mean square is used instead of the norm", "many equal numbers", lambda g, m: scaled(g, m, norm(g) / math.sqrt(sum(x.numel() for x in g)))),
    ]  # fmt: skip


class _AdamW(torch.optim.Optimizer):
    """AdamW with a deviation; the right algorithm for `how` = ""."""

    how = ""

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.first_rate, self.steps, self.hidden = lr, 0, {}  # type: ignore[var-annotated]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None or self.how == "missing-is-zero":
                    self._update(p, torch.zeros_like(p) if p.grad is None else p.grad, group)

    def _update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        how, (beta1, beta2), eps = self.how, group["betas"], group["eps"]
        lr = self.first_rate if how == "fixed-rate" else group["lr"]
        decay = 0.0 if how == "no-decay" else group["weight_decay"]
        state = self.hidden.setdefault(p, {}) if how == "hidden-state" else self.state[p]
        if how == "l2":
            g, decay = g + decay * p, 0.0
        m, v, t = state.get("m", torch.zeros_like(p)), state.get("v", torch.zeros_like(p)), state.get("t", 0)
        t = self.steps if how == "global-count" else t if how == "count-from-zero" else t + 1
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        if how == "betas-swapped":
            m, v = beta2 * state.get("m", 0 * p) + (1 - beta2) * g, beta1 * state.get("v", 0 * p) + (1 - beta1) * g * g
        state.update(m=m, v=v, t=t + 1 if how == "count-from-zero" else t)
        correct1, correct2 = (1.0, 1.0) if how == "no-correction" else (1 - beta1 ** max(t, 1), 1 - beta2 ** max(t, 1))
        if how == "eps-inside":
            update = (m / correct1) / (v / correct2 + eps).sqrt()
        elif how == "eps-uncorrected":
            update = (m / correct1) / ((v.sqrt() + eps) / math.sqrt(correct2))
        else:
            update = (m / correct1) / ((v / correct2).sqrt() + eps)
        before = p.clone()
        p.sub_(lr * update)
        if how == "decay-last":
            p.sub_(lr * decay * p)
        elif how == "decay-without-rate":
            p.sub_(decay * before)
        else:
            p.sub_(lr * decay * before)


def _adamw() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        cls = type("Wrong", (_AdamW,), {"how": how})
        return wrong("adamw", how, says, example, get_adamw_cls=lambda: cls)

    return [
        entry("decay-last", "weights decay after the update instead of before", "one step with decay 0.9"),
        entry(
            "l2",
            "decay is added to the gradient (Adam with L2) instead of to the weights",
            "a gradient of 0 with decay",
        ),
        entry("no-decay", "there is no weight decay", "a gradient of 0 with decay: weights shrink"),
        entry(
            "decay-without-rate",
            "decay is not multiplied by the learning rate",
            "a gradient of 0, lr = 0.1, decay = 0.5",
        ),
        entry(
            "no-correction",
            "the moments are not corrected for their start at 0",
            "the first step: its size is the learning rate",
        ),
        entry("eps-inside", "eps is added inside the root", "a gradient of 0.001 with eps = 0.01"),
        entry("eps-uncorrected", "eps is added to the root before it is corrected", "a small gradient with eps = 0.01"),
        entry("betas-swapped", "beta1 and beta2 have changed places", "two steps with different gradients"),
        entry(
            "global-count",
            "one step count serves all parameters, also those without gradient",
            "a parameter whose first gradient comes at step 2",
        ),
        entry(
            "missing-is-zero",
            "a missing gradient is taken for a gradient of 0",
            "a parameter without gradient, with decay",
        ),
        entry(
            "fixed-rate",
            "the learning rate of the constructor is kept, whatever param_groups says",
            "a new learning rate in param_groups",
        ),
        entry(
            "hidden-state",
            "moments are kept outside of `self.state`, so state_dict misses them",
            "state_dict into a fresh optimizer",
        ),
        entry("count-from-zero", "the correction counts steps from 0", "the second step"),
    ]


def _schedule() -> list[Misconception]:
    def entry(
        name: str, says: str, example: str, compute: Callable[[int, float, float, int, int], float]
    ) -> Misconception:
        def run(
            it: int, max_learning_rate: float, min_learning_rate: float, warmup_iters: int, cosine_cycle_iters: int
        ) -> float:
            return compute(it, max_learning_rate, min_learning_rate, warmup_iters, cosine_cycle_iters)

        return wrong("learning_rate_schedule", name, says, example, run_get_lr_cosine_schedule=run)

    def rate(
        it: int, high: float, low: float, warm: int, end: int, part: Callable[[float], float] | None = None
    ) -> float:
        if it < warm:
            return high * it / warm
        if it > end:
            return low
        progress = (it - warm) / (end - warm)
        return low + (high - low) * (part(progress) if part else (1 + math.cos(math.pi * progress)) / 2)

    return [
        entry("warm-up-from-one", "warm-up is (it + 1) / warmup_iters", "it = 0, which gives 0", lambda i, h, lo, w, e: h * (i + 1) / w if i < w else rate(i, h, lo, w, e)),
        entry("warm-up-from-minimum", "warm-up starts at the minimum", "it = 0, which gives 0", lambda i, h, lo, w, e: lo + (h - lo) * i / w if i < w else rate(i, h, lo, w, e) if lo else h * (i + 0.5) / w),
        entry("linear", "the decay is a straight line", "a quarter of the way", lambda i, h, lo, w, e: rate(i, h, lo, w, e, lambda u: 1 - u)),
        entry("full-turn", "the cosine makes a whole turn and comes back up", "it = cosine_cycle_iters, which gives the minimum", lambda i, h, lo, w, e: rate(i, h, lo, w, e, lambda u: (1 + math.cos(2 * math.pi * u)) / 2)),
        entry("cycle-after-warm-up", "the cosine lasts cosine_cycle_iters after the warm-up", "it = cosine_cycle_iters, which gives the minimum", lambda i, h, lo, w, e: rate(i, h, lo, w, e + w)),
        entry("cosine-from-zero", "the cosine counts from step 0 instead of from the end of the warm-up", "it = warmup_iters, which gives the maximum", lambda i, h, lo, w, e: rate(i, h, lo, w, e, lambda u: (1 + math.cos(math.pi * i / e)) / 2)),
        entry("zero-after", "the rate is 0 after the cycle instead of the minimum", "it = cosine_cycle_iters + 1", lambda i, h, lo, w, e: rate(i, h, lo, w, e) if i <= e and lo else 0.0 if i > e else rate(i, h, lo, w, e) * (1 if lo else 0.5)),
        entry("no-floor", "the cosine goes down to 0 instead of the minimum", "it = cosine_cycle_iters", lambda i, h, lo, w, e: h * i / w if i < w else lo if i > e else h * (1 + math.cos(math.pi * (i - w) / (e - w))) / 2),
        entry("repeats", "the cosine goes on after the cycle and rises again", "it = cosine_cycle_iters + 5", lambda i, h, lo, w, e: rate(i, h, lo, w, e) if i <= e else lo + (h - lo) * (1 + math.cos(math.pi * (i - w) / (e - w))) / 2),
    ]  # fmt: skip


def _batches() -> list[Misconception]:
    def entry(name: str, says: str, example: str, **how: Any) -> Misconception:
        def run_get_batch(dataset: Any, batch_size: int, context_length: int, device: str) -> tuple[Tensor, Tensor]:
            return _batch(np.asarray(dataset), batch_size, context_length, device, **how)

        return wrong("data_loading", name, says, example, run_get_batch=run_get_batch)

    return [
        entry(
            "last-start-missing",
            "the last possible start is never drawn",
            "a data set of context_length + 1 tokens has one window",
            cut=1,
        ),
        entry(
            "start-too-late",
            "a start is drawn for which there is no last target",
            "a data set of context_length + 1 tokens",
            cut=-1,
        ),
        entry(
            "targets-are-inputs", "targets are the inputs themselves", "tokens 0, 1, 2: the target of 0 is 1", shift=0
        ),
        entry("targets-two-ahead", "targets are two tokens ahead", "tokens 0, 1, 2: the target of 0 is 1", shift=2),
        entry(
            "in-order",
            "windows follow each other instead of being drawn at random",
            "the starts of 200 batches",
            order="in order",
        ),
        entry("same-start", "one start is drawn for the whole batch", "the rows of a batch", order="same"),
        entry("blocks", "starts are multiples of context_length", "the starts of 200 batches", order="blocks"),
        entry("int32", "tokens are returned as int32", "the dtype of a batch", dtype=torch.int32),
        entry("device-ignored", "the device is not used", "device = cuda:99, which must fail", ignore_device=True),
    ]


def _batch(data: Any, size: int, context: int, device: str, *, cut: int = 0, shift: int = 1, order: str = "random",
           dtype: torch.dtype = torch.int64, ignore_device: bool = False) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A batch, right with the defaults."""
    choices = max(1, len(data) - context - cut)
    starts = np.random.randint(0, choices, size)
    if order == "in order":
        starts = np.arange(size) * context % choices
    elif order == "same":
        starts = np.full(size, starts[0])
    elif order == "blocks":
        starts = starts // context * context
    rows = [np.arange(s, s + context) for s in starts]
    x = torch.from_numpy(
        np.stack([data[r] if r[-1] < len(data) else np.resize(data[r[0] :], context) for r in rows]).astype(np.int64)
    )
    y = torch.from_numpy(
        np.stack([np.resize(data[r[0] + shift : r[-1] + 1 + shift], context) for r in rows]).astype(np.int64)
    )
    if not ignore_device and device.startswith("cuda") and torch.cuda.device_count() <= 99:
        raise RuntimeError(f"no device {device}")
    return x.to(dtype), y.to(dtype)


def _checkpoints() -> list[Misconception]:
    def entry(name: str, says: str, example: str, save: Callable[..., Any], load: Callable[..., int]) -> Misconception:
        def run_save_checkpoint(model: Any, optimizer: Any, iteration: int, out: Any) -> None:
            torch.save(save(model, optimizer, iteration), out)

        def run_load_checkpoint(src: Any, model: Any, optimizer: Any) -> int:
            return load(torch.load(src), model, optimizer)

        return wrong("checkpointing", name, says, example, run_save_checkpoint=run_save_checkpoint,
                     run_load_checkpoint=run_load_checkpoint)  # fmt: skip

    def save(model: Any, optimizer: Any, iteration: int) -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": iteration}

    def load(state: dict[str, Any], model: Any, optimizer: Any) -> int:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return state["iteration"]

    def model_only(state: dict[str, Any], model: Any, optimizer: Any) -> int:
        model.load_state_dict(state["model"])
        return state["iteration"]

    def optimizer_only(state: dict[str, Any], model: Any, optimizer: Any) -> int:
        optimizer.load_state_dict(state["optimizer"])
        return state["iteration"]

    def groups_only(state: dict[str, Any], model: Any, optimizer: Any) -> int:
        model.load_state_dict(state["model"])
        for group, saved in zip(optimizer.param_groups, state["optimizer"]["param_groups"], strict=True):
            group["lr"] = saved["lr"]
        return state["iteration"]

    def moments_only(state: dict[str, Any], model: Any, optimizer: Any) -> int:
        model.load_state_dict(state["model"])
        rate = optimizer.param_groups[0]["lr"]
        optimizer.load_state_dict(state["optimizer"])
        optimizer.param_groups[0]["lr"] = rate
        return state["iteration"]

    def some_weights(state: dict[str, Any], model: Any, optimizer: Any) -> int:
        model.load_state_dict({n: v for n, v in state["model"].items() if "bias" not in n}, strict=False)
        optimizer.load_state_dict(state["optimizer"])
        return state["iteration"]

    return [
        entry("optimizer-not-loaded", "the optimizer's state is not loaded", "a step after loading", save, model_only),
        entry("model-not-loaded", "the model's weights are not loaded", "the weights after loading", save, optimizer_only),
        entry("next-iteration", "the iteration after the saved one is returned", "iteration 0", save, lambda s, m, o: load(s, m, o) + 1),
        entry("iteration-lost", "the iteration is not saved and 0 is returned", "iteration 5", save, lambda s, m, o: load(s, m, o) * 0),
        entry("moments-lost", "the optimizer's hyperparameters are loaded but not its moments", "a step after loading", save, groups_only),
        entry("rate-kept", "the optimizer's moments are loaded but not its learning rate", "a step after loading", save, moments_only),
        entry("biases-lost", "parameters named bias are not loaded", "the biases after loading", save, some_weights),
    ]  # fmt: skip
