"""Final truth: staff run the participant's training again, under the budget, and measure what comes out.

The clock starts before the entrypoint is imported and ends when its files are back; one thread, so that seconds are
CPU seconds; killed at the budget. No network, no files but the submission's. Read next: `verify.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cs336_basics.runs.atomic import atomic_write
from cs336_course.grading.client import Limits
from cs336_course.leaderboards.board import Board
from cs336_course.leaderboards.conversation import SAFE_SUFFIXES, ProbeFailure, Question, staged
from cs336_course.leaderboards.entry import Entry
from cs336_course.leaderboards.evidence_folder import TOKENIZER_FILES
from cs336_course.leaderboards.verification import Measurement, Verification
from cs336_course.leaderboards.verify import Options, measure

MEMORY_MB = 8192


@dataclass(frozen=True)
class Rerun:
    """One repeated training."""

    measured: Measurement
    seconds: float


def rerun(
    board: Board, division: str, evidence: Path, options: Options, *, seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> Rerun:  # fmt: skip
    """Train again with `seed` and measure on the hidden half.

    Raises:
        ProbeFailure: "budget": not done in time; "answers": the training failed.
        ValueError: the division has no budget to hold it to, or needs a device that the sandbox does not have.
    """
    budget = board.division(division).budget
    limit = min((x for x in (budget.cpu_s, budget.wall_s) if x is not None), default=None)
    if limit is None or budget.device != "cpu":
        raise ValueError(f"{board.id}/{division} cannot be run again here: it needs a CPU budget in seconds")
    say(f"training again with seed {seed}, at most {limit:g} s ...")
    limits = Limits(case_s=limit, memory_mb=MEMORY_MB)
    with staged(evidence / "code.zip", evidence / "artifacts", tier=options.tier, limits=limits) as talk:
        try:
            answer = talk.ask([Question("retrain", {"seed": seed})])[0]
        except ProbeFailure as failure:
            late = "it ended: timeout" in failure.text
            raise ProbeFailure("budget", f"not done after {limit:g} s on one thread") from failure if late else failure
    with tempfile.TemporaryDirectory(prefix="cs336-rerun-") as folder:
        copy = Path(folder)
        (copy / "code.zip").write_bytes((evidence / "code.zip").read_bytes())
        _write_files(answer.value.get("files"), copy / "artifacts")
        measured, _ = measure(board, division, copy, "hidden", options)
    return Rerun(measured, round(answer.outside_s, 1))


def _write_files(files: object, folder: Path) -> None:
    """The model's files as the training returned them.

    Raises:
        ProbeFailure: "answers": not a table of plain file names and bytes.
    """
    if not isinstance(files, dict) or not files:
        raise ProbeFailure("answers", "train must return {file name: bytes}")
    allowed = {f"tokenizer/{name}" for name in TOKENIZER_FILES}
    for name, content in files.items():
        plain = name in allowed or (Path(name).name == name and Path(name).suffix in SAFE_SUFFIXES)
        if not plain or not isinstance(content, np.ndarray) or content.dtype != np.uint8:
            raise ProbeFailure("answers", f"train returned {name!r}, which is no data file of a model")
        with atomic_write(folder / name) as file:
            file.write(content.tobytes())


def rerun_verdict(
    board: Board, entry: Entry, evidence: Path, options: Options, found: Verification, *, times: int,
    say: Callable[[str], None] = lambda line: None,
) -> Verification:  # fmt: skip
    """The verification with repeated trainings: rejected or unreproduced where they do not bear the claim out.

    The mean of the repeated runs may be worse than the measurement of the checkpoint by three standard deviations over
    seeds (one run alone: by a tenth of its value) before the checkpoint counts as unreproduced.
    """
    values: list[float] = []
    try:
        for number in range(times):
            result = rerun(board, entry.division, evidence, options, seed=1000 + number, say=say)
            say(f"  {board.metric.text_of(result.measured.value)} {board.metric.unit} after {result.seconds:.0f} s")
            values.append(result.measured.value)
    except ProbeFailure as failure:
        return replace(found, verdict="rejected", reason=f"rerun: {failure}", reruns=tuple(values))
    mean, checkpoint = float(np.mean(values)), found.measured.value if found.measured else values[0]
    allowed = 3 * float(np.std(values, ddof=1)) if len(values) > 1 else 0.1 * abs(checkpoint)
    worse = mean - checkpoint if board.metric.order == "asc" else checkpoint - mean
    if worse > allowed:
        text = f"trained again: {board.metric.text_of(mean)}, checkpoint: {board.metric.text_of(checkpoint)}"
        return replace(found, verdict="unreproduced", reason=text, reruns=tuple(values))
    return replace(found, reruns=tuple(values))
