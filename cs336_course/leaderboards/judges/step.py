"""Judge of a training step: the right updates first, then timed against our reference step.

    step = forward, loss, backward, AdamW      metric = median time / median time of the reference in this session

The participant gets a configuration and first weights, then one fresh batch of ids at a time. Every loss is compared
with the plain float32 step made here from the same weights and ids, and so are all weights at the end of each round:
an update that is skipped, rounded away or made later shows. Read next: `timing.py`,
`cs336_systems/leaderboard_step.py` (the same for the course's shape).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_course.leaderboards.conversation import Answer, ProbeFailure, Question
from cs336_course.leaderboards.judges.judging import Judging
from cs336_course.leaderboards.judges.timing import Round, beside, clock_probe, ratio, settled, take_turns
from cs336_course.leaderboards.verification import PASSED, Measurement
from cs336_systems.leaderboard_step import PlainEntry


@dataclass(frozen=True)
class StepSettings:
    """The model and the repeats; float32 on the CPU."""

    vocab_size: int = 512
    context_length: int = 128
    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 4
    d_ff: int = 176
    batch_size: int = 4
    learning_rate: float = 1e-2
    warmups: int = 2
    repeats: int = 24
    rounds: int = 4
    loss_tolerance: float = 1e-4
    """largest relative error of a loss"""
    update_tolerance: float = 1e-3
    """norm of the weights' difference over the norm of their change"""


def measure(judging: Judging) -> Measurement:
    """Time and check."""
    return settled(lambda: _measure(judging, judging.settings(StepSettings)))


def _measure(judging: Judging, s: StepSettings) -> Measurement:
    """One session."""
    config = ModelConfig(
        vocab_size=s.vocab_size, context_length=s.context_length, d_model=s.d_model, num_layers=s.num_layers,
        num_heads=s.num_heads, d_ff=s.d_ff,
    )  # fmt: skip
    rng, per_round = judging.random("inputs"), -(-s.repeats // s.rounds)
    references: dict[int, _Reference] = {}

    def make_round(turn: int) -> Round:
        reference = references[turn] = _Reference(config, s, rng, s.warmups + per_round)
        steps = [Question("one_step", {"ids": ids}) for ids in reference.ids]
        return Round([reference.start, *steps[: s.warmups]], steps[s.warmups :], [Question("step_weights", {})])

    def check(turn: int, contestant: str, answers: Sequence[Answer]) -> None:
        references[turn].check(contestant, answers, s)

    assert judging.talk is not None and judging.baseline is not None
    entry, base = take_turns(
        judging.talk, judging.baseline, make_round, repeats=s.repeats, rounds=s.rounds, check=check
    )
    value, error = ratio(entry, base)
    return Measurement(value, error, {"results": PASSED, "clock": clock_probe(entry, base)}, beside(entry, base))


class _Reference:
    """The same steps made here."""

    def __init__(self, config: ModelConfig, s: StepSettings, rng: np.random.Generator, steps: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(int(rng.integers(2**31)))
            model = TransformerLM(config)
        self.first = _arrays(model.state_dict())
        inputs = {"config": dataclasses.asdict(config), "weights": self.first, "learning_rate": s.learning_rate}
        self.start = Question("start_steps", inputs)
        size = (s.batch_size, s.context_length + 1)
        self.ids = [rng.integers(0, s.vocab_size, size=size) for _ in range(steps)]
        plain = PlainEntry(model, s.learning_rate)
        self.losses = [float(plain.step(torch.from_numpy(ids))) for ids in self.ids]
        self.last = _arrays(plain.state_dict())

    def check(self, contestant: str, answers: Sequence[Answer], s: StepSettings) -> None:
        """Raise a ProbeFailure unless all losses and the weights at the end are these."""
        for step, (expected, answer) in enumerate(zip(self.losses, answers[1:-1], strict=True), start=1):
            loss = answer.value.get("loss")
            if not isinstance(loss, float) or not abs(loss - expected) <= s.loss_tolerance * abs(expected):
                raise ProbeFailure(
                    "results", f"the {contestant}'s loss of step {step} is {loss}; the reference has {expected:.6f}"
                )
        weights = answers[-1].value.get("weights")
        if not isinstance(weights, dict) or weights.keys() != self.last.keys():
            raise ProbeFailure("results", f"the {contestant}'s state_dict has not the names it was given")
        error = _distance(weights, self.last) / _distance(self.first, self.last)
        if not error <= s.update_tolerance:
            raise ProbeFailure(
                "results", f"the {contestant}'s weights after {len(self.ids)} steps differ by {error:.2g} of their change; "
                f"{s.update_tolerance:g} is allowed"
            )  # fmt: skip


def _arrays(weights: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in weights.items()}


def _distance(one: Mapping[str, Any], other: Mapping[str, np.ndarray]) -> float:
    """2-norm over all weights; infinite where a shape differs or a value is not finite."""
    total = 0.0
    for name, expected in other.items():
        found = one[name]
        if not isinstance(found, np.ndarray) or found.shape != expected.shape or not np.isfinite(found).all():
            return float("inf")
        total += float(((found.astype(np.float64) - expected) ** 2).sum())
    return total**0.5
