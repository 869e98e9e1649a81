"""Run the suites of parallel training again and again: a race or a hang shows in some runs only.

    python benchmarks/check_parallel_repeats.py [--repeats 20] [--at-once 1] [--add] [-- pytest arguments]

Every run is a fresh pytest with a time limit of its own, in which each test comes --at-once times (with processes of
its own each time); a run that fails or does not end counts, and its output is shown. --add counts on from the stored
result.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from cs336_basics.runs.atomic import write_json  # noqa: E402
from cs336_basics.runs.provenance import describe_environment  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "parallel_repeats.json"
SUITES = ("test_ddp", "test_ddp_individual_parameters", "test_ddp_bucketed", "test_sharded_optimizer", "test_fsdp")
LIMIT_S = 1200.0


def main() -> None:
    """Repeat and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=1, help="repeats in one run of pytest, which saves its start")
    parser.add_argument("--add", action="store_true", help="count on from the stored result")
    parser.add_argument("rest", nargs="*", help="more arguments of pytest")
    arguments = parser.parse_args()
    files = [f"tests/{name}.py" for name in SUITES] * arguments.at_once
    command = [sys.executable, "-m", "pytest", "-q", "--keep-duplicates", *files, *arguments.rest]
    failed, hung, seconds = 0, 0, []
    for done_so_far in range(0, arguments.repeats, arguments.at_once):
        start = time.monotonic()
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
            failed += done.returncode != 0
            last = done.stdout.strip().splitlines()[-1]
            if done.returncode:
                print(done.stdout[-5000:], file=sys.stderr)
        except subprocess.TimeoutExpired:
            hung, last = hung + 1, "did not end"
        seconds.append(round(time.monotonic() - start, 1))
        print(f"{done_so_far + arguments.at_once} of {arguments.repeats}: {last}", flush=True)
    repeats = -(-arguments.repeats // arguments.at_once) * arguments.at_once
    result = {"repeats": repeats, "failed": failed, "hung": hung, "seconds": seconds}
    if arguments.add:
        before = json.loads(RESULT.read_text(encoding="utf-8"))
        result = {name: before[name] + value for name, value in result.items()}
    result |= {"suites": SUITES, "measured": datetime.date.today().isoformat(), "environment": describe_environment()}
    write_json(RESULT, result)
    sys.exit(bool(failed or hung))


if __name__ == "__main__":
    main()
