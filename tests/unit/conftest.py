"""Time: the longest files come first, and tests go without plots and checks of shapes where they are not about these."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import jaxtyping
import pytest

from cs336_basics import training

LONGEST = (
    "test_lectures", "test_tour", "test_misconceptions", "test_pages", "test_strategies", "test_ablations",
    "test_threats", "test_term_with_board", "test_pipeline_resume", "test_kernel_package",
)  # fmt: skip
CHECKED = {"basics", "systems"}
REPEATING = {
    "test_ablations", "test_engine", "test_inference_benchmark", "test_packed_training", "test_quantization",
    "test_speculative", "test_tour_systems",
}  # fmt: skip
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


@pytest.fixture(scope="module", autouse=True)
def _shapes_checked_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Checked annotations make a small model's step three times as long: they are for the tests of what is annotated.

    These lie in `basics` and `systems`; those of `REPEATING` take the same steps thousands of times over.
    """
    repeats = request.path.parent.name not in CHECKED or request.path.stem in REPEATING
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", repeats or before)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
