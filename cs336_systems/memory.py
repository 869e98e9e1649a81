"""Where the memory of a training step goes, by formula.

With P parameters, B sequences of T tokens, L blocks of width d and d_ff = F, h heads, vocabulary V, a float32 step
holds 4P bytes of weights, 4P of gradients, 8P of AdamW's moments, and what the forward pass keeps for the backward:

    per block    residual stream, norm, its output (each twice); q, k, v, heads     10 BTd
                 w1 x, its sigmoid, SiLU, w3 x, their product                        5 BTF
                 attention probabilities                                             B h T^2   (the quadratic term)
    at the end   residual stream, norm, its output 3 BTd;   exponentials of the loss BTV

Under bfloat16 autocast the products are half as wide, but norms and the residual stream stay float32, a norm's output
is cast once for each matrix that reads it, softmax keeps its float32 result beside the bfloat16 copy (6 bytes for 4),
and each matrix has a bfloat16 copy (2 bytes per weight) from its forward to its backward: 8.5 BTd, 2.5 BTF, 1.5 B h T^2
in units of 4 bytes.

Not all of it is there at once. The peak is the greatest of a few moments:

    loss            everything kept, and the logits beside their exponentials
    feed-forward    backward of a block: three gradients of width F, while all below is still kept
    attention       backward of a block: probabilities, their gradient, and two temporaries of that size
    update          4 + 4 + 8 bytes per parameter and a temporary of the largest one

The middle two are linear in the block's number (below it activations, above it gradients), so that the top and the
bottom block decide. `memory_measurement.py` measures the same and proves the formulas right within a few percent.

Handout: memory_profiling, gradient_checkpointing (the residual of a block). Left out: recomputation, fused attention
and loss, sharding; the allocator's rounding and the libraries' workspaces. Read next: `memory_measurement.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cs336_basics.accounting import parameter_counts
from cs336_basics.model_config import ModelConfig

MODES = ("forward", "backward", "step")
"""what is done: a forward pass without gradients; forward, loss and backward; these and an AdamW update"""
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step, by part, and the moments among which its peak is."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """what the forward pass and the loss keep for the backward pass, bfloat16 copies of the weights included"""
    moments: dict[str, int]
    """bytes alive at each moment that may be the peak"""

    @property
    def peak(self) -> int:
        """The most that is alive at any moment."""
        return max(self.moments.values())

    @property
    def peak_moment(self) -> str:
        """When that is."""
        return max(self.moments, key=self.moments.__getitem__)


@dataclass(frozen=True)
class _Units:
    """Bytes in float32 of the tensors that everything is made of."""

    tokens: int
    """B T"""
    stream: int
    """B T d"""
    hidden: int
    """B T F"""
    scores: int
    """B h T^2"""
    logits: int
    """B T V"""
    turns: int
    """the rotary positions' complex numbers for q and k of a block"""
    up: int
    """a matrix of the feed-forward: d F"""
    square: int
    """a matrix of the attention: d^2"""
    head: int
    """the head, and the embedding: V d"""
    block: int
    """all weights of a block"""
    mask: int
    """T^2 booleans"""

    @classmethod
    def of(cls, config: ModelConfig, batch_size: int) -> _Units:
        assert config.d_ff is not None  # filled in by ModelConfig
        d, seq = config.d_model, config.context_length
        tokens = 4 * batch_size * seq
        return cls(
            tokens=tokens, stream=tokens * d, hidden=tokens * config.d_ff, scores=tokens * seq * config.num_heads,
            logits=tokens * config.vocab_size, turns=2 * 4 * seq * config.d_head, up=4 * d * config.d_ff,
            square=4 * d * d, head=4 * config.vocab_size * d, block=4 * (4 * d * d + 3 * d * config.d_ff + 2 * d),
            mask=seq * seq,
        )  # fmt: skip


def has_formula(config: ModelConfig) -> bool:
    """Whether `step_memory` knows this model: the course's plain one, of any shape."""
    plain = ModelConfig(
        vocab_size=config.vocab_size, context_length=config.context_length, d_model=config.d_model,
        num_layers=config.num_layers, num_heads=config.num_heads, d_ff=config.d_ff, rope_theta=config.rope_theta,
        norm_eps=config.norm_eps,
    )  # fmt: skip
    return config == plain


def step_memory(config: ModelConfig, *, batch_size: int, mode: str = "step", precision: str = "float32") -> StepMemory:
    """Memory of a step of the plain model on sequences of context_length.

    Args:
        config: a model without variants (see `has_formula`).
        batch_size: sequences, at least 1.
        mode: one of MODES; the moments of "step" are those from the second step on, when AdamW has its state.
        precision: "float32", or "bfloat16" for autocast over float32 weights.

    Raises:
        ValueError: a batch below 1, an unknown mode or precision, or a variant, which has no formula.
    """
    check_step(batch_size, mode, precision)
    if not has_formula(config):
        raise ValueError(
            "step_memory knows the course's plain model and this config has variants; use trace_step, which runs a "
            "step on the meta device"
        )
    units, half = _Units.of(config, batch_size), precision == "bfloat16"
    weights = 4 * sum(parameter_counts(config).values())
    if mode == "forward":
        moments = {name: weights + extra for name, extra in _forward_moments(units, half).items()}
        return StepMemory(weights, 0, 0, 0, moments)
    optimizer = 2 * weights if mode == "step" else 0
    kept = _kept(units, config.num_layers, half)
    moments = {name: weights + optimizer + extra for name, extra in _moments(units, config, weights, half).items()}
    if mode == "step":
        moments["update"] = weights + optimizer + weights + max(units.head, units.up, units.square)
    return StepMemory(weights, weights, optimizer, kept, moments)


def block_residual_bytes(config: ModelConfig, *, batch_size: int, precision: str = "float32") -> int:
    """What one block keeps for its backward pass: the price that checkpointing it would save, but for its input."""
    check_step(batch_size, "step", precision)
    return _kept_by_block(_Units.of(config, batch_size), precision == "bfloat16")


def _kept_by_block(u: _Units, half: bool) -> int:
    if half:
        copies = (4 * u.square + 3 * u.up) // 2
        return (17 * u.stream + 5 * u.hidden + 3 * u.scores) // 2 + u.turns + 2 * u.tokens + copies
    return 10 * u.stream + 5 * u.hidden + u.scores + u.turns + 2 * u.tokens


def _kept(u: _Units, num_layers: int, half: bool) -> int:
    """All that is kept when the loss has been computed: blocks, last norm, head, exponentials, sums and targets."""
    top = (5 * u.stream + u.head) // 2 if half else 3 * u.stream
    return num_layers * _kept_by_block(u, half) + top + u.logits + 4 * u.tokens


def _moments(u: _Units, config: ModelConfig, weights: int, half: bool) -> dict[str, int]:
    """Bytes beyond weights and moments when the loss is computed, in the top and bottom block, and at the end."""
    block, count = _kept_by_block(u, half), config.num_layers
    head = u.head + 4 * config.d_model  # gradients of the head and the last norm
    moments = {"loss": _kept(u, count, half) + (3 * u.logits // 2 if half else u.logits)}
    for name, above in {"top": 0, "bottom": count - 1}.items():
        outside = (count - 1 - above) * block + above * u.block + head + u.stream
        moments[f"{name} block, feed-forward"] = (
            outside + block + u.up + (u.hidden - u.up // 2 if half else 2 * u.hidden)
        )
        stream, copies = (5 * u.stream, 3 * u.square // 2) if half else (6 * u.stream, 0)
        gradients = 3 * u.up + u.square
        moments[f"{name} block, attention"] = outside + stream + copies + gradients + 4 * u.scores + u.turns
    moments["embedding"] = weights + u.head + u.stream
    return moments


def _forward_moments(u: _Units, half: bool) -> dict[str, int]:
    """Bytes beyond the weights at the widest places of a forward pass that keeps nothing."""
    if half:
        return {
            "attention": (7 * u.stream + 5 * u.scores) // 2 + u.mask,
            "feed-forward": (6 * u.stream + 3 * u.hidden) // 2,
            "logits": (3 * u.stream + u.logits + u.head) // 2,
        }
    return {
        "attention": 7 * u.stream + 2 * u.scores + u.mask,
        "feed-forward": 3 * u.stream + 3 * u.hidden,
        "logits": u.stream + u.logits,
    }


def check_step(batch_size: int, mode: str, precision: str) -> None:
    """Raise a ValueError unless these describe a step."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
