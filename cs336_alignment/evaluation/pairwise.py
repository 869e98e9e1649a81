"""AlpacaEval: a judge reads two answers to one instruction and says which is better.

    win rate = mean over instructions of p, the judge's preference for the model over the baseline (tie 0.5)
    position   every pair is judged in both orders and averaged: many judges prefer what they read first
    length     logit p = quality + slope * tanh(d / s), d = length of the model's answer less the baseline's, s the
               standard deviation of d; the length-controlled win rate is sigmoid(quality): the rate at equal length

The slope is fitted to the judgements by maximum likelihood with a small ridge. Left out: AlpacaEval's term for the
difficulty of each instruction, which needs judgements of many models.

Source: Li et al. 2023 (AlpacaEval); Dubois et al. 2024 (length control). Handout: alpaca_eval_baseline. Read next:
`judges.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from cs336_alignment.evaluation.generation import Estimate

_RIDGE = 0.1


@runtime_checkable
class Judge(Protocol):
    """Who compares answers."""

    def prefer_second(self, instruction: str, first: str, second: str) -> float | None:
        """Preference for the second answer: 0 for the first, 1 for the second, 0.5 for a tie; None for no verdict."""
        ...


@dataclass(frozen=True)
class Judgement:
    """One instruction with both answers."""

    instruction: str
    baseline: str
    output: str
    when_last: float | None
    """preference for the model's output when it stood second"""
    when_first: float | None
    """and when it stood first"""

    @property
    def preference(self) -> float:
        """Mean of both orders; no verdict counts as a tie."""
        return sum(0.5 if p is None else p for p in (self.when_last, self.when_first)) / 2


@dataclass(frozen=True)
class PairwiseResult:
    """What a judge found."""

    win_rate: Estimate
    length_controlled: float
    length_slope: float
    first_position: float
    """preference for whatever stood first; 0.5 for a judge without that habit"""
    disagreements: float
    """share of pairs whose verdict turned with the order"""
    no_verdict: float
    """share of judgements that said nothing"""
    mean_length: tuple[float, float]
    """characters of the model's and the baseline's answers"""


def judge_pairs(
    judge: Judge,
    triples: Sequence[tuple[str, str, str]],
    *,
    progress: Callable[[int], None] | None = None,
) -> list[Judgement]:
    """Judge (instruction, baseline, output) triples in both orders.

    Raises:
        ValueError: a preference outside [0, 1].
    """
    judgements = []
    for instruction, baseline, output in triples:
        last = judge.prefer_second(instruction, baseline, output)
        turned = judge.prefer_second(instruction, output, baseline)
        for preference in (last, turned):
            if preference is not None and not 0 <= preference <= 1:
                raise ValueError(f"a judge's preference must lie in [0, 1]; got {preference}")
        first = None if turned is None else 1 - turned
        judgements.append(Judgement(instruction, baseline, output, last, first))
        if progress:
            progress(1)
    return judgements


def summarise_judgements(judgements: Sequence[Judgement]) -> PairwiseResult:
    """Win rate, plain and at equal length, and the judge's habits.

    Raises:
        ValueError: no judgements.
    """
    if not judgements:
        raise ValueError("there are no judgements to summarise")
    p = np.array([judgement.preference for judgement in judgements])
    difference = np.array([len(j.output) - len(j.baseline) for j in judgements], dtype=np.float64)
    quality, slope = fit_length_model(p, difference)
    both = [(j.when_last, j.when_first) for j in judgements if j.when_last is not None and j.when_first is not None]
    first = [(1 - last + when_first) / 2 for last, when_first in both]
    spread = 1.96 * float(p.std(ddof=1)) / math.sqrt(len(p)) if len(p) > 1 else 0.5
    mean = float(p.mean())
    return PairwiseResult(
        win_rate=Estimate(mean, max(0.0, mean - spread), min(1.0, mean + spread)),
        length_controlled=1 / (1 + math.exp(-quality)),
        length_slope=slope,
        first_position=sum(first) / len(first) if first else 0.5,
        disagreements=sum((last - 0.5) * (when_first - 0.5) < 0 for last, when_first in both) / max(1, len(both)),
        no_verdict=sum((j.when_last is None) + (j.when_first is None) for j in judgements) / (2 * len(judgements)),
        mean_length=(
            sum(len(j.output) for j in judgements) / len(judgements),
            sum(len(j.baseline) for j in judgements) / len(judgements),
        ),
    )


def fit_length_model(preferences: np.ndarray, difference: np.ndarray) -> tuple[float, float]:
    """(quality, slope) of the model above, by Newton's method.

    Args:
        preferences: in [0, 1], one per pair; fractions are fine.
        difference: characters, model less baseline.

    Numerics: a ridge of 0.1 / 2 on both numbers keeps them finite where every pair is won.
    """
    scale = float(difference.std()) or 1.0
    design = np.stack([np.ones_like(difference), np.tanh(difference / scale)], axis=1)
    weights = np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (preferences - p) - _RIDGE * weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design + _RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights += step * min(1.0, 4 / max(1e-9, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-10:
            break
    return float(weights[0]), float(weights[1])
