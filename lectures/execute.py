"""Record lectures: `python lectures/execute.py -m lecture_01` writes var/traces/lecture_01.json and .trace.json.

The first file has the format of the public course's viewer, the second our own (`recording/trace.py`), from which
`cs336 lectures build` makes pages. Exit code 1 if a lecture failed; what was recorded until then is written all the
same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Record the lectures named on the command line."""
    parser = argparse.ArgumentParser(prog="execute.py", description="Record lectures as JSON traces.")
    parser.add_argument("-m", "--module", nargs="+", required=True, help="lectures, such as lecture_01 or a path")
    parser.add_argument("-o", "--output", type=Path, default=Path("var/traces"), help="folder of the traces")
    options = parser.parse_args(argv)
    codes = [record_to(name, options.output) for name in options.module]
    return max(codes)


def record_to(name: str, folder: Path) -> int:
    """Record one lecture into a folder; returns 1 if it failed."""
    from cs336_basics.runs.atomic import atomic_write
    from lectures.recording.public_format import to_public
    from lectures.recording.session import find_lecture, record

    try:
        path = find_lecture(name)
        trace = record(path)
    except (OSError, SyntaxError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for file, value in ((f"{path.stem}.json", to_public(trace)), (f"{path.stem}.trace.json", trace)):
        with atomic_write(folder / file, "w") as stream:
            json.dump(value, stream, ensure_ascii=False, indent=2 if value is not trace else None)
        print(f"{folder / file}: {len(trace['steps']['kind']):,} steps, {(folder / file).stat().st_size:,} bytes")
    meta = trace["meta"]
    for problem in meta["problems"]:
        print(f"problem: {problem}", file=sys.stderr)
    if meta["error"]:
        print(f"error: {meta['error']['where']}: {meta['error']['type']}: {meta['error']['message']}", file=sys.stderr)
    return 1 if meta["error"] or meta["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
