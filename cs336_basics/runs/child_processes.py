"""Processes that train: on Linux forked from a server that has imported what training needs.

A new Python interpreter needs seconds of a core for torch and matplotlib before it does anything of ours. "spawn" pays
for that in each process; "forkserver" starts one process without threads and without a GPU, lets it import them once,
and forks it for each process that is wanted. A plain "fork" of the caller would copy its threads' locks and its GPU's
state, in a condition nobody can use.

Left out: Windows, which cannot fork, and macOS, whose libraries do not bear it; both spawn. Read next:
`cs336_systems/parallel/process_group.py`.
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.context import BaseContext

PRELOADED = ("torch.distributed", "matplotlib.backends.backend_svg", "cs336_basics.training")
"""what the server imports; a module that is not installed is passed over"""


def training_context() -> BaseContext:
    """How to start processes that train; like every context of multiprocessing, for `ProcessPoolExecutor` and others."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context
