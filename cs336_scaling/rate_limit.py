"""Token buckets: each caller may make `burst` requests at once and `rate` per second in the long run.

    tokens = min(burst, tokens + rate * seconds since the last request);  a request takes one

Buckets live in the memory of one process; full ones are forgotten. Read next: `routes/callers.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class RateLimiter:
    """Buckets by caller."""

    def __init__(
        self, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic, max_callers: int = 10_000
    ) -> None:
        self.rate, self.burst, self.clock, self.max_callers = rate, burst, clock, max_callers
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait_seconds(self, caller: str) -> float:
        """0 if the request may pass (and then it is counted), else seconds until it could."""
        if self.rate == 0:
            return 0.0
        with self._lock:
            now = self.clock()
            tokens, last = self._buckets.get(caller, (float(self.burst), now))
            tokens = min(self.burst, tokens + self.rate * (now - last))
            self._buckets[caller] = (tokens - 1 if tokens >= 1 else tokens, now)
            if len(self._buckets) > self.max_callers:
                self._forget_full(now)
            return 0.0 if tokens >= 1 else (1 - tokens) / self.rate

    def _forget_full(self, now: float) -> None:
        """Drop buckets that would be full by now: a new one is the same."""
        self._buckets = {
            caller: (tokens, last)
            for caller, (tokens, last) in self._buckets.items()
            if tokens + self.rate * (now - last) < self.burst
        }
