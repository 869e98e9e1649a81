"""The grader at length: how long one submission takes, and whether a batch that is killed loses or doubles anything.

    python benchmarks/check_grading.py [--submissions 20] [--kills 3] [--only softmax rmsnorm] [--whole basics systems]

    whole   the reference is graded in full, per assignment: wall time and score
    batch   copies of the reference, every third with a mistake, are graded by `cs336 grade batch`, which is killed with
            SIGKILL at random moments and called again with --resume; the table must be that of an undisturbed batch

Left out: isolation and threats (`tests/course/test_threats.py`), mutants (`cs336 grade selftest`).
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "grading.json"
sys.path.insert(0, str(ROOT))

from cs336_basics.runs.atomic import write_json  # noqa: E402
from cs336_basics.runs.provenance import describe_environment  # noqa: E402
from cs336_course.grading.isolation import choose_tier  # noqa: E402
from cs336_course.grading.judge import grade  # noqa: E402
from cs336_course.grading.suite import load_suite  # noqa: E402


def whole(assignment: str) -> dict[str, Any]:
    """Grade the reference in full."""
    suite = load_suite(assignment, secret=b"check")
    started = time.perf_counter()
    report = grade(ROOT, suite, tier=choose_tier(), progress=lambda slug: print(f"  {slug}", file=sys.stderr))
    lost = [f"{s.slug}/{c.id}: {c.message} {c.detail}" for s in report.slugs for c in s.cases if c.status != "passed"]
    slowest = {s.slug: round(sum(c.wall_s for c in s.cases), 2) for s in report.slugs}
    return {
        "wall_s": round(time.perf_counter() - started, 1), "score": report.score, "max_score": report.max_score,
        "isolation": report.isolation_tier, "lost": lost, "seconds": slowest,
    }  # fmt: skip


def make_submissions(folder: Path, count: int) -> None:
    """The reference's adapters and package, as `submit pack` would take them; every third forgets the maximum."""
    for number in range(count):
        target = folder / f"student{number:02}"
        shutil.copytree(ROOT / "cs336_basics", target / "cs336_basics", ignore=shutil.ignore_patterns("__pycache__"))
        (target / "tests").mkdir()
        text = (ROOT / "tests" / "adapters.py").read_text(encoding="utf-8")
        if number % 3 == 2:
            text += "\n\ndef run_softmax(in_features, dim):\n    e = in_features.exp()\n    return e / e.sum(dim, keepdim=True)\n"
        (target / "tests" / "adapters.py").write_text(text, encoding="utf-8")


def batch(folder: Path, only: list[str], out: Path, *, kill_after: float | None = None) -> bool:
    """One call of the command; True if it ended by itself."""
    command = [sys.executable, "-m", "cs336_course.cli", "grade", "batch", "basics", "--submissions", str(folder)]
    command += ["--out", str(out), "--resume", "--only", *only]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        if process.wait(timeout=kill_after) != 0:
            raise RuntimeError(f"the batch failed with exit code {process.returncode}")
        return True
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return False


def rows(out: Path) -> list[dict[str, str]]:
    """The table of grades."""
    with (out / "grades.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_batch(count: int, kills: int, only: list[str]) -> dict[str, Any]:
    """Grade once undisturbed, once with kills; compare."""
    rng = random.Random(336)
    with tempfile.TemporaryDirectory(prefix="cs336-check-") as scratch:
        folder, plain, killed = (Path(scratch) / name for name in ("inbox", "plain", "killed"))
        make_submissions(folder, count)
        started = time.perf_counter()
        batch(folder, only, plain)
        seconds, left = time.perf_counter() - started, []
        for _ in range(kills):
            if batch(folder, only, killed, kill_after=rng.uniform(0.15, 0.5) * seconds):
                break
            left.append(len(list((killed / "reports").glob("*.json"))))
        batch(folder, only, killed)
        same = rows(plain) == rows(killed)
        names = [row["submission"] for row in rows(killed)]
        scores = sorted({row["score"] for row in rows(killed)})
    return {
        "submissions": count, "wall_s": round(seconds, 1), "reports_after_each_kill": left, "rows": len(names),
        "different_names": len(set(names)), "same_as_undisturbed": same, "scores": scores,
    }  # fmt: skip


def main() -> None:
    """Run what is asked for and write it into `results/grading.json`; other results there stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["softmax", "rmsnorm"], help="problems of the batch")
    parser.add_argument("--whole", nargs="*", default=["basics", "systems", "scaling"], help="graded in full")
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"whole": {}}
    results["whole"] |= {name: whole(name) for name in options.whole}
    if options.submissions:
        results["batch"] = check_batch(options.submissions, options.kills, options.only)
    results |= {"measured": datetime.date.today().isoformat(), "environment": describe_environment()}
    write_json(RESULT, results)
    print(json.dumps(results, indent=2))
    batch_is_whole = not options.submissions or results["batch"]["same_as_undisturbed"]
    sys.exit(0 if batch_is_whole and not any(one["lost"] for one in results["whole"].values()) else 1)


if __name__ == "__main__":
    main()
