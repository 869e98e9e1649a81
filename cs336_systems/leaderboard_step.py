"""The 2026 leaderboard: one full training step of an 8B model, timed honestly, and the same at a toy shape on a CPU.

    step = forward, loss, backward, AdamW, zero_grad(set_to_none)         batch 2 x 32,768 tokens, bfloat16, causal

A contestant is a function from the harness's model to an object with

    step(ids) -> loss          ids (batch, context + 1); one whole update has been made when it returns
    state_dict() -> weights    all weights by their original names, whole, as they are after the last step

so it may compile, shard, fuse or replace whatever is inside. `check_entry` compares losses and weights with the plain
float32 step at a toy shape; `time_entry` then gives it fresh ids each time, waits for the device before and after, and
checks each loss. What counts is the mean of the timed steps, as the board's do_bench does.

    FLOPs = 6 (parameters but the embedding) tokens + 3.5 * (4 B L T^2 d) / 2

with a causal half of the scores and a backward pass of 2.5 forwards, since attention recomputes its probabilities. At
the board's shape that is 5.04 PFLOP.

Handout: leaderboard (2026). Left out: the processes of several GPUs; start the harness in each under torchrun with an
entry that shards. Read next: `kernels/`, `parallel/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from cs336_basics.accounting import parameter_counts
from cs336_basics.chunked_loss import chunked_cross_entropy
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.optimizer import AdamW
from cs336_systems.memory import has_formula, step_memory
from cs336_systems.memory_measurement import autocast, memory_limit
from cs336_systems.timing import Timing, time_parts


@dataclass(frozen=True)
class StepShape:
    """What is trained on how much in a step."""

    model: ModelConfig
    batch_size: int
    learning_rate: float = 1e-4

    @property
    def tokens(self) -> int:
        """In a step."""
        return self.batch_size * self.model.context_length

    @property
    def flops(self) -> float:
        """Of a step; see the module docstring."""
        config, parameters = self.model, parameter_counts(self.model)
        products = sum(parameters.values()) - parameters["token embeddings"]
        scores = 4 * self.batch_size * config.num_layers * config.context_length**2 * config.num_heads * config.d_head
        return 6.0 * products * self.tokens + 3.5 * scores / 2


FULL_SHAPE = StepShape(
    ModelConfig(
        vocab_size=151_936, context_length=32_768, d_model=4096, num_layers=34, num_heads=32, d_ff=11_008
    ),
    batch_size=2,
)  # fmt: skip
"""the board's"""
TOY_SHAPE = StepShape(
    ModelConfig(vocab_size=211, context_length=48, d_model=32, num_layers=2, num_heads=4, d_ff=88), batch_size=2,
    learning_rate=1e-2,
)  # fmt: skip
"""the same in small, for checking and for a CPU"""


@runtime_checkable
class StepEntry(Protocol):
    """A contestant; see the module docstring."""

    def step(self, ids: Tensor) -> Tensor:
        """Make one update and return the loss before it."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """All weights."""
        ...


MakeEntry = Callable[[TransformerLM, float], StepEntry]
"""from the model, with its first weights, and the learning rate"""


class PlainEntry:
    """The step as assignment 1 has it: what every other entry is compared with."""

    def __init__(self, model: TransformerLM, learning_rate: float, *, precision: str = "float32") -> None:
        self.model, self.precision = model, precision
        self.optimizer = AdamW(model.parameters(), lr=learning_rate)

    def loss(self, ids: Tensor) -> Tensor:
        """Of the next tokens."""
        return cross_entropy(self.model(ids[:, :-1]), ids[:, 1:])

    def step(self, ids: Tensor) -> Tensor:
        """One update."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(ids.device, self.precision):
            loss = self.loss(ids)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> Mapping[str, Tensor]:
        """The model's."""
        return self.model.state_dict()


class ChunkedLossEntry(PlainEntry):
    """The head and the loss in chunks of tokens: the logits of the whole batch never exist."""

    def __init__(
        self, model: TransformerLM, learning_rate: float, *, precision: str = "float32", chunk_tokens: int = 2048
    ) -> None:
        super().__init__(model, learning_rate, precision=precision)
        self.chunk_tokens = chunk_tokens

    def loss(self, ids: Tensor) -> Tensor:
        """The same loss."""
        hidden = self.model.hidden_states(ids[:, :-1])
        return chunked_cross_entropy(
            hidden, self.model.lm_head.weight, ids[:, 1:], chunk_tokens=self.chunk_tokens
        )[0]  # fmt: skip


ENTRIES: dict[str, Callable[..., StepEntry]] = {"plain": PlainEntry, "chunked-loss": ChunkedLossEntry}


@dataclass(frozen=True)
class EntryCheck:
    """How far an entry is from the reference."""

    loss_error: float
    """largest relative difference of a loss"""
    update_error: float
    """norm of the difference of all weights, over the norm of the reference's total change"""
    tolerance: float
    """the most for the update; a tenth of it for the loss"""

    @property
    def passed(self) -> bool:
        """Whether the entry computes the same step; not a number is no pass."""
        return self.loss_error <= self.tolerance / 10 and self.update_error <= self.tolerance


def check_entry(
    make_entry: MakeEntry, *, shape: StepShape = TOY_SHAPE, steps: int = 3, tolerance: float = 1e-3,
    device: torch.device | str = "cpu", seed: int = 0,
) -> EntryCheck:  # fmt: skip
    """Make `steps` updates with the entry and with the plain float32 step from the same weights and ids.

    Args:
        make_entry: the contestant.
        shape: small enough for the reference.
        steps: updates, at least 1; with several, state that is not kept shows.
        tolerance: 1e-3 for float32; bfloat16 needs about 0.15 for the updates, whose signs AdamW amplifies.
        device: where both run.
        seed: of the weights and the ids.

    Raises:
        ValueError: steps below 1, or weights under other names or shapes than the model's.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    place = torch.device(device)
    first = _model(shape, place, seed)
    before = {name: weight.clone() for name, weight in first.state_dict().items()}
    reference = PlainEntry(first, shape.learning_rate)
    entry = make_entry(_model(shape, place, seed), shape.learning_rate)
    losses = []
    for ids in _batches(shape, place, seed, steps):
        losses.append((float(reference.step(ids.clone())), float(entry.step(ids))))
    error = max((abs(ours - true) / abs(true) for true, ours in losses), key=lambda x: math.inf if x != x else x)
    return EntryCheck(error, _update_error(before, reference.state_dict(), entry.state_dict()), tolerance)


def _update_error(before: Mapping[str, Tensor], reference: Mapping[str, Tensor], entry: Mapping[str, Tensor]) -> float:
    """|entry - reference| / |reference - before| over all weights."""
    if entry.keys() != reference.keys() or any(entry[k].shape != reference[k].shape for k in reference):
        raise ValueError("an entry's state_dict must have the names and shapes of the model's; see TransformerLM")
    wrong = sum(float((entry[k].double() - reference[k].double()).square().sum()) for k in reference)
    change = sum(float((reference[k].double() - before[k].double()).square().sum()) for k in reference)
    return math.sqrt(wrong / change)


@dataclass(frozen=True)
class StepResult:
    """A timed entry."""

    timing: Timing
    flops: float
    tokens: int
    losses: tuple[float, ...]
    check: EntryCheck

    @property
    def tflops(self) -> float:
        """10^12 FLOPs per second, by the mean."""
        return self.flops / self.timing.mean_ms / 1e9

    def to_dict(self) -> dict[str, Any]:
        """For JSON and printing."""
        return {
            **asdict(self.timing), "tflops": self.tflops, "tokens_per_second": 1e3 * self.tokens / self.timing.mean_ms,
            "losses": list(self.losses), "loss_error": self.check.loss_error, "update_error": self.check.update_error,
        }  # fmt: skip


def time_entry(
    make_entry: MakeEntry, shape: StepShape, *, device: torch.device | str, warmups: int = 3, repeats: int = 10,
    tolerance: float = 1e-3, seed: int = 0,
) -> StepResult:  # fmt: skip
    """Check the entry at the toy shape, then time it at `shape`.

    Raises:
        ValueError: the entry's step is not the reference's, or a loss of a timed step is not what a model that has
            learnt nothing from random ids can have (at least 80 % of log(vocab_size)), or the weights do not move.
    """
    place = torch.device(device)
    check = check_entry(make_entry, device=place, tolerance=tolerance, seed=seed)
    if not check.passed:
        raise ValueError(
            f"the entry does not make the reference's step: losses differ by {check.loss_error:.2g}, updates by "
            f"{check.update_error:.2g}, and {tolerance / 10:.2g} and {tolerance:.2g} are allowed; its time is void"
        )
    # The ids are seen once only, so the weights cannot learn them; the rate is small enough not to diverge.
    entry = make_entry(_model(shape, place, seed), min(shape.learning_rate, 1e-4))
    batches = iter(_batches(shape, place, seed + 1, warmups + repeats))
    losses: list[Tensor] = []
    gain = entry.state_dict()["ln_final.weight"].clone()

    def step(ids: Tensor) -> None:
        losses.append(entry.step(ids))

    seconds = time_parts([("step", step)], lambda _: next(batches), device=place, warmups=warmups, repeats=repeats)
    values = tuple(float(loss) for loss in losses)
    least = 0.8 * math.log(shape.model.vocab_size)
    strange = [value for value in values if not (math.isfinite(value) and value >= least)]
    if strange:
        raise ValueError(f"a loss of {strange[0]:.4g} on fresh random ids is not possible (at least {least:.2f})")
    if torch.equal(gain, entry.state_dict()["ln_final.weight"]):
        raise ValueError("the weights are the same after the timed steps as before: the entry made no update")
    return StepResult(Timing.of(seconds["step"]), shape.flops, shape.tokens, values, check)


def refuse_if_too_large(shape: StepShape, device: torch.device, *, precision: str = "float32") -> None:
    """Raise a ValueError when the plain step at this shape needs more memory than the device has free."""
    config = replace(shape.model, attention="plain")
    assert has_formula(config)
    needed, free = step_memory(config, batch_size=shape.batch_size, precision=precision).peak, memory_limit(device)
    if needed > free:
        raise ValueError(
            f"the plain step at this shape needs {needed / 1e9:,.0f} GB and {device} has {free / 1e9:,.0f} GB free; "
            "use the toy shape, or time_entry with an entry that shards and fuses"
        )


def _model(shape: StepShape, device: torch.device, seed: int) -> TransformerLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TransformerLM(shape.model, device=device)


def _batches(shape: StepShape, device: torch.device, seed: int, count: int) -> Any:
    """Fresh random ids, one batch at a time."""
    generator = torch.Generator().manual_seed(seed)
    size = (shape.batch_size, shape.model.context_length + 1)
    for _ in range(count):
        yield torch.randint(shape.model.vocab_size, size, generator=generator).to(device)
