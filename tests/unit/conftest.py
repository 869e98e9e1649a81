"""What keeps `make test` short: the longest files first, no plots of small runs, shapes checked at first calls only."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import jaxtyping
import pytest

from cs336_basics import training

LONGEST = (
    "test_lectures", "test_tour", "test_misconceptions", "test_pages", "test_strategies", "test_ablations",
    "test_threats", "test_term_with_board", "test_pipeline_resume", "test_kernel_package", "test_compiled_bpe",
    "test_board_probes", "test_executors", "test_chat_page", "test_kill", "test_tour_systems", "test_stories",
    "test_training", "test_compiled_encoding", "test_training_options", "test_import_floors", "test_worked_solution",
)  # fmt: skip
CHECKED_CALLS = 300
draw_losses = training._plot


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker is left alone with one at the end (see `make test`)."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish() -> None:
    """What is loaded stays, so the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_loss_plots() -> Iterator[None]:
    """The picture at the end of a training run costs more than a small run itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_plot", lambda *arguments: True)
        yield


@pytest.fixture
def loss_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the test that looks at them."""
    monkeypatch.setattr(training, "_plot", draw_losses)


class FirstCalls(type(jaxtyping.config)):  # type: ignore[misc]
    """Under these settings of jaxtyping a test's first calls of annotated functions are checked, and no others.

    A check takes longer than most calls on small tensors, and a test that makes thousands repeats itself: tests of
    training and decoding would take three times as long. Of a model of two blocks, the first four steps are checked.
    """

    calls = 0

    @property
    def jaxtyping_disable(self) -> bool:
        """Read at every call."""
        self.calls += 1
        return self.calls > CHECKED_CALLS

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """A new test, or the first with its fixtures."""
        self.calls = 0


def pytest_configure(config: pytest.Config) -> None:
    jaxtyping.config.__class__ = FirstCalls
    config.pluginmanager.register(jaxtyping.config)
