"""Wrong data parallel wrappers: one small right one whose choices can be set otherwise. Read next: `sharding.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cs336_course.misconceptions.bank import Misconception, wrong


@dataclass(frozen=True)
class Choices:
    """The right choice is each field's default; `send` is the problem's."""

    send: str = "after"
    start: str = "all"
    combine: str = "mean"
    which: str = "all"
    bucket_bytes: float = 0.0
    unflatten: str = "in order"
    leftover: str = "sent"


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_naive(), *_individual(), *_bucketed()]


class Wrapper(nn.Module):
    """Broadcasts a module and averages its gradients, or not quite."""

    def __init__(self, module: nn.Module, choices: Choices) -> None:
        super().__init__()
        self.module, self.choices = module, choices
        self.steps, self.running = 0, list[tuple[Any, Tensor, list[Tensor]]]()
        for p in module.parameters():
            if (
                choices.start == "all"
                or choices.start == "last rank"
                or (choices.start == "trainable" and p.requires_grad)
            ):
                dist.broadcast(p.data, dist.get_world_size() - 1 if choices.start == "last rank" else 0)
        self.trainable = [p for p in module.parameters() if p.requires_grad]
        self.buckets = self._cut()
        self.ready: set[int] = set()
        if choices.send == "hooks":
            for p in self.trainable:
                p.register_post_accumulate_grad_hook(self._ready)

    def forward(self, x: Tensor) -> Tensor:
        """The module's own."""
        return self.module(x)

    def _cut(self) -> list[list[Tensor]]:
        """Buckets in reverse order of the parameters."""
        buckets: list[list[Tensor]] = []
        for p in reversed(self._chosen()):
            if not buckets or sum(q.nbytes for q in buckets[-1]) + p.nbytes > self.choices.bucket_bytes:
                buckets.append([])
            buckets[-1].append(p)
        return buckets

    def _chosen(self) -> list[Tensor]:
        return [p for p in self.trainable if self.choices.which != "matrices" or p.dim() > 1]

    def _ready(self, p: Tensor) -> None:
        self.ready.add(id(p))
        for bucket in self.buckets:
            if any(q is p for q in bucket) and all(id(q) in self.ready for q in bucket):
                self._send(bucket)

    def _send(self, bucket: list[Tensor]) -> None:
        """Start to combine the gradients of a bucket."""
        if self.choices.combine == "none" or (self.choices.which == "first step" and self.steps):
            return
        present = [p for p in bucket if p.grad is not None]
        if present:
            flat = torch.cat([p.grad.reshape(-1) for p in present if p.grad is not None])
            if self.choices.combine == "only rank 0":
                self.running.append((dist.reduce(flat, 0, async_op=True), flat, present))
            else:
                op = dist.ReduceOp.MAX if self.choices.combine == "maximum" else dist.ReduceOp.SUM
                self.running.append((dist.all_reduce(flat, op=op, async_op=True), flat, present))

    def finish(self) -> None:
        """Send what is left, wait, and put the results back."""
        left = [b for b in self.buckets if self.choices.send != "hooks" or not all(id(p) in self.ready for p in b)]
        if self.choices.leftover == "stops at missing":
            left = left[: next((n for n, bucket in enumerate(left[::-1]) if bucket[0].grad is None), len(left))]
        if self.choices.leftover == "lost":
            left = []
        for bucket in left:
            self._send(bucket)
        size = dist.get_world_size()
        divisor = {"mean": size, "twice": size**2, "only rank 0": size}.get(self.choices.combine, 1)
        for work, flat, bucket in self.running:
            work.wait()
            order = bucket[::-1] if self.choices.unflatten == "reversed" else bucket
            for p, part in zip(order, flat.split([p.numel() for p in order]), strict=True):
                p.grad = part.view(p.shape) / divisor
        self.running, self.ready, self.steps = [], set(), self.steps + 1


def _adapters(kind: str, choices: Choices) -> dict[str, Callable[..., Any]]:
    """The adapters of one kind of wrapper."""

    def finish(ddp_model: Wrapper, optimizer: Any) -> None:
        ddp_model.finish()

    def make(module: nn.Module, bucket_size_mb: float | None = 0.0) -> Wrapper:
        limit = float("inf") if bucket_size_mb is None else bucket_size_mb * 1e6
        fixed = choices.bucket_bytes if kind != "ddp_bucketed" or choices.bucket_bytes else limit
        return Wrapper(module, Choices(**{**vars(choices), "bucket_bytes": max(fixed, 0.0)}))

    start = {"ddp_bucketed_on_train_batch_start": lambda ddp_model, optimizer: None}
    return {f"get_{kind}": make, f"{kind}_on_after_backward": finish, **(start if kind == "ddp_bucketed" else {})}


SAME = [
    ("summed", "gradients are summed over the processes, not averaged", "two processes with gradient 1: the mean is 1", {"combine": "sum"}),
    ("divided-twice", "gradients are divided by the number of processes twice", "two processes with gradient 1: the mean is 1", {"combine": "twice"}),
    ("not-sent", "gradients are not exchanged", "two processes with different rows", {"combine": "none"}),
    ("not-broadcast", "processes keep the parameters they began with", "two processes with different seeds", {"start": "none"}),
    ("frozen-not-broadcast", "only trainable parameters are sent at the start", "a frozen bias", {"start": "trainable"}),
    ("from-the-last-rank", "parameters at the start come from the last process instead of rank 0", "two processes with different seeds", {"start": "last rank"}),
    ("matrices-only", "biases are not averaged", "a bias", {"which": "matrices"}),
    ("first-step-only", "only the first backward is followed by an exchange", "two steps", {"which": "first step"}),
]  # fmt: skip


def _entries(slug: str, kind: str, send: str, more: list[Any]) -> list[Misconception]:
    made = []
    for name, says, example, deviation in [*SAME, *more]:
        choices = Choices(**{"send": send, **deviation})
        made.append(wrong(slug, name, says, example, **_adapters(kind, choices)))
    return made


def _naive() -> list[Misconception]:
    return _entries("naive_ddp", "ddp", "after", [
        ("only-rank-0", "the mean is computed at rank 0 only (reduce instead of all-reduce)", "the second process", {"combine": "only rank 0"}),
        ("maximum", "the largest gradient is taken instead of the mean", "gradients 1 and 3: the mean is 2", {"combine": "maximum"}),
        ("stops-at-missing", "the loop ends at the first parameter without gradient", "a parameter that forward does not use", {"leftover": "stops at missing"}),
    ])  # fmt: skip


def _individual() -> list[Misconception]:
    return _entries("ddp_overlap_individual_parameters", "ddp_individual_parameters", "hooks", [
        ("after-backward", "gradients are sent one by one, but only when backward has ended: right, and nothing overlaps", "the number of messages when the first layer's gradient is made", {"send": "after"}),
        ("one-message", "all gradients are sent in one message when backward has ended: right, and nothing overlaps", "the number of messages of a step", {"send": "after", "bucket_bytes": float("inf")}),
    ])  # fmt: skip


def _bucketed() -> list[Misconception]:
    return _entries("ddp_overlap_bucketed", "ddp_bucketed", "hooks", [
        ("one-bucket", "bucket_size_mb is not used: one bucket holds everything", "bucket_size_mb = 0.0004", {"bucket_bytes": float("inf")}),
        ("a-bucket-each", "bucket_size_mb is not used: each parameter is a bucket", "bucket_size_mb = None: one bucket", {"bucket_bytes": 1e-9}),
        ("after-backward", "buckets are sent when backward has ended: right, and nothing overlaps", "the number of messages when the first layer's gradient is made", {"send": "after"}),
        ("put-back-in-another-order", "gradients are put together in one order and taken apart in another", "a bucket of two parameters of different sizes", {"unflatten": "reversed"}),
        ("incomplete-bucket-lost", "a bucket with a parameter that gets no gradient is never sent", "a parameter that forward does not use", {"leftover": "lost"}),
    ])  # fmt: skip
