"""Without a GPU, Triton kernels run in Triton's interpreter: chosen here, before anything imports Triton."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # 3.9 warns when it is not set


@pytest.fixture
def kernel_device(require) -> str:
    """Where kernels run: the GPU, or the CPU in the interpreter; skips without Triton."""
    require("triton")
    return "cuda" if torch.cuda.is_available() else "cpu"
