"""The client of the 2026 service: the course's functions, and the class behind them.

    from cs336_scaling.client import get_budget, submit_experiment          # key from A3_API_KEY
    client = Client("http://127.0.0.1:8336", api_key="...")                 # or explicitly

A submission carries a random Idempotency-Key and is repeated when the connection breaks, so a lost answer neither loses
the experiment nor reads as a duplicate. HTTP errors are RuntimeErrors with the service's own words. Read next:
`service/cli.py`.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from typing import Any

import requests

from cs336_scaling.keys import is_well_formed
from cs336_scaling.loss_rules import NUMBERS
from cs336_scaling.schemas.experiment import (
    BudgetSummary,
    ExperimentResponse,
    FinalSubmissionResponse,
    SubmitResponse,
)
from cs336_scaling.training.training_config import TrainingConfig

API_BASE_URL = "http://127.0.0.1:8336"
TIMEOUT_S = 30.0
CONNECTION_TRIES = 3
Config = TrainingConfig | Mapping[str, Any]


class Client:
    """One learner's access to a training service.

    Args:
        url: of the service.
        api_key: 8 digits or a key made by `cs336 scaling admin`; the environment's A3_API_KEY by default.

    Raises:
        ValueError: no such key.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._key = os.environ.get("A3_API_KEY", "") if api_key is None else api_key
        if not is_well_formed(self._key):
            raise ValueError("the API key (A3_API_KEY) must be exactly 8 digits, or cs336_ and 43 characters")

    def get_budget(self) -> BudgetSummary:
        """Seconds used, remaining and granted."""
        return BudgetSummary.model_validate(self._call("GET", "/budget"))

    def submit_experiment(self, config: Config) -> SubmitResponse:
        """Queue a run."""
        return SubmitResponse.model_validate(
            self._call("POST", "/submit", _as_json(config), {"Idempotency-Key": uuid.uuid4().hex})
        )

    def list_experiments(self) -> list[ExperimentResponse]:
        """All experiments, oldest first."""
        return [ExperimentResponse.model_validate(value) for value in self._call("GET", "/experiments")]

    def get_experiment(self, experiment_id: int) -> ExperimentResponse:
        """One experiment."""
        return ExperimentResponse.model_validate(self._call("GET", f"/experiment/{experiment_id}"))

    def save_final_submission(self, config: Config, predicted_final_loss: float) -> FinalSubmissionResponse:
        """Hand in."""
        return self.save_final_submission_json(
            {"training_config": _as_json(config), "predicted_final_loss": predicted_final_loss}
        )

    def save_final_submission_json(self, submission: Mapping[str, Any]) -> FinalSubmissionResponse:
        """Hand in what was read from a file."""
        return FinalSubmissionResponse.model_validate(self._call("POST", "/final_submission", dict(submission)))

    def get_final_submission(self) -> FinalSubmissionResponse | None:
        """What was handed in, or None."""
        found = self._call("GET", "/final_submission")
        return None if found is None else FinalSubmissionResponse.model_validate(found)

    def get_loss(self, **query: float) -> dict[str, Any]:
        """The old API's /loss: d_model, num_layers, num_heads, batch_size, learning_rate, train_flops."""
        unknown = set(query) ^ set(NUMBERS)
        if unknown:
            raise ValueError(f"get_loss takes exactly {', '.join(NUMBERS)}; check {', '.join(sorted(unknown))}")
        return self._call("GET", "/loss", parameters={**query, "api_key": self._key})

    def total_flops_used(self) -> int:
        """The old API's /total_flops_used; 0 before the first query."""
        answer = self._send("GET", "/total_flops_used", parameters={"api_key": self._key})
        if answer.status_code == 422 and "No queries" in answer.text:
            return 0
        return int(_checked(answer))

    def previous_runs(self) -> list[dict[str, Any]]:
        """The old API's /previous_runs; empty before the first query."""
        answer = self._send("GET", "/previous_runs", parameters={"api_key": self._key})
        if answer.status_code == 422 and "No queries" in answer.text:
            return []
        return _checked(answer)["previous_runs"]

    def _call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        return _checked(self._send(method, path, body, headers, parameters))

    def _send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> requests.Response:  # fmt: skip
        """Send, again after a broken connection: every call is safe to repeat."""
        for attempt in range(CONNECTION_TRIES):
            try:
                return requests.request(
                    method, self.url + path, json=body, params=parameters, timeout=TIMEOUT_S,
                    headers={"X-API-Key": self._key, **(headers or {})},
                )  # fmt: skip
            except (requests.ConnectionError, requests.Timeout) as error:
                if attempt == CONNECTION_TRIES - 1:
                    raise RuntimeError(f"no answer from {self.url}{path}: {type(error).__name__}") from None
                time.sleep(0.5 * (attempt + 1))
        raise AssertionError("unreachable")


def _checked(answer: requests.Response) -> Any:
    """The body.

    Raises:
        RuntimeError: an error status; its text holds status and body.
    """
    if not answer.ok:
        raise RuntimeError(f"{answer.status_code} {answer.reason}: {answer.text}")
    return answer.json()


def _as_json(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json") if isinstance(config, TrainingConfig) else dict(config)


def _client() -> Client:
    """With key and address from the environment, read at each call."""
    return Client(os.environ.get("API_BASE_URL", API_BASE_URL))


def get_budget() -> BudgetSummary:
    """See `Client`."""
    return _client().get_budget()


def submit_experiment(config: Config) -> SubmitResponse:
    """See `Client`."""
    return _client().submit_experiment(config)


def list_experiments() -> list[ExperimentResponse]:
    """See `Client`."""
    return _client().list_experiments()


def get_experiment(experiment_id: int) -> ExperimentResponse:
    """See `Client`."""
    return _client().get_experiment(experiment_id)


def save_final_submission(config: Config, predicted_final_loss: float) -> FinalSubmissionResponse:
    """See `Client`."""
    return _client().save_final_submission(config, predicted_final_loss)


def save_final_submission_json(submission: Mapping[str, Any]) -> FinalSubmissionResponse:
    """See `Client`."""
    return _client().save_final_submission_json(submission)


def get_final_submission() -> FinalSubmissionResponse | None:
    """See `Client`."""
    return _client().get_final_submission()
