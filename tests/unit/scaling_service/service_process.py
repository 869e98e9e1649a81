"""The real `cs336 scaling serve`, whose local executor starts fake jobs: for tests that kill it."""

from __future__ import annotations

import sys

from cs336_scaling.executors.local import LocalExecutor
from cs336_scaling.service.cli import serve

if __name__ == "__main__":
    LocalExecutor.__init__.__kwdefaults__["module"] = "tests.unit.scaling_service.fake_job"
    serve(sys.argv[1:])
