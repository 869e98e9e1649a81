"""`cs336 leaderboard ...`: list, show, submit, verify, baseline, lint, html, close.

Exit codes: 0 fine, 1 an entry rejected or a complaint of lint, 2 wrong arguments, 3 the verifier's own fault. The
secret of the hidden inputs comes from CS336_BOARD_SECRET or a file. Read next: `verify.py`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from cs336_basics.runs.command_line import parse, print_result

if TYPE_CHECKING:
    from cs336_course.leaderboards.board import Board
    from cs336_course.leaderboards.entry import Entry
    from cs336_course.leaderboards.verification import Verification

Tier = Literal["auto", "container", "namespace", "process"]
Switch = tyro.conf.FlagCreatePairsOff[bool]
BoardName = Annotated[str, tyro.conf.Positional]
DEFAULT_SECRET = b"practice"
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Folder:
    """Where the boards are."""

    boards: Path | None = None
    """folder with the boards' TOML files; ./boards by default, else that of the checkout"""


@dataclass(frozen=True)
class _Measuring(_Folder):
    """What measuring needs."""

    isolation: Tier = "auto"
    """how a participant's code is locked in; auto takes the strongest that works here"""


@dataclass(frozen=True)
class List(_Folder):
    """List the boards with their divisions and leaders."""

    json: Switch = False
    """print the result as JSON"""


@dataclass(frozen=True, kw_only=True)
class Show(_Folder):
    """Show the table of a board."""

    board: BoardName
    """such as stories-loss; `cs336 leaderboard list` lists them"""
    json: Switch = False
    """print the result as JSON"""


@dataclass(frozen=True, kw_only=True)
class Submit(_Measuring):
    """Make an entry: pack the evidence, measure on the public half, write one file for a pull request."""

    board: BoardName
    """board to enter"""
    division: str | None = None
    """division to enter, where the board has several"""
    handle: str
    """your name on the board: a-z, 0-9 and -"""
    description: str
    """what you did, in a sentence"""
    ai_disclosure: str = "none stated"
    """what an AI system wrote or decided"""
    run: Path | None = None
    """training run (`cs336 train --out`), on boards that measure a checkpoint"""
    artifacts: Path | None = None
    """folder of further data files, such as documents.jsonl"""
    entrypoint: Path | None = None
    """Python file with the functions the board calls; the reference's by default"""
    packages: tuple[Path, ...] = ()
    """package folders your entrypoint imports (cs336_basics ...); this library's by default"""
    evidence: Path | None = None
    """new folder for the evidence; evidence/BOARD-DIVISION-HANDLE by default"""


@dataclass(frozen=True, kw_only=True)
class Verify(_Measuring):
    """Measure an entry again on hidden inputs and write the verdict."""

    entry: Annotated[Path, tyro.conf.Positional]
    """the entry's file, boards/entries/BOARD/NAME.json"""
    evidence: Path | None = None
    """the entry's evidence folder; evidence/BOARD-DIVISION-HANDLE by default"""
    rerun: int = 0
    """train again this often, under the budget, with other seeds"""
    secret_file: Path | None = None
    """file with the secret of the hidden inputs; else CS336_BOARD_SECRET, else a public default for practice"""
    json: Switch = False
    """print the result as JSON"""


@dataclass(frozen=True, kw_only=True)
class Baseline(_Measuring):
    """Make our reference's entry for a board, or for all, and verify it."""

    board: BoardName
    """board, or `all`"""
    division: str | None = None
    """division, where the board has several; by default all that can be measured here"""
    evidence: Path = Path("evidence")
    """folder for the evidence, a folder per entry"""
    secret_file: Path | None = None
    """file with the secret of the hidden inputs"""


@dataclass(frozen=True)
class Lint(_Folder):
    """Check boards, entries, verifications and generated files; exit 1 with what is wrong."""

    base: str | None = None
    """git commit that a pull request starts from; with --author, refuses changes to others' entries"""
    author: str | None = None
    """handle of the pull request's author"""


@dataclass(frozen=True)
class Html(_Folder):
    """Write README.md and leaderboard.json beside the boards again, and HTML pages into a folder."""

    out: Annotated[Path | None, tyro.conf.Positional] = None
    """folder for index.html and a page per board; none are written by default"""


@dataclass(frozen=True, kw_only=True)
class Close(_Folder):
    """Write the final standings of a board whose closing day has passed."""

    board: BoardName
    """board"""


def list_(argv: list[str]) -> None:
    """`cs336 leaderboard list`."""
    o = parse(List, argv, "leaderboard list", example="leaderboard list --json")
    from cs336_course.leaderboards.board import load_boards
    from cs336_course.leaderboards.standings import standings

    values: dict[str, object] = {}
    for board in load_boards(_boards(o)).values():
        for table in standings(_boards(o), board):
            best = next((row for row in table.rows if row.place == 1), None)
            leader = "no verified entry"
            if best is not None:
                leader = f"{board.metric.text_of(best.value)} {board.metric.unit} by {best.entry.handle}"
            values[f"{board.id}/{table.division.id}"] = f"{table.division.title}: {leader}, {len(table.rows)} entries"
    _print(values, o.json)


def show(argv: list[str]) -> None:
    """`cs336 leaderboard show BOARD`."""
    o = parse(Show, argv, "leaderboard show", example="leaderboard show stories-loss")
    from cs336_basics.runs.report import Table as ReportTable
    from cs336_basics.runs.report import cell_text
    from cs336_course.leaderboards.pages import board_data, table_blocks
    from cs336_course.leaderboards.standings import standings

    board, tables = _board(o), standings(_boards(o), _board(o))
    if o.json:
        import json

        print(json.dumps([board_data(table) for table in tables], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(f"[bold]{board.title}[/bold]  {board.metric.name} ({board.metric.unit}), {board.metric.text}")
    for table in tables:
        console.print(f"\n{table.division.title} ({table.division.id})")
        for block in table_blocks(table):
            if not isinstance(block, ReportTable):
                console.print(getattr(block, "text", ""))
                continue
            shown = Table(*block.headers, box=None, pad_edge=False)
            for row in block.rows:
                shown.add_row(*(cell_text(cell) for cell in row))
            console.print(shown)


def submit(argv: list[str]) -> None:
    """`cs336 leaderboard submit BOARD`."""
    o = parse(Submit, argv, "leaderboard submit",
              example='leaderboard submit stories-loss --division one-minute --handle ada --run runs/mine')  # fmt: skip
    from cs336_course.leaderboards import submission
    from cs336_course.leaderboards.conversation import ProbeFailure

    board = _board(o)
    division = board.division(o.division).id
    evidence = o.evidence or _evidence(board.id, division, o.handle)
    material = submission.Material(o.run, o.artifacts, o.entrypoint, o.packages)
    author = submission.Author(o.handle, o.description, o.ai_disclosure)
    try:
        entry = submission.submit(board, division, material, author, evidence, tier=o.isolation, say=_say)
    except ProbeFailure as failure:
        raise ValueError(f"the entry would be rejected: {failure}") from failure
    path = entry.write(_boards(o))
    print_result(
        {"entry": str(path), "claimed": f"{board.metric.text_of(entry.claimed.metric)} {board.metric.unit}",
         "evidence": f"{evidence}: keep it for the verification"}, as_json=False,
    )  # fmt: skip


def verify(argv: list[str]) -> None:
    """`cs336 leaderboard verify ENTRY`."""
    o = parse(Verify, argv, "leaderboard verify",
              example="leaderboard verify boards/entries/stories-loss/2026-11-22-ada-1a2b3c4d.json --evidence evidence/ada")  # fmt: skip
    from cs336_course.leaderboards.board import load_board
    from cs336_course.leaderboards.entry import load_entry

    if o.rerun < 0:
        raise ValueError(f"--rerun must not be negative; got {o.rerun}")
    if not o.entry.is_file():
        raise FileNotFoundError(f"no entry {o.entry}; give boards/entries/BOARD/NAME.json")
    boards = o.boards or o.entry.resolve().parents[2]
    entry = load_entry(o.entry)
    board = load_board(boards / f"{entry.board}.toml")
    evidence = o.evidence or _evidence(entry.board, entry.division, entry.handle)
    found = _guarded(lambda: _verified(board, entry, evidence, o))
    found.write(boards)
    _print(_told(board, found), o.json)
    raise SystemExit(0 if found.verdict == "verified" else 1)


def baseline(argv: list[str]) -> None:
    """`cs336 leaderboard baseline BOARD`."""
    o = parse(Baseline, argv, "leaderboard baseline", example="leaderboard baseline stories-loss --division one-minute")
    from cs336_course.leaderboards.board import load_boards

    names = list(load_boards(_boards(o))) if o.board == "all" else [_board(o).id]
    good = True
    for name in names:
        board = _board(replace(o, board=name))
        chosen = [d for d in board.divisions if d.measured_here] if o.division is None else [board.division(o.division)]
        for division in chosen:
            good = _guarded(lambda b=board, d=division.id: _make_baseline(b, d, o)) and good  # type: ignore[misc]
    raise SystemExit(0 if good else 1)


def lint(argv: list[str]) -> None:
    """`cs336 leaderboard lint`."""
    o = parse(Lint, argv, "leaderboard lint", example="leaderboard lint --base origin/main --author ada")
    from cs336_course.leaderboards.lint import changed_entries
    from cs336_course.leaderboards.lint import lint as check

    if (o.base is None) != (o.author is None):
        raise ValueError("--base and --author go together")
    complaints = check(_boards(o))
    if o.base is not None and o.author is not None:
        complaints += changed_entries(_boards(o), o.base, o.author)
    for complaint in complaints:
        print(complaint)
    if complaints:
        raise SystemExit(1)
    print(f"{_boards(o)}: boards, entries, verifications and tables are in order")


def html(argv: list[str]) -> None:
    """`cs336 leaderboard html [OUT]`."""
    o = parse(Html, argv, "leaderboard html", example="leaderboard html site")
    from cs336_course.leaderboards.pages import write_generated, write_html

    written = write_generated(_boards(o))
    if o.out is not None:
        written += write_html(_boards(o), o.out)
    print_result({path.name: str(path) for path in written}, as_json=False)


def close(argv: list[str]) -> None:
    """`cs336 leaderboard close BOARD`."""
    o = parse(Close, argv, "leaderboard close", example="leaderboard close stories-loss")
    from cs336_course.leaderboards.closing import close_board

    path = close_board(_boards(o), _board(o), datetime.now(UTC).date())
    print_result({"final": str(path)}, as_json=False)


def _verified(board: Board, entry: Entry, evidence: Path, o: Verify) -> Verification:
    from cs336_course.leaderboards.rerun import rerun_verdict
    from cs336_course.leaderboards.verify import Options, verify_entry

    options = Options(_secret(o.secret_file), o.isolation)
    found = verify_entry(board, entry, evidence, options, say=_say)
    if o.rerun and found.verdict != "rejected":
        found = rerun_verdict(board, entry, evidence, options, found, times=o.rerun, say=_say)
    return found


def _make_baseline(board: Board, division: str, o: Baseline) -> bool:
    from cs336_course.leaderboards import baseline as ours
    from cs336_course.leaderboards.submission import submit as make
    from cs336_course.leaderboards.verify import Options, verify_entry

    _say(f"{board.id}/{division}: making the baseline ...")
    evidence = o.evidence / f"{board.id}-{division}-{ours.HANDLE}"
    with ours.scratch_folder() as scratch:
        material = ours.make_baseline(board, board.division(division), Path(scratch), _say)
        entry = make(board, division, material, ours.author(board), evidence, tier=o.isolation, say=_say)
    path = entry.write(_boards(o))
    found = verify_entry(board, entry, evidence, Options(_secret(o.secret_file), o.isolation), say=_say)
    found.write(_boards(o))
    print_result({"entry": str(path), **_told(board, found)}, as_json=False)
    return found.verdict == "verified"


def _told(board: Board, found: Verification) -> dict[str, object]:
    """A verification for printing."""
    values: dict[str, object] = {"verdict": found.verdict, "isolation": found.isolation}
    if found.reason:
        values["reason"] = found.reason
    if found.measured is not None:
        error = "" if found.measured.standard_error is None else f" +- {found.measured.standard_error:.2g}"
        values["measured"] = f"{board.metric.text_of(found.measured.value)}{error} {board.metric.unit}"
        values |= {name: round(value, 4) for name, value in found.measured.beside.items()}
        values["probes"] = ", ".join(f"{name} {text}" for name, text in found.measured.probes.items())
    if found.reruns:
        values["trained again"] = ", ".join(board.metric.text_of(value) for value in found.reruns)
    return values


def _boards(o: _Folder) -> Path:
    if o.boards is not None:
        return o.boards
    here = Path("boards")
    return here if here.is_dir() else Path(__file__).parents[2] / "boards"


def _board(o: Show | Submit | Baseline | Close) -> Board:
    from cs336_course.leaderboards.board import load_boards

    known = load_boards(_boards(o))
    if o.board not in known:
        raise ValueError(f"no board {o.board!r}; there are {', '.join(known)}")
    return known[o.board]


def _evidence(board: str, division: str, handle: str) -> Path:
    """Where evidence is kept by default."""
    return Path("evidence") / f"{board}-{division}-{handle}"


def _secret(file: Path | None) -> bytes:
    if file is not None:
        text = file.read_text(encoding="utf-8").strip()
        if not text:
            raise ValueError(f"{file} is empty; it must hold the secret")
        return text.encode()
    given = os.environ.get("CS336_BOARD_SECRET")
    if given is None:
        print("warning: no secret: hidden inputs come from a public default, for practice only", file=sys.stderr)
    return DEFAULT_SECRET if given is None else given.encode()


def _guarded(action: Callable[[], Result]) -> Result:
    """Exit 3 for faults that are neither the participant's nor the caller's."""
    try:
        return action()
    except (ValueError, FileNotFoundError, KeyboardInterrupt):
        raise
    except Exception:
        traceback.print_exc()
        print("error: the verifier's own fault; nothing was decided", file=sys.stderr)
        raise SystemExit(3) from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print(values: dict[str, object], as_json: bool) -> None:
    print_result(values, as_json=as_json)
