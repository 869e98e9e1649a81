"""Wrong clients of the training service, as deviations of one small right one. Read next: `diagnosis.py`."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

from cs336_course.misconceptions.bank import Misconception, wrong

TIMEOUT_S = 10


class Client:
    """The 2026 service's functions; right with `how` = ""."""

    def __init__(self, url: str, how: str) -> None:
        self.url, self.how = url, how
        self.key = os.environ.get("A3_API_KEY", "")
        digits = self.key.isdigit() or how == "letters-in-key"
        length = len(self.key) == 8 or (how == "key-length" and len(self.key) > 0)
        if not (digits and length) and how != "key-not-checked":
            raise (RuntimeError if how == "key-RuntimeError" else ValueError)("the key must have 8 digits")

    def get_budget(self) -> Any:
        """Seconds used and left."""
        answer = self._call("GET", "/budget/" if self.how == "slash" else "/budget")
        return answer["remaining_seconds"] if self.how == "budget-is-a-number" else answer

    def submit_experiment(self, config: Any) -> Any:
        """Queue a run."""
        body = {"training_config": config} if self.how == "submit-wrapped" else config
        answer = self._call("POST", "/submit", body)
        return answer["experiment_id"] if self.how == "submit-gives-id" else answer

    def list_experiments(self) -> Any:
        """All runs."""
        answer = self._call("GET", "/experiments")
        return [run["experiment_id"] for run in answer] if self.how == "list-of-ids" else answer

    def get_experiment(self, experiment_id: int) -> Any:
        """One run."""
        path = f"/experiments/{experiment_id}" if self.how == "plural-path" else f"/experiment/{experiment_id}"
        answer = self._call("GET", f"/experiment?id={experiment_id}" if self.how == "id-in-query" else path)
        return answer["status"] if self.how == "status-only" else answer

    def save_final_submission(self, config: Any, predicted_final_loss: float) -> Any:
        """Hand in."""
        loss = str(predicted_final_loss) if self.how == "loss-as-text" else predicted_final_loss
        name = "predicted_loss" if self.how == "predicted_loss" else "predicted_final_loss"
        return self.save_final_submission_json({"training_config": config, name: loss})

    def save_final_submission_json(self, submission: Any) -> Any:
        """Hand in a whole message."""
        return self._call("PUT" if self.how == "final-by-put" else "POST", "/final_submission", submission)

    def get_final_submission(self) -> Any:
        """What was handed in, or None."""
        answer = self._call("GET", "/final_submission")
        if answer is None and self.how == "nothing-is-an-error":
            raise RuntimeError("no final submission")
        return {} if answer is None and self.how == "nothing-is-empty" else answer

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        header = "Authorization" if self.how == "bearer" else "X-API-Key"
        headers = {"Content-Type": "application/json", header: self.key}
        if self.how == "key-in-query":
            path, headers = f"{path}?api_key={self.key}", {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = json.load(error)
            if self.how == "errors-swallowed":
                return None
            if self.how == "error-body-returned":
                return text
            if self.how == "HTTPError":
                raise ConnectionError(f"{error.code}: {text}") from None
            raise RuntimeError(
                "the request failed" if self.how == "error-without-words" else f"{error.code}: {text}"
            ) from None


def bank() -> list[Misconception]:
    """All entries of this file."""

    def entry(how: str, says: str, example: str) -> Misconception:
        return wrong("service_client", how, says, example, run_scaling_service=lambda url: Client(url, how))

    return [
        entry("bearer", "the key is sent as Authorization instead of X-API-Key", "the headers of get_budget"),
        entry("key-in-query", "the key is sent in the address, where logs keep it", "the path of get_budget"),
        entry("key-not-checked", "a malformed key is sent to the service", "A3_API_KEY=1234567"),
        entry("key-length", "only the digits of the key are checked, not their number", "A3_API_KEY=1234567"),
        entry("letters-in-key", "only the length of the key is checked", "A3_API_KEY=1234567x"),
        entry("key-RuntimeError", "a malformed key raises another error than ValueError", "A3_API_KEY=1234567"),
        entry("slash", "the path ends with a slash", "GET /budget"),
        entry("budget-is-a-number", "get_budget returns the seconds left instead of the whole answer", "get_budget()"),
        entry("submit-wrapped", "the configuration is sent inside another message", "the body of POST /submit"),
        entry("submit-gives-id", "submit_experiment returns the number of the experiment instead of the whole answer", "submit_experiment(config)"),
        entry("list-of-ids", "list_experiments returns numbers instead of experiments", "list_experiments()"),
        entry("plural-path", "an experiment is asked for at /experiments/ID instead of /experiment/ID", "get_experiment(7)"),
        entry("id-in-query", "an experiment is asked for at /experiment?id=ID instead of /experiment/ID", "get_experiment(7)"),
        entry("status-only", "get_experiment returns the status instead of the experiment", "get_experiment(7)"),
        entry("loss-as-text", "the predicted loss is sent as text", "save_final_submission(config, 3.25)"),
        entry("predicted_loss", "the predicted loss is sent under another name than predicted_final_loss", "save_final_submission(config, 3.25)"),
        entry("final-by-put", "the final submission is sent by PUT instead of POST", "save_final_submission(config, 3.25)"),
        entry("nothing-is-an-error", "get_final_submission raises when nothing is handed in yet", "get_final_submission() at the start: None"),
        entry("nothing-is-empty", "get_final_submission returns {} when nothing is handed in yet", "get_final_submission() at the start: None"),
        entry("errors-swallowed", "an HTTP error gives None", "get_experiment of somebody else's run"),
        entry("error-body-returned", "the body of an HTTP error is returned as if it were the answer", "get_experiment of somebody else's run"),
        entry("error-without-words", "the error does not repeat the service's reason", "get_experiment of somebody else's run"),
        entry("HTTPError", "an HTTP error raises another exception than RuntimeError", "get_experiment of somebody else's run"),
    ]  # fmt: skip
