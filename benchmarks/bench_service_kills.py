"""Kill the training service and its jobs at random moments and count what is lost or charged twice.

    python benchmarks/bench_service_kills.py [--kills 200] [--seed 0] [--quick]

The harness is that of the tests: `cs336 scaling serve` on SQLite in a process of its own, jobs in processes of theirs,
SIGKILL at seeded random moments, then every accepted submission is looked up.
"""

from __future__ import annotations

import argparse
import datetime
import random
import sys
import tempfile
import time
from pathlib import Path

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.unit.scaling_service.kill_harness import KillableService, kill_at_random  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="4 kills")
    options = parser.parse_args()
    kills, started = 4 if options.quick else options.kills, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        service = KillableService(Path(folder), f"sqlite:///{folder}/service.db")
        try:
            service.start()
            submitted = kill_at_random(service, random.Random(options.seed), kills=kills, jobs_per_kill=1)
            problems = service.problems(submitted)
        finally:
            service.close()
    result = {
        "kills": kills, "seed": options.seed, "submitted": submitted, "problems": problems,
        "seconds": round(time.perf_counter() - started, 1), "measured": datetime.date.today().isoformat(),
        "environment": describe_environment(),
    }  # fmt: skip
    print(f"{kills} kills, {submitted} jobs: {len(problems)} problems in {result['seconds']} s")
    if not options.quick:
        write_json(Path(__file__).parent / "results" / "service_kills.json", result)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
