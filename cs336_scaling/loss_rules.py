"""What may be asked of the old API's /loss, and how a refusal reads.

Two profiles: the course's ranges, and `micro`, about a millionth of their FLOPs, whose runs a laptop really makes; its
rates go further up, since narrow models want them (a cap of 1e-3 would bind at every width of the bank). A value out
of range is told as `d_model must be in range [64, 1024], got 9999`. Read next: `loss_queries.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from cs336_scaling.executors.protocol import LossRequest

NUMBERS = ("d_model", "num_layers", "num_heads", "batch_size", "learning_rate", "train_flops")
LONGEST_NUMBER = 60


class WrongType(ValueError):
    """A parameter is missing or no number (HTTP 422)."""


class OutOfRange(ValueError):
    """A parameter has a value that is not offered (HTTP 404)."""


@dataclass(frozen=True)
class LossRules:
    """Ranges (both ends included) and sets of allowed values."""

    d_model: tuple[int, int]
    num_layers: tuple[int, int]
    num_heads: tuple[int, int]
    learning_rate: tuple[float, float]
    batch_size: tuple[int, ...]
    train_flops: tuple[int, ...]


def _flops_levels(lowest: int, highest: int) -> tuple[int, ...]:
    """{1, 3, 6} * 10^k for k from lowest to highest, and 10^(highest + 1)."""
    levels = [digit * 10**k for k in range(lowest, highest + 1) for digit in (1, 3, 6)]
    return (*levels, 10 ** (highest + 1))


RULES = {
    "course": LossRules((64, 1024), (2, 24), (2, 16), (1e-4, 1e-3), (128, 256), _flops_levels(13, 17)),
    "micro": LossRules((8, 256), (1, 32), (1, 32), (1e-4, 0.5), (4, 8, 16, 32, 64, 128), _flops_levels(9, 11)),
}


def parse_query(parameters: Mapping[str, str], rules: LossRules) -> LossRequest:
    """The request that a query string makes.

    Raises:
        WrongType: a parameter is missing or no number.
        OutOfRange: a value outside the rules.
    """
    values = {name: _number(name, parameters) for name in NUMBERS}
    for name in ("d_model", "num_layers", "num_heads", "learning_rate"):
        low, high = getattr(rules, name)
        if not low <= values[name] <= high:
            raise OutOfRange(f"{name} must be in range [{low}, {high}], got {values[name]}")
    for name in ("batch_size", "train_flops"):
        allowed = getattr(rules, name)
        if values[name] not in allowed:
            raise OutOfRange(f"{name} must be one of {{{', '.join(map(str, allowed))}}}, got {values[name]}")
    if values["d_model"] % values["num_heads"]:
        raise OutOfRange(
            f"d_model must be a multiple of num_heads, got d_model={values['d_model']}, num_heads={values['num_heads']}"
        )
    return LossRequest(**values)  # type: ignore[arg-type]


def _number(name: str, parameters: Mapping[str, str]) -> int | float:
    """A float for the learning rate, else a whole number, which may be written as 1e18."""
    text, kind = parameters.get(name), "a number" if name == "learning_rate" else "an integer"
    if text is None:
        raise WrongType(f"{name} is missing")
    try:
        value = Decimal(text) if len(text) <= LONGEST_NUMBER else Decimal("nan")
    except InvalidOperation:
        value = Decimal("nan")
    whole = value.is_finite() and abs(value.adjusted()) < LONGEST_NUMBER and value == value.to_integral_value()
    if not value.is_finite() or (name != "learning_rate" and not whole):
        raise WrongType(f"{name} must be {kind}, got {text[:LONGEST_NUMBER]!r}")
    return float(value) if name == "learning_rate" else int(value)


def query_text(request: LossRequest) -> str:
    """The request as JSON, the same for equal requests however they were written."""
    values = dataclasses.asdict(request)
    return json.dumps({name: values[name] for name in NUMBERS})


def query_hash(request: LossRequest) -> str:
    """40 hexadecimal digits."""
    return hashlib.sha256(query_text(request).encode()).hexdigest()[:40]
