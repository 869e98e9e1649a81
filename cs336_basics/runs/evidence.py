"""What a finished training run says about itself, so that others can check it: evidence.json.

    config_sha256, tree_sha256, lock_sha256    the configuration, this library's sources, the installed packages
    inputs                                     SHA-256 of the token files
    tokens, train_s, cpu_s, started, finished  how much and how long; cpu_s counts all threads of all sessions
    sessions                                   1 + how often the run was taken up again
    log                                        lines and the head of their chain (`log_chain.py`)
    weights_sha256                             of the final weights by name, whatever file holds them

These are claims: they tie files together and show later edits. Read next: `log_chain.py`; for what is made of them,
`cs336_course/leaderboards/run_checks.py`.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.directory import RunDirectory

NAME = "evidence.json"


def write_evidence(
    run: RunDirectory, *, weights: Mapping[str, Tensor], inputs: Mapping[str, str], chain_head: str, **figures: Any
) -> dict[str, Any]:
    """Write evidence.json into a run directory and return it.

    Args:
        run: the run, whose config, manifest and log are there.
        weights: the final ones.
        inputs: name to SHA-256 of each file it learnt from.
        chain_head: see `LogChain.head`.
        figures: tokens, train_s, cpu_s ...
    """
    manifest = run.manifest()
    evidence = {
        "schema": 1,
        "config_sha256": hashlib.sha256((run.path / "config.json").read_bytes()).hexdigest(),
        "tree_sha256": tree_sha256(Path(__file__).parents[1]),
        "lock_sha256": lock_sha256(),
        "inputs": dict(inputs),
        **figures,
        "started": manifest["started"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "sessions": 1 + len(manifest["resumed"]),
        "log": {"lines": len(run.read_log()), "head": chain_head},
        "weights_sha256": weights_sha256(weights),
    }
    write_json(run.path / NAME, evidence)
    return evidence


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """One hash over names, dtypes, shapes and values, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tree_sha256(folder: Path) -> str:
    """One hash over the Python and TOML files below a folder, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in ("*.py", "*.toml") for path in folder.rglob(pattern)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def lock_sha256() -> str:
    """One hash over the names and versions of the installed packages."""
    installed = {path.stem for folder in filter(None, sys.path) for path in Path(folder).glob("*.dist-info")}
    return hashlib.sha256("\n".join(sorted(installed)).encode()).hexdigest()
