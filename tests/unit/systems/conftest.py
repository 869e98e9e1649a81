"""The tiny corpus of the training tests."""

from __future__ import annotations

from tests.unit.basics.conftest import corpus

__all__ = ["corpus"]
