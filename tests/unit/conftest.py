"""Runs of the reference's training do without the picture at their end, which costs more than a small run itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cs336_basics import training

draw_losses = training._plot


@pytest.fixture(scope="session", autouse=True)
def _no_loss_plots() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_plot", lambda *arguments: True)
        yield


@pytest.fixture
def loss_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the tests that look at it."""
    monkeypatch.setattr(training, "_plot", draw_losses)
