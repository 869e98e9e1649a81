"""Kill training runs at random moments, start them again, and compare the results bit by bit with undisturbed runs.

    python benchmarks/bench_resume_after_kill.py --kills 50

Each run is killed with SIGKILL up to --kills-per-run times at moments drawn uniformly from its remaining life
(start-up, training, checkpoint writing, finishing), then left to complete. It passes if every run's weights are
identical bit by bit to the undisturbed run's and every log identical record by record apart from the seconds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402

from cs336_basics.runs.atomic import write_json  # noqa: E402
from cs336_basics.runs.provenance import describe_environment  # noqa: E402
from tests.unit.basics.tiny_run import (  # noqa: E402
    Kill,
    differences,
    kill_at_random,
    tiny_config,
    train_in_child,
    write_tiny_corpus,
)

RESULT = ROOT / "benchmarks" / "results" / "resume_after_kill.json"


def measure(folder: Path, *, kills: int, kills_per_run: int, seed: int, report: Any) -> dict[str, Any]:
    """Kill runs until `kills` processes have died; the results as one JSON-ready dictionary."""
    write_tiny_corpus(folder)
    config = tiny_config(folder, num_steps=100, checkpoint_every=2, eval_every=50)
    undisturbed = folder / "undisturbed"
    seconds = train_in_child(config, undisturbed)
    if differences(undisturbed, undisturbed):
        raise RuntimeError("a run differs from itself; the comparison is broken")
    generator, done, runs = random.Random(seed), list[Kill](), list[dict[str, Any]]()
    while len(done) < kills:
        directory, first = folder / f"run{len(runs)}", len(done)
        for kill in kill_at_random(
            config, directory, generator, kills=min(kills_per_run, kills - len(done)), seconds=seconds
        ):
            done.append(kill)
            report(len(done))
        train_in_child(config, directory)
        runs.append({"kills": len(done) - first, "differences": differences(directory, undisturbed)})
        print(json.dumps(runs[-1]), flush=True)
        if len(runs) > kills:
            raise RuntimeError(f"{len(runs)} runs gave only {len(done)} kills; the runs end before they are killed")
    return {
        "kills": len(done), "runs": len(runs), "identical_runs": sum(not run["differences"] for run in runs),
        "kills_by_phase": dict(Counter(kill.phase for kill in done)),
        "undisturbed_seconds": round(seconds, 2), "steps_per_run": config.num_steps,
        "steps_between_checkpoints": config.checkpoint_every, "seed": seed, "runs_in_detail": runs,
    }  # fmt: skip


def main() -> int:
    """Measure, print and write the result; 0 if every run was identical."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="processes to kill in all (default 50)")
    parser.add_argument("--kills-per-run", type=int, default=10, help="most kills of one run (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--quick", action="store_true", help="4 kills, no file written")
    options = parser.parse_args()
    kills, started = 4 if options.quick else options.kills, time.monotonic()
    if kills < 1 or options.kills_per_run < 1:
        parser.error("--kills and --kills-per-run must be at least 1")
    columns = (TextColumn("kills"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=_stderr()) as bar:
        task = bar.add_task("", total=kills)
        result = measure(
            Path(folder), kills=kills, kills_per_run=options.kills_per_run, seed=options.seed,
            report=lambda count: bar.update(task, completed=count),
        )  # fmt: skip
    result = {"benchmark": "resume_after_kill", **result, "seconds": round(time.monotonic() - started, 1)}
    result["measured"] = datetime.date.today().isoformat()
    result["environment"] = describe_environment()
    if not options.quick:
        write_json(RESULT, result)
    print(json.dumps(result))
    return 0 if result["identical_runs"] == result["runs"] else 1


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


if __name__ == "__main__":
    sys.exit(main())
