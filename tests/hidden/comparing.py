"""Judgements: closures over expected values that tell what is wrong without quoting the hidden input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, BadAnswer, Case


def part(answer: Answer, name: str, kind: type) -> Any:
    """An entry of the answer, which must be of this type."""
    if type(answer.get(name)) is not kind:
        raise BadAnswer(f"the answer has no {kind.__name__} {name!r}")
    return answer[name]


def arrays(answer: Answer, name: str) -> list[np.ndarray]:
    """A list of arrays."""
    rows = part(answer, name, list)
    if not all(type(row) is np.ndarray for row in rows):
        raise BadAnswer(f"{name!r} does not hold arrays only")
    return rows


def difference(actual: Any, expected: np.ndarray, *, atol: float, rtol: float, what: str = "values") -> str | None:
    """None if the arrays agree in shape and values."""
    if type(actual) is not np.ndarray or actual.dtype.kind not in "biuf":
        raise BadAnswer(f"{what}: not an array of numbers")
    if actual.shape != expected.shape:
        return f"{what}: shape {actual.shape}, expected {expected.shape}"
    actual = actual.astype(np.float64)
    if not np.isfinite(actual).all():
        return f"{what}: NaN or infinite"
    wrong = np.abs(actual - expected) > atol + rtol * np.abs(expected)
    if not wrong.any():
        return None
    share = 100 * wrong.mean()
    return f"{what}: {share:.0f}% differ from the right ones" if share >= 1 else f"{what}: a few differ"


def close(expected: Callable[[], Any], *, atol: float = 1e-5, rtol: float = 1e-4, dtype: str | None = None):
    """Judge of the drivers that return one array."""

    def judge(answer: Answer) -> str | None:
        if dtype is not None and answer.get("dtype") != dtype:
            return f"returns {answer.get('dtype')}, expected {dtype}"
        value = np.asarray(expected(), dtype=np.float64)
        return difference(answer.get("value"), value, atol=atol, rtol=rtol)

    return judge


def call(
    id: str,
    property: str,
    function: str,
    arguments: dict[str, Any],
    expected: Callable[[], Any],
    *,
    dtype: str | None = None,
    **tolerances: float,
) -> Case:
    """A case of one adapter called by keyword. `expected` runs in the judge, after the answer has come."""
    inputs: dict[str, Any] = {"function": function, "arguments": arguments}
    if dtype is not None:
        inputs["dtype"] = dtype
    judge = close(expected, dtype=None if dtype is None else f"torch.{dtype}", **tolerances)
    return Case(id, property, "call", inputs, judge)
