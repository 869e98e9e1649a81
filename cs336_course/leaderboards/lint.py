"""What a pull request to the boards must satisfy; each complaint names a rule, a file and the remedy.

    malformed, edited, unknown   a file that cannot be read, was changed after it was named, or belongs to no board
    implausible                  a claim outside the metric's range
    period                       made before the board opens or after it closes, or in the future
    budget                       a claimed time above the division's limit
    reused                       two handles with one log, checkpoint or set of artifacts
    orphan                       a verification without its entry
    closed                       an entry that the final standings do not have, or one of theirs that changed
    others                       a changed or removed entry, or a new one under another handle than the author's
    stale                        README.md, leaderboard.json that are not what the files give

Read next: `pages.py`.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from cs336_course.leaderboards.board import Board, load_boards
from cs336_course.leaderboards.closing import final_difference
from cs336_course.leaderboards.entry import Entry, load_entry
from cs336_course.leaderboards.pages import generated_files
from cs336_course.leaderboards.verification import load_verification


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong."""

    rule: str
    file: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.file}: {self.text}"


def lint(boards: Path, *, today: date | None = None) -> list[Complaint]:
    """All complaints about a folder of boards, in order of file.

    Args:
        boards: the folder.
        today: entries may not be later; by default the day it is.

    Raises:
        ValueError, FileNotFoundError: a board itself cannot be read.
    """
    known = load_boards(boards)
    today = today or datetime.now(UTC).date()
    entries, complaints = _read_entries(boards, known)
    for entry in entries:
        complaints += [
            Complaint(rule, f"entries/{entry.board}/{entry.name}.json", text)
            for rule, text in _entry_complaints(entry, known[entry.board], today)
        ]
    complaints += _reused(entries)
    complaints += _verifications(boards, {entry.name: entry for entry in entries})
    complaints += [
        Complaint("closed", f"final/{board.id}.json", text)
        for board in known.values()
        for text in final_difference(boards, board, [e for e in entries if e.board == board.id])
    ]
    if not complaints:  # what is generated from wrong files is no use
        complaints += _stale(boards)
    return sorted(complaints, key=lambda c: (c.file, c.rule, c.text))


def _read_entries(boards: Path, known: dict[str, Board]) -> tuple[list[Entry], list[Complaint]]:
    entries, complaints = [], []
    for path in sorted((boards / "entries").rglob("*")):
        name = path.relative_to(boards).as_posix()
        if path.is_dir():
            if path.name not in known:
                complaints.append(Complaint("unknown", name, f"no board {path.name}"))
            continue
        try:
            entry = load_entry(path)
            if entry.board in known:
                known[entry.board].division(entry.division)
                entries.append(entry)
        except ValueError as error:
            rule, _, text = str(error).partition(": ")
            complaints.append(
                Complaint(rule if rule in ("edited", "malformed") else "unknown", name, text or str(error))
            )
    return entries, complaints


def _entry_complaints(entry: Entry, board: Board, today: date) -> list[tuple[str, str]]:
    """(rule, text) for one entry by itself."""
    found, metric = [], board.metric
    if not metric.minimum <= entry.claimed.metric <= metric.maximum:
        found.append(
            ("implausible", f"{entry.claimed.metric} {metric.unit}; plausible is {metric.minimum} to {metric.maximum}")
        )
    if entry.day < board.opens or (board.closes is not None and entry.day > board.closes):
        found.append(
            ("period", f"made on {entry.day}; the board takes entries from {board.opens} to {board.closes or 'now'}")
        )
    if entry.day > today + timedelta(days=1):  # a day's grace for clocks
        found.append(("period", f"made on {entry.day}, which is in the future"))
    claimed = entry.claimed
    over = board.division(entry.division).budget.exceeded(cpu_s=claimed.cpu_s, wall_s=claimed.wall_s)
    if over is not None:
        found.append(("budget", over))
    if len(entry.runs) < board.runs_required:
        found.append(("malformed", f"{len(entry.runs)} runs; the board wants {board.runs_required}"))
    return found


def _reused(entries: list[Entry]) -> list[Complaint]:
    """One log, checkpoint or set of artifacts under two handles."""
    seen: dict[str, Entry] = {}
    complaints = []
    for entry in sorted(entries, key=lambda e: (e.created, e.name)):
        own = [(run.log_sha256, "log") for run in entry.runs] + [
            (run.weights_sha256, "checkpoint") for run in entry.runs
        ]
        own += [(a.sha256, f"file {a.path}") for a in entry.artifacts if Path(a.path).name in OWN_WORK]
        for digest, what in own:
            first = seen.setdefault(digest, entry)
            if first.handle != entry.handle:
                file = f"entries/{entry.board}/{entry.name}.json"
                complaints.append(Complaint("reused", file, f"its {what} is that of {first.name}, by {first.handle}"))
    return complaints


OWN_WORK = {"model.safetensors", "documents.jsonl", "log.jsonl", "log.chain"}


def _verifications(boards: Path, entries: dict[str, Entry]) -> list[Complaint]:
    complaints = []
    for path in sorted((boards / "verifications").glob("*")):
        name = path.relative_to(boards).as_posix()
        try:
            found = load_verification(path)
        except ValueError as error:
            complaints.append(Complaint("malformed", name, str(error)))
            continue
        entry = entries.get(found.entry)
        if entry is None:
            complaints.append(Complaint("orphan", name, "no such entry"))
        elif entry.sha256 != found.entry_sha256:
            complaints.append(Complaint("edited", name, "made for another content of the entry"))
    return complaints


def _stale(boards: Path) -> list[Complaint]:
    """Generated files that are not what would be generated."""
    complaints = []
    for name, content in generated_files(boards).items():
        path = boards / name
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            complaints.append(Complaint("stale", name, "run `cs336 leaderboard html` to write it again"))
    return complaints


def changed_entries(boards: Path, base: str, author: str) -> list[Complaint]:
    """What a pull request by `author` changed in the entries since the commit `base`, where it may only add its own.

    Raises:
        ValueError: git does not know the commit, or the folder is in no checkout.
    """
    command = ["git", "-C", str(boards), "diff", "--name-status", "--no-renames", "--relative", base, "--", "."]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise ValueError(f"git cannot compare with {base!r}: {done.stderr.strip()}")
    complaints = []
    for line in done.stdout.splitlines():
        status, name = line.split("\t", 1)
        if (
            name.startswith("verifications/")
            or (name.endswith(".toml") and "/" not in name)
            or name.startswith("final/")
        ):
            complaints.append(Complaint("others", name, "boards, verifications and final standings are for staff"))
        elif name.startswith("entries/") and status != "A":
            complaints.append(Complaint("others", name, "entries are never changed or removed"))
        elif name.startswith("entries/") and _handle(boards / name) != author:
            complaints.append(Complaint("others", name, f"an entry for another handle than {author}"))
    return complaints


def _handle(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["handle"])
    except (ValueError, KeyError, OSError, TypeError):
        return ""
