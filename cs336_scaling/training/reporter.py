"""How a run tells the service about itself: HTTP, patient with a service that is down.

A result is sent until the service has taken it; an event that cannot be sent soon is dropped, for the next one says
more. Both answer whether the run is still wanted. Read next: `job.py`.
"""

from __future__ import annotations

import time

import requests

from cs336_scaling.schemas.events import CompletedResult, FailedResult, WorkerEvent

TIMEOUT_S = 10
RESULT_PATIENCE_S = 24 * 3600.0
LONGEST_PAUSE_S = 10.0


class Reporter:
    """Sends the reports of one experiment."""

    def __init__(self, base_url: str, internal_key: str, experiment_id: int) -> None:
        self._url = f"{base_url.rstrip('/')}/internal/worker/{experiment_id}"
        self._headers = {"X-Internal-Key": internal_key}

    def event(self, event: WorkerEvent) -> bool:
        """Try once; False tells that the run was given up and should stop."""
        try:
            answer = self._post("event", event)
        except requests.RequestException:
            return True
        return answer.headers.get("X-Run-Lost") != "true"

    def result(self, result: CompletedResult | FailedResult, *, patience_s: float = RESULT_PATIENCE_S) -> bool:
        """Send until taken; False tells that it was not used.

        Raises:
            RuntimeError: refused, or nobody took it for `patience_s`.
        """
        end, pause = time.monotonic() + patience_s, 0.1
        while True:
            try:
                answer = self._post("finish", result)
                if answer.status_code == 204:
                    return answer.headers.get("X-Run-Lost") != "true"
                if answer.status_code < 500:
                    raise RuntimeError(f"the service refused the result: {answer.status_code} {answer.text}")
            except requests.RequestException as error:
                if time.monotonic() > end:
                    raise RuntimeError(f"the service did not take the result: {error}") from error
            if time.monotonic() > end:
                raise RuntimeError(f"the service did not take the result for {patience_s:.0f} s")
            time.sleep(pause)
            pause = min(LONGEST_PAUSE_S, 2 * pause)

    def _post(self, what: str, body: WorkerEvent | CompletedResult | FailedResult) -> requests.Response:
        return requests.post(
            f"{self._url}/{what}", data=body.model_dump_json(), timeout=TIMEOUT_S,
            headers={**self._headers, "Content-Type": "application/json"},
        )  # fmt: skip
