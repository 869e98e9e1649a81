"""Spare the sandbox the compilation of torch: show it the bytecode that this machine already has.

The sandbox looks for bytecode in an empty folder only, so that none planted in a submission can stand in for its
source; hence it compiles torch afresh, four seconds each time. Here that folder gets links to the bytecode of the
installed packages that this process has loaded itself: never of ours, never of a participant's, and Python still
compares each with its source. Read next: `conversation.py`.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path

LIKELY = ("torch", "torch._dynamo", "einops", "jaxtyping", "regex", "safetensors.torch")
"""what entries import, torch._dynamo with their first optimizer"""
OURS = ("cs336", "tests", "lectures", "__main__")


def link_bytecode(folder: Path) -> int:
    """Fill the sandbox's `-X pycache_prefix` folder; returns the number of links."""
    for name in LIKELY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    linked = 0
    for name, module in list(sys.modules.items()):
        source, cached = getattr(module, "__file__", None), getattr(module, "__cached__", None)
        if type(source) is not str or type(cached) is not str or name.startswith(OURS) or not Path(cached).is_file():
            continue
        target = folder / Path(source).parent.relative_to("/") / Path(cached).name
        with contextlib.suppress(OSError):  # two names of one module
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(cached)
            linked += 1
    return linked
