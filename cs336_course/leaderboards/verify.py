"""Verification: check the evidence, measure again on hidden inputs, decide, and write it down.

    files     the evidence is what the entry lists
    run       its training run's story holds together (`run_checks.py`)
    probes    whatever the board's judge looks for (`judges/`)
    rerun     staff train again with the participant's code, killed at the budget (loss boards)

The code runs in the grader's sandbox; how strong that was is written into the verification. Read next: `cli.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cs336_course.leaderboards.board import Board
from cs336_course.leaderboards.conversation import Conversation, ProbeFailure, copy_artifacts, staged
from cs336_course.leaderboards.entry import Entry
from cs336_course.leaderboards.evidence_folder import difference
from cs336_course.leaderboards.judges.judging import JUDGES, PUBLIC_SECRET, Half, Judging
from cs336_course.leaderboards.reference import reference_code
from cs336_course.leaderboards.run_checks import check_run
from cs336_course.leaderboards.verification import PASSED, Measurement, Verdict, Verification, verdict_of


@dataclass(frozen=True)
class Options:
    """How to verify."""

    secret: bytes
    """what the hidden half grows from"""
    tier: str = "auto"
    """isolation"""


def verify_entry(
    board: Board, entry: Entry, evidence: Path, options: Options, *, say: Callable[[str], None] = lambda line: None
) -> Verification:
    """Verify one entry; nothing is written.

    Raises:
        GraderError: the sandbox cannot be started, which is no fault of the entry.
        FileNotFoundError: the hidden data are not on this machine.
    """
    if (wrong := difference(entry, evidence)) is not None:
        return _written(entry, options, f"files: {wrong}", None, "none")
    judge, probes = JUDGES[board.kind], {"files": PASSED}
    if judge.trained or (evidence / "run").is_dir():
        probes |= check_run(entry, evidence, board.division(entry.division).budget)
        failed = {name: text for name, text in probes.items() if text != PASSED}
        if failed:
            name, text = next(iter(failed.items()))
            return _written(entry, options, f"{name}: {text}", None, "none")
    say("measuring on hidden inputs ...")
    try:
        measured, tier = measure(board, entry.division, evidence, "hidden", options)
    except ProbeFailure as failure:
        return _written(entry, options, str(failure), None, options.tier)
    return _written(entry, options, "", replace(measured, probes={**probes, **measured.probes}), tier, board)


def measure(board: Board, division: str, evidence: Path, half: Half, options: Options) -> tuple[Measurement, str]:
    """What the board's judge finds on one half, and the isolation it was found in.

    Raises:
        ProbeFailure: the evidence cannot be measured.
    """
    judge, started = JUDGES[board.kind], time.monotonic()
    judging = Judging(board, board.division(division), evidence, half, options.secret)
    with contextlib.ExitStack() as stack:
        if judge.functions:
            talk = stack.enter_context(staged(evidence / "code.zip", _folder(evidence), tier=options.tier))
            talk.require(*judge.functions)
            judging = replace(judging, talk=talk)
        else:
            _only_data(evidence)
        if judge.timed:
            code = stack.enter_context(reference_code(board.kind))
            judging = replace(judging, baseline=stack.enter_context(staged(code, None, tier=options.tier)))
        measured = judge.measure(judging)
        tier = judging.talk.tier if isinstance(judging.talk, Conversation) else "no code ran"
    return replace(measured, wall_s=round(time.monotonic() - started, 1)), tier


def _folder(evidence: Path) -> Path | None:
    folder = evidence / "artifacts"
    return folder if folder.is_dir() else None


def _only_data(evidence: Path) -> None:
    """The same refusals for artifacts that no sandbox sees."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        copy_artifacts(evidence / "artifacts", Path(scratch))


def _written(
    entry: Entry, options: Options, refused: str, measured: Measurement | None, tier: str, board: Board | None = None
) -> Verification:
    """The verification with its verdict."""
    verdict: Verdict = "rejected"
    reason = refused
    if measured is not None and board is not None:
        verdict, reason = verdict_of(board, entry.claimed, measured)
    return Verification(
        entry=entry.name, entry_sha256=entry.sha256, verdict=verdict, reason=reason, measured=measured, isolation=tier,
        machine=machine(), verified=datetime.now(UTC).isoformat(timespec="seconds"),
        secret_id=hashlib.sha256(b"id" + options.secret).hexdigest()[:12],
    )  # fmt: skip


def machine() -> str:
    """In words."""
    import torch

    return (f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
            f"torch {torch.__version__}")  # fmt: skip


def public_options(tier: str = "auto") -> Options:
    """What a participant can do: the public half."""
    return Options(PUBLIC_SECRET, tier)
