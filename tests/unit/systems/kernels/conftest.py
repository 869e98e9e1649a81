"""Where the kernel tests run."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def kernel_device(require) -> str:
    """Where kernels run: the GPU, or the CPU in the interpreter; skips without Triton."""
    require("triton")
    return "cuda" if torch.cuda.is_available() else "cpu"
