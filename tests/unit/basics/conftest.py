"""The tiny corpus and configuration of `tiny_run.py` as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cs336_basics.training_config import TrainConfig
from tests.unit.basics.tiny_run import tiny_config, write_tiny_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny corpus; nobody writes into it."""
    folder = tmp_path_factory.mktemp("corpus")
    write_tiny_corpus(folder)
    return folder


@pytest.fixture
def make_config(corpus: Path) -> Callable[..., TrainConfig]:
    """The tiny configuration with changes."""
    return lambda **changes: tiny_config(corpus, **changes)


@pytest.fixture
def tokens(corpus: Path) -> np.ndarray:
    """The training tokens, read without the library."""
    return np.fromfile(corpus / "train.bin", dtype="<u2").astype(np.int64)
