"""A light load for HTTP services: a few keep-alive connections of one asyncio loop, every answer read whole and checked.

    load(port, requests, connections=16, check=...)   one request under way per connection, the next when it is answered

The load runs beside the service on the same cores, so what it spends the service lacks: it writes and reads plain bytes,
some 0.2 ms a request with the check of the answer, and no threads wait for each other. Used by bench_service.py.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) .*?\r\ncontent-length: (\d+)\r\n", re.DOTALL | re.IGNORECASE)
Request = tuple[bytes, Any]
"""what is sent, and anything that `check` wants to know about it"""
Check = Callable[[int, Any, Any], None]
"""(status, answer, the request's second part) -> None, or an error"""


@dataclass
class Measured:
    """What came back."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.seconds

    def milliseconds(self, percent: float) -> float:
        return round(1000 * float(np.percentile(self.latencies_s, percent)), 2)


def request_bytes(method: str, path: str, key: str, body: str = "") -> bytes:
    """A whole HTTP/1.1 request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def load(port: int, requests: Iterator[Request], *, check: Check, connections: int = 16) -> Measured:
    """Send `requests` until the iterator ends; `check` sees every answer, decoded from JSON.

    Raises:
        ValueError: an answer without status or length; whatever `check` raises.
    """
    measured = Measured()

    async def run() -> None:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(_converse(port, requests, check, measured))
        measured.seconds = time.perf_counter() - started

    asyncio.run(run())
    return measured


async def _converse(port: int, requests: Iterator[Request], check: Check, measured: Measured) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for sent, known in requests:
        started = time.perf_counter()
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        found = HEAD.match(head)
        if found is None:
            raise ValueError(f"an answer needs a status and a length; got {head!r}")
        body = await reader.readexactly(int(found[2]))
        measured.latencies_s.append(time.perf_counter() - started)
        measured.statuses[int(found[1])] += 1
        check(int(found[1]), json.loads(body), known)
    writer.close()
    await writer.wait_closed()


def for_seconds(requests: Iterator[Request], seconds: float) -> Iterator[Request]:
    """`requests` until the time is over."""
    end = time.perf_counter() + seconds
    for request in requests:
        if time.perf_counter() >= end:
            return
        yield request
