"""The course's ablations: which runs answer which question, as changes of one baseline.

    norm            no RMSNorm, at the baseline's learning rate, a third and three times; post-norm instead of pre-norm
    positions       no positional information (NoPE) instead of rotary
    feed_forward    W2 SiLU(W1 x) with the same number of weights instead of SwiGLU
    parallel        attention and feed-forward side by side instead of one after the other
    learning_rate   factors 0.1 to 10, and one so large that the run diverges
    batch_size      factors 1/4 to 4 at equal tokens

An ablation is a function from the baseline's `TrainConfig` to a few others; nothing is trained here. Handout:
layer_norm_ablation, pre_norm_ablation, no_pos_emb, swiglu_ablation, parallel_layers (2024), learning_rate,
batch_size_experiment. Read next: `experiment.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cs336_basics.training_config import TrainConfig

BASELINE = "baseline"
LEARNING_RATE_FACTORS = (0.1, 0.3, 3.0, 10.0, 1000.0)
BATCH_SIZE_FACTORS = (0.25, 0.5, 2.0, 4.0)


@dataclass(frozen=True)
class Variant:
    """One run of an ablation."""

    name: str
    """its folder"""
    label: str
    """what a table calls it"""
    config: TrainConfig


@dataclass(frozen=True)
class Ablation:
    """A question, and the runs that answer it beside the baseline."""

    name: str
    title: str
    explanation: str
    """what is compared and why, as Markdown"""
    variants: Callable[[TrainConfig], list[Variant]]


def with_norm(base: TrainConfig) -> list[Variant]:
    """No norm at three learning rates, post-norm."""
    bare = replace(base, model=replace(base.model, norm="none"))
    post = replace(base, model=replace(base.model, norm="post"))
    return [
        Variant("no_norm", "no norm", bare),
        Variant("no_norm_slow", "no norm, learning rate x 0.3", at_learning_rate(bare, 0.3)),
        Variant("no_norm_fast", "no norm, learning rate x 3", at_learning_rate(bare, 3.0)),
        Variant("post_norm", "post-norm", post),
    ]


def with_positions(base: TrainConfig) -> list[Variant]:
    """No positional information at all; the causal mask remains."""
    return [Variant("nope", "no positions (NoPE)", replace(base, model=replace(base.model, positions="none")))]


def with_feed_forward(base: TrainConfig) -> list[Variant]:
    """SiLU without a gate: two matrices of width 3/2 d_ff hold as many weights as SwiGLU's three of width d_ff.

    Raises:
        ValueError: the baseline has another feed-forward.
    """
    if base.model.ffn != "swiglu":
        raise ValueError(f"feed_forward compares SwiGLU with SiLU, but the baseline has ffn={base.model.ffn!r}")
    d_ff = 3 * (base.model.d_ff or 0) // 2
    model = replace(base.model, ffn="silu", d_ff=d_ff)
    return [Variant("silu", f"SiLU, d_ff {d_ff}", replace(base, model=model))]


def with_parallel_layers(base: TrainConfig) -> list[Variant]:
    """y = x + attn(norm(x)) + ffn(norm(x))."""
    model = replace(base.model, norm="parallel")
    return [Variant("parallel", "parallel layers", replace(base, model=model))]


def with_learning_rates(base: TrainConfig) -> list[Variant]:
    """The highest learning rate times each of LEARNING_RATE_FACTORS."""
    configs = [at_learning_rate(base, factor) for factor in LEARNING_RATE_FACTORS]
    rates = [f"{config.optimizer.max_learning_rate:g}" for config in configs]
    return [Variant(f"lr_{rate}", f"learning rate {rate}", c) for rate, c in zip(rates, configs, strict=True)]


def with_batch_sizes(base: TrainConfig) -> list[Variant]:
    """The batch size times each of BATCH_SIZE_FACTORS that gives whole sequences."""
    configs = [at_batch_size(base, f) for f in BATCH_SIZE_FACTORS if (base.batch_size * f) % 1 == 0]
    return [Variant(f"batch_{c.batch_size}", f"batch {c.batch_size}, {c.num_steps} steps", c) for c in configs]


def at_learning_rate(base: TrainConfig, factor: float) -> TrainConfig:
    """`base` with its learning rates, highest and lowest, times `factor`."""
    o = base.optimizer
    low = None if o.min_learning_rate is None else o.min_learning_rate * factor
    rate = float(f"{o.max_learning_rate * factor:.6g}")  # 0.1 * 0.003 is 0.00030000000000000003
    return replace(base, optimizer=replace(o, max_learning_rate=rate, min_learning_rate=low))


def at_batch_size(base: TrainConfig, factor: float) -> TrainConfig:
    """`base` with `factor` times the batch and as many tokens, to the nearest step: counts of steps shrink as it grows.

    The learning rate follows the square root of the batch, the rule for Adam (Malladi et al. 2022, section 4).
    """

    def steps(count: int) -> int:
        return max(1, round(count / factor))

    scaled = at_learning_rate(base, factor**0.5)
    o = scaled.optimizer
    decay = None if o.decay_steps is None else steps(o.decay_steps)
    return replace(
        scaled, batch_size=round(base.batch_size * factor), num_steps=steps(base.num_steps),
        log_every=steps(base.log_every), eval_every=steps(base.eval_every),
        checkpoint_every=steps(base.checkpoint_every),
        optimizer=replace(o, warmup_steps=min(steps(o.warmup_steps), steps(base.num_steps) - 1), decay_steps=decay),
    )  # fmt: skip


ABLATIONS = (
    Ablation(
        "norm",
        "Where the norm stands",
        "RMSNorm keeps the input of every sublayer at one scale whatever the residual stream has grown to. Without it, "
        "activations and gradients are free to grow with depth and learning rate: watch the gradient norm below. The "
        "usual cure is a lower learning rate, at the price of slower progress; compare the three runs without norms "
        "with the learning rates that the baseline survives. **Post-norm**, the place of the "
        "original Transformer, normalises the residual stream itself after each sum, so no path leads from the loss "
        "to the first layer untouched; it trains, but usually needs longer warm-up, the more so the deeper the model.",
        with_norm,
    ),
    Ablation(
        "positions",
        "Positions",
        "Without rotary positions attention cannot see order directly. It is not blind to it either: behind a causal "
        "mask token *n* averages over *n* tokens, and from that a network of two or more layers can learn to count. "
        "So **NoPE** works, and how much worse it is shows what being told the positions is worth.",
        with_positions,
    ),
    Ablation(
        "feed_forward",
        "A gate in the feed-forward",
        "**SwiGLU** multiplies one half of the hidden layer by the other; that gate costs a third matrix. The fair "
        "opponent has as many weights: two matrices of width 4 d_model against three of width 8/3 d_model. The gain "
        "reported for gates (Shazeer 2020) is about one percent of loss, so one seed can easily show the opposite.",
        with_feed_forward,
    ),
    Ablation(
        "parallel",
        "Parallel layers",
        "In a **parallel** block attention and feed-forward read the same normalised input and are added together, "
        "*y = x + attn(norm x) + ffn(norm x)*. That saves time on large machines, where both can be computed at once; "
        "on a CPU there is little to gain, and the feed-forward no longer sees what this block's attention found.",
        with_parallel_layers,
    ),
    Ablation(
        "learning_rate",
        "Learning rate",
        "Too small a rate wastes steps; too large a one diverges. The best rate commonly lies not far below the "
        "smallest that diverges, the **edge of stability**. A run that diverges is a result here, not a failure: the "
        "table names the step. Gradient clipping and Adam's normalised steps widen the range in which a run survives, "
        "so well beyond the best rate it may go on, but badly.",
        with_learning_rates,
    ),
    Ablation(
        "batch_size",
        "Batch size",
        "All of these runs read the same number of tokens, so a small batch takes many noisy steps and a large one "
        "few precise steps; the learning rate follows the square root of the batch. By tokens small batches win until "
        "their noise hurts; by the clock the machine decides, since it computes large batches with less overhead. Up "
        "to the *critical batch size* doubling the batch nearly halves the steps needed, beyond it tokens are wasted.",
        with_batch_sizes,
    ),
)
BY_NAME = {ablation.name: ablation for ablation in ABLATIONS}


def choose(names: Sequence[str]) -> list[Ablation]:
    """The ablations of these names, in the catalogue's order; all when there are none.

    Raises:
        ValueError: an unknown name; the nearest is suggested.
    """
    for name in names:
        if name not in BY_NAME:
            near = difflib.get_close_matches(name, BY_NAME, n=1)
            advice = f"did you mean {near[0]}?" if near else f"choose among {', '.join(BY_NAME)}"
            raise ValueError(f"unknown ablation {name!r}; {advice}")
    return [ablation for ablation in ABLATIONS if not names or ablation.name in names]
