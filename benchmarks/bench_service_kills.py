"""Kill the training service and its jobs at random moments and count what is lost or charged twice.

    python benchmarks/bench_service_kills.py [--kills 200] [--piece 20] [--for-seconds 360] [--out FILE] [--quick]

The harness is that of the tests: `cs336 scaling serve` on SQLite in a process of its own, jobs in processes of theirs,
SIGKILL at seeded random moments while two clients submit; then every accepted submission is looked up. The kills are
dealt in pieces, each with a database and a seed of its own and written when it is done: a run that was ended, by
--for-seconds or otherwise, goes on where it stopped when it is called again. About two seconds a kill.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.unit.scaling_service.kill_harness import KillableService, kill_at_random  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "service_kills.json"
JOBS_PER_KILL = 2


def run_piece(seed: int, kills: int) -> dict[str, Any]:
    """One service with a fresh database."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        service = KillableService(Path(folder), f"sqlite:///{folder}/service.db")
        try:
            service.start()
            submitted = kill_at_random(service, random.Random(seed), kills=kills, jobs_per_kill=JOBS_PER_KILL)
            problems = service.problems(submitted)
        finally:
            service.close()
    seconds = round(time.perf_counter() - started, 1)
    return {"seed": seed, "kills": kills, "submitted": submitted, "problems": problems, "seconds": seconds}


def summary(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    totals = {name: sum(piece[name] for piece in pieces) for name in ("kills", "submitted", "seconds")}
    return {
        **totals, "problems": [problem for piece in pieces for problem in piece["problems"]],
        "measured": datetime.date.today().isoformat(), "environment": describe_environment(), "pieces": pieces,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--piece", type=int, default=20, help="kills per database")
    parser.add_argument("--for-seconds", type=float, default=360.0, help="begin no further piece after this time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result; an unfinished one is continued")
    parser.add_argument("--quick", action="store_true", help="4 kills, not written")
    options = parser.parse_args()
    if options.quick:
        piece = run_piece(0, 4)
        print(piece)
        sys.exit(bool(piece["problems"]))
    pieces = json.loads(options.out.read_text(encoding="utf-8"))["pieces"] if options.out.exists() else []
    if sum(piece["kills"] for piece in pieces) >= options.kills:
        pieces = []  # that one is complete: measure anew
    end = time.monotonic() + options.for_seconds
    while (left := options.kills - sum(piece["kills"] for piece in pieces)) > 0 and time.monotonic() < end:
        pieces.append(run_piece(len(pieces), min(options.piece, left)))
        print(pieces[-1], flush=True)
        write_json(options.out, summary(pieces))
    done = summary(pieces)
    print(f"{done['kills']} of {options.kills} kills, {done['submitted']} jobs: {len(done['problems'])} problems")
    sys.exit(bool(done["problems"]))


if __name__ == "__main__":
    main()
