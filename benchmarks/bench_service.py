"""The training service on SQLite: submissions and status reads per second, and 10,000 attempts on one budget.

    python benchmarks/bench_service.py [--seconds 10] [--quick]

The service runs in a process of its own (no executor), the load comes from threads of this one beside it; both share
the machine's cores. The attack is on one learner whose budget holds exactly 100 jobs. Targets: 200 submits/s,
800 reads/s, no overdraft.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_scaling.admin import give_new_key
from cs336_scaling.db.engine import migrate, open_engine, sessionmaker
from cs336_scaling.training.run import default_training_config

THREADS, GRANTED, JOB_S = 16, 100, 30
Call = Callable[[http.client.HTTPConnection], int]


def call(connection: http.client.HTTPConnection, method: str, path: str, key: str, body: str | None = None) -> int:
    connection.request(method, path, body, {"X-API-Key": key, "Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def load(
    port: int, work: Callable[[int], Call], *, seconds: float | None, total: int | None = None
) -> tuple[float, Counter[int]]:
    """Run calls in threads for `seconds` or until `total` are done; returns calls per second and statuses."""
    statuses: Counter[int] = Counter()
    lock, numbers = threading.Lock(), iter(range(10**9))
    started = time.perf_counter()

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        mine: Counter[int] = Counter()
        while seconds is None or time.perf_counter() - started < seconds:
            with lock:
                number = next(numbers)
            if total is not None and number >= total:
                break
            mine[work(number)(connection)] += 1
        connection.close()
        with lock:
            statuses.update(mine)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses.total() / (time.perf_counter() - started), statuses


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
    keys = [give_new_key(factory, f"learner{number}") for number in range(1000)]
    bodies = default_training_config().model_dump(mode="json")

    def body(seed: int) -> str:
        return json.dumps({**bodies, "max_runtime_seconds": JOB_S, "model_seed": seed})

    child, port = start(folder)
    try:
        submits, accepted = load(
            port, lambda n: lambda c: call(c, "POST", "/submit", keys[1 + n % 999], body(n)), seconds=seconds
        )
        reads, read = load(port, lambda n: lambda c: call(c, "GET", "/experiment/1", keys[1]), seconds=seconds)
        _, attack = load(
            port, lambda n: lambda c: call(c, "POST", "/submit", keys[0], body(n)), seconds=None, total=attempts
        )
    finally:
        child.terminate()
        child.wait(30)
        engine.dispose()
    assert set(accepted) == {200} and set(read) == {200}, (accepted, read)
    return {
        "submits_per_s": round(submits, 1), "reads_per_s": round(reads, 1), "attempts": attack.total(),
        "granted": attack[200], "refused": attack[400], "overdrafts": attack[200] - GRANTED,
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
    sys.exit(bool(result["overdrafts"]))


if __name__ == "__main__":
    main()
