"""Plans for activation checkpointing, and what they cost in memory and in work.

A plan is a tree: an int is a layer, a tuple is a checkpoint around what it holds (the outermost one is just a list).
With N layers, an input of I bytes each and residuals (what a layer keeps for its backward pass) of R bytes each:

    none                              peak N R                    forward runs N
    k layers per checkpoint           peak (N/k) I + k R          2 N
    nested, halved to single layers   peak (log2(N) + 1) I + R    N (log2(N) + 1)

A nested plan keeps the inputs along one path of the tree, and each level runs its layers once more. For one level the
best k is near sqrt(N I / R), and 1 where a layer's residuals outweigh the inputs of all layers, as with naive
attention. A checkpoint that opens another shares its input with it, which counts once.

`simulate_plan` counts for any tree, and so also when N/k is no whole number. Chen et al. 2016, section 4; handout
(2026): gradient_checkpointing. Read next: `activation_checkpointing.py`, which runs plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Plan = tuple[Any, ...]
"""of int and Plan"""


def plan_none(num_layers: int) -> Plan:
    """No checkpoint."""
    return tuple(range(num_layers))


def plan_every(num_layers: int, layers_per_checkpoint: int = 1) -> Plan:
    """One level: a checkpoint around each `layers_per_checkpoint` consecutive layers; the last may hold fewer.

    Raises:
        ValueError: layers_per_checkpoint is not positive.
    """
    if layers_per_checkpoint < 1:
        raise ValueError(f"a checkpoint needs at least one layer; got layers_per_checkpoint={layers_per_checkpoint}")
    return tuple(
        tuple(range(start, min(start + layers_per_checkpoint, num_layers)))
        for start in range(0, num_layers, layers_per_checkpoint)
    )


def plan_nested(num_layers: int) -> Plan:
    """Recursive halving down to checkpoints of one layer; the first half takes the odd layer."""
    return _halves(range(num_layers))


def _halves(layers: range) -> Plan:
    """Two checkpoints, each halved again."""
    if len(layers) <= 1:
        return (tuple(layers),) if layers else ()
    middle = (len(layers) + 1) // 2
    parts = (layers[:middle], layers[middle:])
    return tuple(tuple(part) if len(part) == 1 else _halves(part) for part in parts)


def check_plan(plan: Plan, num_layers: int) -> None:
    """Raise a ValueError unless the plan has every layer once, in order, and no empty checkpoint."""
    found: list[int] = []

    def visit(items: Plan) -> None:
        for item in items:
            if item == ():
                raise ValueError(f"a checkpoint in the plan is empty: {plan}")
            visit(item) if isinstance(item, tuple) else found.append(item)

    visit(plan)
    if found != list(range(num_layers)):
        raise ValueError(f"a plan must hold the layers 0..{num_layers - 1} once and in order; got {plan}")


@dataclass(frozen=True)
class PlanCost:
    """What a forward and a backward pass of a plan take."""

    peak_bytes: int
    """most bytes of kept inputs and residuals at any time"""
    layer_runs: int
    """forward passes of a layer, the repeated ones included"""


def simulate_plan(plan: Plan, *, input_bytes: int, residual_bytes: int) -> PlanCost:
    """Walk through forward and backward passes and count.

    Args:
        plan: of any depth.
        input_bytes: kept by a checkpoint; residual_bytes: kept by a layer that runs with recording. Gradients and the
            memory within a layer's own pass are not counted.
    """
    meter = _Meter(input_bytes, residual_bytes)
    meter.forward(plan, recording=True)
    meter.backward(plan)
    assert meter.held == 0
    return PlanCost(meter.peak, meter.layer_runs)


class _Meter:
    """Bytes held now and at most."""

    def __init__(self, input_bytes: int, residual_bytes: int):
        self.input_bytes, self.residual_bytes = input_bytes, residual_bytes
        self.held = self.peak = self.layer_runs = 0

    def forward(self, plan: Plan, *, recording: bool, first_input_is_held: bool = False) -> None:
        """Inside a checkpoint nothing is recorded, so nothing is kept."""
        for index, item in enumerate(plan):
            if isinstance(item, int):
                self.layer_runs += 1
                self._hold(self.residual_bytes if recording else 0)
            else:
                shared = first_input_is_held and index == 0
                self._hold(self.input_bytes if recording and not shared else 0)
                self.forward(item, recording=False)

    def backward(self, plan: Plan, *, first_input_is_held: bool = False) -> None:
        """Last first; a checkpoint is run again with recording, then differentiated."""
        for index, item in reversed(list(enumerate(plan))):
            if isinstance(item, int):
                self._hold(-self.residual_bytes)
            else:
                self.forward(item, recording=True, first_input_is_held=True)
                self.backward(item, first_input_is_held=True)
                self._hold(0 if first_input_is_held and index == 0 else -self.input_bytes)

    def _hold(self, num_bytes: int) -> None:
        self.held += num_bytes
        self.peak = max(self.peak, self.held)


def best_layers_per_checkpoint(num_layers: int, *, input_bytes: int, residual_bytes: int) -> int:
    """The k of `plan_every` with the least peak; the smallest on a tie. Near sqrt(num_layers * input / residual)."""
    return min(
        range(1, num_layers + 1),
        key=lambda k: (
            simulate_plan(plan_every(num_layers, k), input_bytes=input_bytes, residual_bytes=residual_bytes).peak_bytes
        ),
    )
