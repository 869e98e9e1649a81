"""`cs336 handout ASSIGNMENT DIR`: make a student repository, and prove it. Read next: `generate.py`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from cs336_basics.runs.command_line import parse, print_result


@dataclass(frozen=True)
class Handout:
    """Make a student repository: empty package, blanked adapters, public tests, the assignment's text."""

    assignment: Positional[str]
    """basics, systems, scaling, data or alignment"""
    folder: Positional[Path]
    """new folder for it"""
    edition: Literal["2024", "2025", "2026"] = "2026"
    """the edition named in the README"""
    with_previous: Literal["staff", "none"] = "staff"
    """the staff's code of earlier assignments, where this one builds on it"""
    check: bool = False
    """prove it: blank tests fail with NotImplementedError only, the reference passes, nothing has leaked (minutes)"""


def handout(argv: list[str]) -> None:
    """`cs336 handout ASSIGNMENT DIR`."""
    from cs336_course.handouts.manifest import load_manifest, manifests

    options = parse(Handout, argv, "handout", example="handout basics assignment1-basics --check")
    if options.assignment not in manifests():
        raise ValueError(f"no handout for {options.assignment!r}; there are {', '.join(manifests())}")
    from cs336_course.handouts.check import problems_of
    from cs336_course.handouts.generate import handout_files, tree_hash, write_handout

    manifest = load_manifest(options.assignment)
    files = handout_files(manifest, edition=options.edition, previous=options.with_previous)
    write_handout(files, options.folder)
    print_result({"folder": str(options.folder), "files": len(files), "tree_sha256": tree_hash(files)}, as_json=False)
    if options.check:
        print("checking: the public tests twice, blank and with the reference", file=sys.stderr, flush=True)
        problems = problems_of(files, manifest)
        print(
            "\n".join(problems) or "checked: blank fails with NotImplementedError only, the reference passes, no leak"
        )
        if problems:
            raise SystemExit(1)
