"""kill -9 of the service and of its jobs at seeded random moments: nothing lost, nothing charged twice.

benchmarks/bench_service_kills.py does the same 200 times.
"""

from __future__ import annotations

import random
import sys

import pytest

from tests.unit.scaling_service.kill_harness import KillableService, kill_at_random


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds its processes in /proc")
@pytest.mark.timeout(280)
def test_kills_lose_nothing(tmp_path, database_url):
    service = KillableService(tmp_path, database_url)
    try:
        service.start()
        submitted = kill_at_random(service, random.Random(5), kills=3, jobs_per_kill=2)
        assert service.problems(submitted) == []
    finally:
        service.close()
