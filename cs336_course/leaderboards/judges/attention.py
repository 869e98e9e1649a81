"""Judge of causal attention: right first, then forward and backward timed against our reference.

    metric = median time of the entry / median time of the reference, both re-timed in this session

Every timed repeat has inputs of its own and is checked, output and all three gradients, against attention in float64.
Read next: `timing.py`, `cs336_systems/leaderboard_attention.py` (the same on a GPU, at the course's shape).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cs336_course.leaderboards.conversation import Answer, ProbeFailure, Question
from cs336_course.leaderboards.judges.judging import Judging
from cs336_course.leaderboards.judges.timing import (
    Round,
    beside,
    clock_probe,
    ratio,
    relative_error,
    settled,
    take_turns,
)
from cs336_course.leaderboards.verification import PASSED, Measurement

NAMES = ("o", "dq", "dk", "dv")


@dataclass(frozen=True)
class AttentionSettings:
    """Shape and repeats; float32 on the CPU."""

    heads: int = 4
    tokens: int = 512
    d: int = 32
    warmups: int = 2
    repeats: int = 24
    rounds: int = 4
    tolerance: float = 2e-4
    """largest relative error of an output or gradient"""


def measure(judging: Judging) -> Measurement:
    """Time and check."""
    return settled(lambda: _measure(judging, judging.settings(AttentionSettings)))


def _measure(judging: Judging, s: AttentionSettings) -> Measurement:
    """One session."""
    rng, per_round = judging.random("inputs"), -(-s.repeats // s.rounds)
    asked: dict[int, list[Question]] = {}

    def make_round(turn: int) -> Round:
        asked[turn] = [_question(s, rng) for _ in range(s.warmups + per_round)]
        return Round(asked[turn][: s.warmups], asked[turn][s.warmups :])

    def check(turn: int, contestant: str, answers: Sequence[Answer]) -> None:
        for question, answer in zip(asked[turn], answers, strict=True):
            for name, expected in zip(NAMES, _expected(question), strict=True):
                error = relative_error(answer.value.get(name), expected)
                if not error <= s.tolerance:
                    raise ProbeFailure(
                        "results",
                        f"the {contestant}'s {name} is off by {error:.2g} of its norm; {s.tolerance:g} is allowed",
                    )

    assert judging.talk is not None and judging.baseline is not None
    entry, base = take_turns(
        judging.talk, judging.baseline, make_round, repeats=s.repeats, rounds=s.rounds, check=check
    )
    value, error = ratio(entry, base)
    return Measurement(value, error, {"results": PASSED, "clock": clock_probe(entry, base)}, beside(entry, base))


def _question(s: AttentionSettings, rng: np.random.Generator) -> Question:
    """Inputs that were never used before."""
    shape = (s.heads, s.tokens, s.d)
    names = ("q", "k", "v", "d_o")
    return Question("attention", {name: rng.standard_normal(shape, dtype=np.float32) for name in names})


def _expected(question: Question) -> tuple[np.ndarray, ...]:
    """Output and gradients in float64."""
    q, k, v, d_o = (torch.from_numpy(question.inputs[name]).double() for name in ("q", "k", "v", "d_o"))
    for tensor in (q, k, v):
        tensor.requires_grad_()
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    visible = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()
    output = torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1) @ v
    return tuple(x.detach().numpy() for x in (output, *torch.autograd.grad(output, (q, k, v), d_o)))
