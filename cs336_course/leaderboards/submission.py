"""Make an entry: pack the evidence, measure on the public half, and write the claim with its hashes.

No network: hand the entry in as a pull request, and the evidence folder to whoever verifies. Read next: `verify.py`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cs336_basics.corpora.corpus_files import file_sha256
from cs336_basics.runs.evidence import lock_sha256
from cs336_basics.runs.log import read_records
from cs336_basics.runs.provenance import describe_environment
from cs336_course.leaderboards.board import Board
from cs336_course.leaderboards.conversation import copy_artifacts
from cs336_course.leaderboards.entry import MAX_CURVE, Claim, Code, Entry, Run
from cs336_course.leaderboards.evidence_folder import (
    copy_run,
    list_artifacts,
    model_artifacts,
    pack_code,
    read_json,
    reference_packages,
)
from cs336_course.leaderboards.judges.judging import JUDGES
from cs336_course.leaderboards.reference import ENTRYPOINTS, FOLDER
from cs336_course.leaderboards.verify import measure, public_options


@dataclass(frozen=True)
class Material:
    """What a participant hands in."""

    run: Path | None = None
    """training run of `cs336 train`"""
    artifacts: Path | None = None
    """folder of further data files"""
    entrypoint: Path | None = None
    """Python file with the functions the board calls; our reference's by default"""
    packages: Sequence[Path] = ()
    """package folders the entrypoint imports; this library's by default"""


@dataclass(frozen=True)
class Author:
    """Who enters, and what they say about it."""

    handle: str
    description: str
    ai_disclosure: str
    repo: str | None = None


def submit(
    board: Board, division: str, material: Material, author: Author, evidence: Path, *, tier: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> Entry:  # fmt: skip
    """Write the evidence folder and return the entry, which is not written.

    Args:
        board: to enter.
        division: of the board.
        material: run, artifacts, code.
        author: handle and description.
        evidence: new or empty folder.
        tier: isolation of the measurement.
        say: takes lines of progress.

    Raises:
        ValueError: the folder holds something, the board is closed, or the material lacks what the board needs.
        ProbeFailure: the public measurement fails; staff would refuse the entry too.
    """
    today = datetime.now(UTC).date()
    if today < board.opens or (board.closes is not None and today > board.closes):
        raise ValueError(
            f"board {board.id} takes entries from {board.opens} to {board.closes or 'any day'}; today is {today}"
        )
    if evidence.exists() and any(evidence.iterdir()):
        raise ValueError(f"{evidence} is not empty; give a new folder with --evidence")
    tree = _gather(board, material, evidence)
    say("measuring on the public half ...")
    measured, _ = measure(board, division, evidence, "public", public_options(tier))
    if measured.failed:
        name, text = next(iter(measured.failed.items()))
        raise ValueError(f"the entry would be rejected: {name}: {text}")
    facts = read_json(evidence / "run" / "evidence.json") if (evidence / "run").is_dir() else None
    environment: dict[str, Any] = {k: v for k, v in describe_environment().items() if k != "git_commit"}
    claim = Claim(
        _rounded(measured.value), None if measured.standard_error is None else _rounded(measured.standard_error),
        wall_s=None if facts is None else facts["train_s"], cpu_s=None if facts is None else facts["cpu_s"],
    )  # fmt: skip
    return Entry(
        board=board.id, division=division, handle=author.handle,
        created=datetime.now(UTC).isoformat(timespec="seconds"), claimed=claim,
        code=Code(tree, describe_environment()["git_commit"], lock_sha256(), author.repo),  # type: ignore[arg-type]
        artifacts=list_artifacts(evidence), description=author.description, ai_disclosure=author.ai_disclosure,
        runs=() if facts is None else (_run(evidence, facts),), env=environment,
        curve=() if facts is None else curve(evidence / "run" / "log.jsonl"),
    )  # fmt: skip


def _gather(board: Board, material: Material, evidence: Path) -> str:
    """Fill the evidence folder; returns the hash of the code's tree."""
    judge = JUDGES[board.kind]
    if judge.trained and material.run is None:
        raise ValueError(f"board {board.id} needs the training run: give --run the folder of `cs336 train --out`")
    if not judge.functions and material.artifacts is None:
        raise ValueError(f"board {board.id} takes data: give --artifacts a folder with documents.jsonl")
    if material.artifacts is not None:
        copy_artifacts(material.artifacts, evidence / "artifacts")
    if material.run is not None:
        copy_run(material.run, evidence / "run")
        if not (evidence / "artifacts" / "model.safetensors").exists():
            model_artifacts(material.run, evidence / "artifacts")
    if not judge.functions:
        return ""
    name, packages = ENTRYPOINTS[board.kind]
    return pack_code(
        list(material.packages) or reference_packages(*packages), material.entrypoint or FOLDER / name,
        evidence / "code.zip",
    )  # fmt: skip


def _run(evidence: Path, facts: dict[str, Any]) -> Run:
    config = read_json(evidence / "run" / "config.json")
    return Run(
        seed=config.get("seed", 0), log_sha256=file_sha256(evidence / "run" / "log.jsonl"),
        weights_sha256=facts["weights_sha256"], wall_s=facts["train_s"], cpu_s=facts["cpu_s"],
    )  # fmt: skip


def curve(log: Path) -> tuple[tuple[float, float], ...]:
    """(tokens trained on, validation loss), at most `MAX_CURVE` points, the last one kept."""
    points = [
        (float(r["tokens"]), round(float(r["validation_loss"]), 4))
        for r in read_records(log)
        if r.get("validation_loss") is not None
    ]
    stride = max(1, math.ceil(len(points) / MAX_CURVE))
    return tuple(points[::-1][::stride][::-1])


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def remove_evidence(evidence: Path) -> None:
    """Take back a half-made evidence folder."""
    shutil.rmtree(evidence, ignore_errors=True)
