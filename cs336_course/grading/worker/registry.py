"""All drivers by name, and `run`, which drives one case.

    run("call", adapters, {"function": "run_softmax", "arguments": {...}}) -> {"value": array}

Copied into the sandbox with the modules it imports: standard library, numpy and torch only. Read next: `drivers.py`.
"""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np

from . import alignment_drivers, data_drivers, drivers, kernel_drivers, parallel_drivers, scaling_drivers

MODULES = (drivers, kernel_drivers, parallel_drivers, scaling_drivers, data_drivers, alignment_drivers)
DRIVERS = {name: driver for module in MODULES for name, driver in module.DRIVERS.items()}


def prepare() -> None:
    """Without a GPU, let Triton kernels run in its interpreter; to be called before anything imports Triton."""
    import torch

    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # else the look below starts CUDA: no fork survives it
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
        os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # 3.9 warns when it is not set


def run(driver: str, adapters: Any, inputs: drivers.Inputs) -> dict[str, Any]:
    """The answer of one case; random number generators are seeded first."""
    import torch

    prepare()
    torch.manual_seed(inputs.get("seed", 0))
    np.random.seed(inputs.get("seed", 0))
    random.seed(inputs.get("seed", 0))
    return DRIVERS[driver](adapters, inputs)
