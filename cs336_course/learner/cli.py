"""The learner's verbs: doctor, check, progress, submit pack, submit verify. Read next: `adapters.py`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from cs336_basics.runs.command_line import parse, print_result


@dataclass(frozen=True)
class Doctor:
    """Look whether this machine is ready: Python, packages, GPU, disk, data, and the next step."""

    folder: Path = Path(".")
    """the assignment's folder"""


@dataclass(frozen=True)
class Check:
    """Read tests/adapters.py and the package without running them: filled, missing, wrong signature, forbidden names."""

    folder: Path = Path(".")
    """the assignment's folder"""


@dataclass(frozen=True)
class Progress:
    """Run the public tests and show problems done, points, and what comes next."""

    assignment: Literal["basics", "systems", "scaling", "data", "alignment"] = "basics"
    """which assignment"""
    folder: Path = Path(".")
    """its folder"""


@dataclass(frozen=True)
class Pack:
    """Pack the package and tests/adapters.py into a zip: exactly what the grader reads."""

    folder: Path = Path(".")
    """the assignment's folder"""
    out: Path = Path("code.zip")
    """the zip to write"""


@dataclass(frozen=True)
class Verify:
    """Unpack a submission by the grader's rules and say what it would read."""

    file: Positional[Path]
    """the zip, or a folder"""


def doctor(argv: list[str]) -> None:
    """`cs336 doctor`."""
    options = parse(Doctor, argv, "doctor", example="doctor --folder a1")
    from cs336_course.learner.doctor import BAD, examine

    findings = examine(options.folder)
    print_result({finding.name: f"{finding.state:8} {finding.text}" for finding in findings}, as_json=False)
    raise SystemExit(1 if any(finding.state == BAD for finding in findings) else 0)


def check(argv: list[str]) -> None:
    """`cs336 check ASSIGNMENT`."""
    assignment, rest = _assignment(argv)
    options = parse(Check, rest, f"check {assignment}", example="check basics")
    from cs336_course.grading.rules import lint
    from cs336_course.learner.adapters import adapter_states

    states = adapter_states(options.folder, assignment)
    for state in states:
        place = f"tests/adapters.py:{state.line}" if state.line else "tests/adapters.py"
        print(f"{state.state:16} {state.name:40} {state.slug:30} {place} {state.note}".rstrip())
    package = sorted(
        p.relative_to(options.folder).as_posix() for p in options.folder.glob(f"cs336_{assignment}/**/*.py")
    )
    flags = lint(options.folder, [*package, "tests/adapters.py"], assignment)
    for flag in flags:
        print(f"{flag.kind:16} {flag.file}:{flag.line}  {flag.text}")
    filled = sum(state.state == "filled" for state in states)
    print(f"{filled} of {len(states)} adapters filled, {len(flags)} forbidden or suspect names")
    raise SystemExit(0 if filled == len(states) and not flags else 1)


def progress(argv: list[str]) -> None:
    """`cs336 progress`."""
    options = parse(Progress, argv, "progress", example="progress --assignment basics")
    from cs336_course.learner.adapters import adapter_states
    from cs336_course.learner.progress import next_step
    from cs336_course.learner.progress import progress as measure

    problems = measure(options.folder, options.assignment)
    for problem in problems:
        mark = "done" if problem.done else "    "
        print(f"{mark}  {problem.slug:30} {problem.points:4g} points  {problem.passed} of {problem.tests} tests")
    points, total = sum(p.points for p in problems if p.done), sum(p.points for p in problems)
    print(f"{points:g} of {total:g} points by the public tests; the grader uses fresh inputs")
    print(f"next: {next_step(adapter_states(options.folder, options.assignment), problems)}")


def submit_pack(argv: list[str]) -> None:
    """`cs336 submit pack`."""
    options = parse(Pack, argv, "submit pack", example="submit pack --out code.zip")
    from cs336_course.learner.submission import pack, verify

    files = pack(options.folder, options.out)
    staged = verify(options.out)
    print_result({"zip": str(options.out), "files": len(files), "sha256": staged.sha256}, as_json=False)


def submit_verify(argv: list[str]) -> None:
    """`cs336 submit verify FILE`."""
    options = parse(Verify, argv, "submit verify", example="submit verify code.zip")
    from cs336_course.learner.submission import verify

    staged = verify(options.file)
    print("\n".join(sorted(staged.files)))
    for flag in staged.flags:
        print(f"left out: {flag.file}: {flag.text}", file=sys.stderr)
    print(f"{len(staged.files)} files, sha256 {staged.sha256}")


def _assignment(argv: list[str]) -> tuple[str, list[str]]:
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    if argv and argv[0] in ("-h", "--help"):
        return "basics", argv
    print("error: cs336 check needs an assignment, such as: cs336 check basics", file=sys.stderr)
    raise SystemExit(2)
