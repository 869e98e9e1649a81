"""Which runs the bank is made of: profiles over three decades of FLOPs, and what lies off their path.

    profile   7 budgets of 6 sizes (fewer at the smallest), batch and rate by rule: what laws are fitted to
    seed      some of these again with other seeds: the noise
    rate      4 shapes at 6 rates round the rule: is the rule right, and what does missing it cost?
    batch     3 shapes at 4 batches round the rule, the rate moved with its root
    shape     the same parameters deeper and narrower
    random    shapes, budgets, rates and batches drawn at random: for a surface over all of them

A budget is charged 6 * 12 L d^2 * D FLOPs, as in the course; the products really done are counted in each record. The
scale is a millionth of the course's: 1e9 to 1e12 in place of 1e15 to 1e18, the target 1e13.

Handout: scaling_laws (design of experiments). Read next: `sweep.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from cs336_basics.model_config import ModelConfig
from cs336_basics.training_config import OptimizerConfig
from cs336_scaling.flops import count_flops, handout_parameters

CORPORA = ("stories", "stdlib")
VOCAB_SIZE, CONTEXT_LENGTH, HEAD_DIM = 512, 128, 8
SHAPES = (
    (8, 1),
    (8, 2),
    (16, 1),
    (16, 2),
    (32, 1),
    (32, 2),
    (48, 2),
    (64, 2),
    (64, 3),
    (80, 3),
    (96, 4),
    (128, 4),
    (128, 6),
)
"""(d_model, num_layers) of rising size"""
BUDGETS = (1e9, 3e9, 1e10, 3e10, 1e11, 3e11, 1e12)
SIZES_PER_BUDGET = 6
FEWEST_STEPS = 16
SECONDS_PER_STEP, FLOPS_PER_SECOND = 4e-3, 8e9
"""of one thread of a small machine, for `estimated_seconds`"""


@dataclass(frozen=True)
class RunSpec:
    """One run that the bank should have."""

    corpus: str
    role: str
    budget: float
    """FLOPs, 6 * 12 L d^2 * tokens"""
    d_model: int
    num_layers: int
    batch_size: int
    """sequences"""
    learning_rate: float
    seed: int = 0

    @property
    def num_steps(self) -> int:
        """Updates that the budget pays for, at least FEWEST_STEPS."""
        per_step = 6 * handout_parameters(self.num_layers, self.d_model) * self.batch_size * CONTEXT_LENGTH
        return max(FEWEST_STEPS, round(self.budget / per_step))

    @property
    def tokens(self) -> int:
        """Trained on."""
        return self.num_steps * self.batch_size * CONTEXT_LENGTH

    @property
    def id(self) -> str:
        """Hash of all that decides the result, the role left out."""
        facts = {**asdict(self), "role": "", "vocab_size": VOCAB_SIZE, "context_length": CONTEXT_LENGTH}
        return hashlib.blake2s(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()

    def model(self) -> ModelConfig:
        """Its model: 12 d^2 weights per block up to the rounding of d_ff."""
        return ModelConfig(
            vocab_size=VOCAB_SIZE, context_length=CONTEXT_LENGTH, d_model=self.d_model, num_layers=self.num_layers,
            num_heads=self.d_model // HEAD_DIM, d_ff=round(8 * self.d_model / 3),
        )  # fmt: skip

    def optimizer(self) -> OptimizerConfig:
        """AdamW, a tenth of warm-up, cosine to a tenth."""
        return OptimizerConfig(
            max_learning_rate=self.learning_rate, warmup_steps=max(1, self.num_steps // 10), weight_decay=0.1
        )

    def estimated_seconds(self) -> float:
        """On one thread of a small machine: products and a fixed time per step."""
        products = count_flops(self.model(), self.tokens)["matrix_products"]
        return products / FLOPS_PER_SECOND + self.num_steps * SECONDS_PER_STEP


def rule_batch(tokens: float) -> int:
    """Sequences per step: 8 at 1e5 tokens, growing as D^0.383, a power of two."""
    return 2 ** max(2, round(math.log2(8 * (tokens / 1e5) ** 0.383)))


def rule_rate(d_model: int) -> float:
    """Highest learning rate by width, capped at 0.1; the `rate` runs show how good it is.

    Chosen after a few trials: at width 16 and 3e9 FLOPs the loss fell from 1.61 to 1.37 between 0.02 and 0.08.
    """
    return min(0.1, 0.02 * 64 / d_model)


def by_rule(corpus: str, role: str, budget: float, shape: tuple[int, int]) -> RunSpec:
    """The run of a shape at a budget with batch and rate by rule."""
    width, layers = shape
    tokens = budget / (6 * handout_parameters(layers, width))
    return RunSpec(corpus, role, budget, width, layers, rule_batch(tokens), rule_rate(width))


def sweep_runs(corpora: tuple[str, ...] = CORPORA) -> list[RunSpec]:
    """All runs, cheapest first, each once."""
    runs: dict[str, RunSpec] = {}
    for corpus in corpora:
        if corpus not in CORPORA:
            raise ValueError(f"corpus must be one of {', '.join(CORPORA)}; got {corpus!r}")
        for spec in _runs_of(corpus):
            runs.setdefault(spec.id, spec)
    return sorted(runs.values(), key=RunSpec.estimated_seconds)


def _runs_of(corpus: str) -> Iterator[RunSpec]:
    """Stories get all kinds of runs, the other corpus fewer of each."""
    whole = corpus == CORPORA[0]
    for budget in BUDGETS:
        for shape in profile_shapes(budget):
            yield by_rule(corpus, "profile", budget, shape)
    for budget in BUDGETS[1:5]:
        for shape in profile_shapes(budget)[1:5:2] if whole else profile_shapes(budget)[2:3]:
            for seed in (1, 2, 3):
                yield replace(by_rule(corpus, "seed", budget, shape), seed=seed)
    for budget, shape in ((1e10, (32, 2)), (3e10, (64, 2)), (3e10, (16, 2)), (1e11, (96, 4)))[: 4 if whole else 2]:
        for factor in (1 / 8, 1 / 4, 1 / 2, 2, 4, 8):
            spec = by_rule(corpus, "rate", budget, shape)
            yield replace(spec, learning_rate=spec.learning_rate * factor)
    for budget, shape in ((3e9, (32, 1)), (1e10, (32, 2)), (3e10, (48, 2)))[: 3 if whole else 1]:
        for factor in (0.25, 0.5, 2, 4):
            spec = by_rule(corpus, "batch", budget, shape)
            batch = max(1, round(spec.batch_size * factor))
            yield replace(spec, batch_size=batch, learning_rate=spec.learning_rate * (batch / spec.batch_size) ** 0.5)
    if whole:
        for budget, shape in ((1e10, (16, 8)), (1e10, (48, 1)), (3e10, (32, 8)), (3e10, (16, 32)), (1e11, (48, 8))):
            yield by_rule(corpus, "shape", budget, shape)
        yield from _random_runs(corpus, 36)


def profile_shapes(budget: float) -> list[tuple[int, int]]:
    """The sizes of a budget: SIZES_PER_BUDGET of SHAPES round 100 tokens per parameter, where steps suffice."""
    middle = math.sqrt(budget / 600)
    nearest = min(
        range(len(SHAPES)), key=lambda i: abs(math.log(handout_parameters(SHAPES[i][1], SHAPES[i][0]) / middle))
    )
    start = max(0, min(nearest - 2, len(SHAPES) - SIZES_PER_BUDGET))
    chosen = SHAPES[start : start + SIZES_PER_BUDGET]
    return [
        (width, layers) for width, layers in chosen
        if budget / (6 * handout_parameters(layers, width)) >= FEWEST_STEPS * 4 * CONTEXT_LENGTH
    ]  # fmt: skip


def _random_runs(corpus: str, count: int) -> Iterator[RunSpec]:
    """Budget, size round the profile, rate and batch round the rule, all in the logarithm."""
    rng = random.Random("sweep")
    for _ in range(count):
        budget = float(f"{10 ** rng.uniform(9.3, 11.3):.3g}")
        spec = by_rule(corpus, "random", budget, rng.choice(profile_shapes(budget)))
        batch = max(2, round(spec.batch_size * 4 ** rng.uniform(-1, 1)))
        rate = float(f"{spec.learning_rate * 6 ** rng.uniform(-1, 1):.3g}")
        yield replace(spec, batch_size=batch, learning_rate=rate)
