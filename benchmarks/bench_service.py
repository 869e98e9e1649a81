"""The training service on SQLite: submissions and status reads per second, and 10,000 attempts on one budget.

    python benchmarks/bench_service.py [--seconds 10] [--quick]

The service (no executor) and the load (`http_load.py`: 16 connections) are two processes on the same cores. Submissions
come from 999 learners; reads ask for what was submitted; the attack is on one learner whose budget holds exactly 100
jobs. Every answer is checked, and at the end the database: each accepted job is a row, and nobody is charged for
another number of jobs than were granted. Targets: 200 submits/s, 800 reads/s, no overdraft.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from http_load import Measured, Request, for_seconds, load, request_bytes
from sqlalchemy import select

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_scaling.db.engine import SessionFactory, migrate, open_engine, sessionmaker, writing
from cs336_scaling.db.tables import ExperimentTable, UserTable
from cs336_scaling.keys import new_key
from cs336_scaling.training.run import default_training_config

LEARNERS, GRANTED, JOB_S = 1000, 100, 30


class Learners:
    """Who asks for what, and what the service has said; number 0 is the attacker."""

    def __init__(self, factory: SessionFactory) -> None:
        self.keys = [new_key() for _ in range(LEARNERS)]
        with writing(factory) as session:
            session.add_all(UserTable(sunet_id=f"learner{n}", api_key=key) for n, key in enumerate(self.keys))
        self.config = default_training_config().model_dump(mode="json") | {"max_runtime_seconds": JOB_S}
        self.seeds = itertools.count()
        self.accepted: dict[int, tuple[int, int]] = {}
        """learner and seed of every experiment that was granted"""

    def submissions(self, learners: Iterator[int]) -> Iterator[Request]:
        for learner, seed in zip(learners, self.seeds, strict=False):
            body = json.dumps({**self.config, "model_seed": seed})
            yield request_bytes("POST", "/submit", self.keys[learner], body), (learner, seed)

    def reads(self) -> Iterator[Request]:
        for number, (learner, seed) in itertools.cycle(list(self.accepted.items())):
            yield request_bytes("GET", f"/experiment/{number}", self.keys[learner]), (number, seed)

    def submitted(self, status: int, answer: Any, known: Any) -> None:
        if status == 200:
            assert answer["experiment_id"] not in self.accepted, answer
            self.accepted[answer["experiment_id"]] = known
        else:
            assert status == 400 and answer["detail"]["budget_summary"]["remaining_seconds"] == 0, (status, answer)

    def read(self, status: int, answer: Any, known: Any) -> None:
        number, seed = known
        assert status == 200 and answer["status"]["status_type"] == "queued", answer
        assert answer["experiment_id"] == number, (answer, known)
        assert answer["training_config"] == {**self.config, "model_seed": seed}, (answer, known)

    def differences(self, factory: SessionFactory) -> int:
        """Jobs granted and not in the database, or the other way round, or charged with anything but their seconds."""
        columns = ExperimentTable.id, ExperimentTable.user_sunet_id, ExperimentTable.charged_ms
        with factory() as session:
            rows = session.execute(select(*columns)).all()
        granted = {(number, f"learner{n}", 1000 * JOB_S) for number, (n, _) in self.accepted.items()}
        return len(granted ^ {tuple(row) for row in rows})


def start(folder: str) -> tuple[subprocess.Popen[str], int]:
    environment = {
        **os.environ, "DATABASE_URL_DEV": f"sqlite:///{folder}/service.db", "DB_ENV": "dev", "EXECUTOR": "none",
        "RATE_LIMIT_PER_S": "0", "TOTAL_BUDGET_SECONDS": str(GRANTED * JOB_S), "MAX_QUEUE_LENGTH": "1000000",
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "cs336_course.cli", "scaling", "serve", "--port", "0"], env=environment, text=True,
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert child.stdout is not None
    return child, int(child.stdout.readline().split("127.0.0.1:")[1].split()[0])


def measure(folder: str, seconds: float, attempts: int) -> dict[str, object]:
    engine = open_engine(f"sqlite:///{folder}/service.db")
    migrate(engine)
    factory = sessionmaker(engine, expire_on_commit=False)
    learners = Learners(factory)
    others = itertools.cycle(range(1, LEARNERS))
    child, port = start(folder)
    try:
        load(port, for_seconds(learners.submissions(others), seconds / 10), check=learners.submitted)  # warm-up
        submits = load(port, for_seconds(learners.submissions(others), seconds), check=learners.submitted)
        reads = load(port, for_seconds(learners.reads(), seconds), check=learners.read)
        attack = load(port, learners.submissions(itertools.repeat(0, attempts)), check=learners.submitted)
    finally:
        child.terminate()
        child.wait(30)
    differences = learners.differences(factory)
    engine.dispose()
    return {
        **speed("submits", submits), **speed("reads", reads), "attempts": attack.statuses.total(),
        "granted": attack.statuses[200], "refused": attack.statuses[400],
        "overdrafts": attack.statuses[200] - min(attempts, GRANTED), "differences_to_the_database": differences,
    }  # fmt: skip


def speed(what: str, measured: Measured) -> dict[str, float]:
    return {
        f"{what}_per_s": round(measured.per_s, 1), f"{what}_p50_ms": measured.milliseconds(50),
        f"{what}_p99_ms": measured.milliseconds(99),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each of the two measurements")
    parser.add_argument("--quick", action="store_true", help="1 second each and 300 attempts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(folder, 1.0 if options.quick else options.seconds, 300 if options.quick else 10_000)
    print(json.dumps(result, indent=2))
    if not options.quick:
        result |= {"measured": datetime.date.today().isoformat(), "environment": describe_environment()}
        write_json(Path(__file__).parent / "results" / "service.json", result)
    sys.exit(bool(result["overdrafts"] or result["differences_to_the_database"]))


if __name__ == "__main__":
    main()
