"""Comparison of numbers with a hint: a failing test tells the student which convention is expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def as_array(value: Any) -> np.ndarray:
    """A tensor, array, list or number as a float64 array."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to(torch.float64).numpy()
    return np.asarray(value, dtype=np.float64)


def assert_close(actual: Any, expected: Any, *, atol: float, rtol: float = 1e-4, hint: str) -> None:
    """Fail with `hint` unless shapes are equal and |actual - expected| <= atol + rtol |expected| everywhere."""
    actual, expected = as_array(actual), as_array(expected)
    assert actual.shape == expected.shape, f"wrong shape: got {actual.shape}, expected {expected.shape}. {hint}"
    assert np.isfinite(actual).all(), f"the result holds NaN or infinity. {hint}"
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=hint)


def assert_implemented(error: BaseException) -> None:
    """Raise `error` again if it is NotImplementedError, which is a RuntimeError: an empty adapter refuses nothing."""
    if isinstance(error, NotImplementedError):
        raise error


def is_close(actual: Any, other: Any) -> bool:
    """Whether a result equals a known mistake (used to name the mistake in the message)."""
    actual, other = as_array(actual), as_array(other)
    return actual.shape == other.shape and np.allclose(actual, other, rtol=1e-4, atol=1e-5)
