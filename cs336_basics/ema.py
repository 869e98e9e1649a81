"""Exponential moving average of the weights: smoother than the last ones, and often a little better.

    average <- average + rate_t (weights - average)

    rate_t = 1 - decay                          constant: the initial weights fade with decay^t
           = max(1 - decay, 9 / (t + 9))        ramp: a short memory that grows to the full one; the first rate is 0.9
           = (1 - decay) / (1 - decay^t)        corrected: the weighted mean of the steps so far; no initial weights

The last is Adam's bias correction written as a rate: dividing an average that began at zero by 1 - decay^t gives the
same numbers. The training loop updates the average after each step, evaluates and saves it, and stores it in
checkpoints. Averages are kept in the dtype of the weights.

Source: Polyak & Juditsky 1992; Kingma & Ba 2015, section 3 (correction). Read next: `training.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

Start = Literal["constant", "ramp", "corrected"]


def averaging_rate(step: int, decay: float, start: Start = "corrected") -> float:
    """Weight of the newest value in the average after `step` updates, the first being 1."""
    if start == "constant":
        return 1 - decay
    if start == "ramp":
        return max(1 - decay, 9 / (step + 9))
    return (1 - decay) / (1 - decay**step)


class WeightAverage:
    """The moving average of named parameters.

    Args:
        named_parameters: what to average; the present values are the first average.
        decay: in [0, 1); about 1 / (1 - decay) steps are remembered.
        start: how the first steps are weighted, see the module's text.

    Raises:
        ValueError: decay or start out of range.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, Tensor]], *, decay: float, start: Start = "corrected"):
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of a moving average must lie in [0, 1); got {decay}")
        if start not in ("constant", "ramp", "corrected"):
            raise ValueError(f"start must be 'constant', 'ramp' or 'corrected'; got {start!r}")
        self.decay, self.start, self.step = decay, start, 0
        self.parameters = dict(named_parameters)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present values."""
        self.step += 1
        rate = averaging_rate(self.step, self.decay, self.start)
        for name, average in self.average.items():
            average.lerp_(self.parameters[name], rate)

    def evaluation_weights(self) -> dict[Tensor, Tensor]:
        """The average of each parameter."""
        return {p: self.average[name] for name, p in self.parameters.items()}

    def state_dict(self) -> dict[str, object]:
        """Step count and averages, for a checkpoint."""
        return {"step": self.step, "average": self.average}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: the state belongs to other parameters.
        """
        stored = state["average"]
        if not isinstance(stored, Mapping) or stored.keys() != self.average.keys():
            raise ValueError("the stored weight average belongs to a model with other parameters; resume its own run")
        self.step = int(state["step"])  # type: ignore[call-overload]
        for name, average in self.average.items():
            average.copy_(stored[name])


@contextlib.contextmanager
def weights_replaced(values: Mapping[Tensor, Tensor]) -> Iterator[None]:
    """While inside, each parameter holds its value of `values`; afterwards its own again, bit for bit."""
    own = {p: p.detach().clone() for p in values}
    _assign(values)
    try:
        yield
    finally:
        _assign(own)


@torch.no_grad()
def _assign(values: Mapping[Tensor, Tensor]) -> None:
    for p, value in values.items():
        p.copy_(value)
