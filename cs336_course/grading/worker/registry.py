"""All drivers by name, and `run`, which drives one case.

    run("call", adapters, {"function": "run_softmax", "arguments": {...}}) -> {"value": array}

Copied into the sandbox with the modules it imports: standard library, numpy and torch only. Read next: `drivers.py`.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from . import alignment_drivers, data_drivers, drivers

DRIVERS = drivers.DRIVERS | data_drivers.DRIVERS | alignment_drivers.DRIVERS


def run(driver: str, adapters: Any, inputs: drivers.Inputs) -> dict[str, Any]:
    """The answer of one case; random number generators are seeded first."""
    import torch

    torch.manual_seed(inputs.get("seed", 0))
    np.random.seed(inputs.get("seed", 0))
    random.seed(inputs.get("seed", 0))
    return DRIVERS[driver](adapters, inputs)
