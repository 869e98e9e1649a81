"""Assignment 3: the client of the 2026 training service, against a server of this file that notes what it is sent.

`run_scaling_service(url)` returns an object with get_budget, submit_experiment, list_experiments, get_experiment,
save_final_submission, save_final_submission_json and get_final_submission; the key is in A3_API_KEY.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY = "01234567"
CONFIG: dict[str, Any] = {
    "architecture_config": {
        "attention_bias": False, "head_dim": 64, "hidden_size": 128, "intermediate_size": 256,
        "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "rope_theta": 10000, "tie_word_embeddings": False, "dtype": "float32", "vocab_size": 32000,
    },
    "optimizer_config": {
        "lr_scheduler": {"peak_value": 3e-4, "final_lr_frac": 0.1, "warmup_frac": 0.05, "init_value": 0.0},
        "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "eps_root": 1e-8, "grad_clip_norm": 1.0,
    },
    "train_batch_size": 128, "val_batch_size": 32, "n_evals": 16, "total_train_tokens": 2**20,
    "max_runtime_seconds": 30, "model_seed": 0,
}  # fmt: skip
BUDGET = {"used_seconds": 30.0, "remaining_seconds": 43170.0, "total_budget_seconds": 43200.0}
EXPERIMENT = {
    "experiment_id": 7, "training_config": CONFIG,
    "status": {"status_type": "queued", "queued_at": "2026-05-01T12:00:00Z"},
}  # fmt: skip
FINAL = {"training_config": CONFIG, "predicted_final_loss": 3.25}
HANDED_IN = {**FINAL, "submitted_at": "2026-05-02T12:00:00Z"}
ANSWERS: dict[tuple[str, str], tuple[int, Any]] = {
    ("GET", "/budget"): (200, BUDGET),
    ("POST", "/submit"): (200, {"experiment_id": 7, "budget_summary": BUDGET}),
    ("GET", "/experiments"): (200, [EXPERIMENT]),
    ("GET", "/experiment/7"): (200, EXPERIMENT),
    ("GET", "/experiment/8"): (404, {"detail": "not found"}),
    ("POST", "/final_submission"): (200, HANDED_IN),
    ("GET", "/final_submission"): (200, None),
}


class Server:
    """Answers from ANSWERS and notes (method, path, key, body)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str | None, Any]] = []
        notes = self.seen

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                notes.append((self.command, self.path, self.headers["X-API-Key"], json.loads(body) if body else None))
                status, value = ANSWERS[self.command, self.path]
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _answer

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def client(adapters, server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("A3_API_KEY", KEY)
    return adapters.run_scaling_service(server.url)


def plain(value: Any) -> Any:
    """A message or plain values as JSON values."""
    return json.loads(json.dumps(value, default=lambda message: message.model_dump(mode="json")))


def test_budget(client, server) -> None:
    assert plain(client.get_budget()) == BUDGET
    assert server.seen == [("GET", "/budget", KEY, None)]


def test_submit(client, server) -> None:
    assert plain(client.submit_experiment(CONFIG)) == {"experiment_id": 7, "budget_summary": BUDGET}
    assert server.seen == [("POST", "/submit", KEY, CONFIG)]


def test_list_and_show(client, server) -> None:
    assert plain(client.list_experiments()) == [EXPERIMENT]
    assert plain(client.get_experiment(7)) == EXPERIMENT
    assert [seen[:3] for seen in server.seen] == [("GET", "/experiments", KEY), ("GET", "/experiment/7", KEY)]


def test_final_submission(client, server) -> None:
    assert client.get_final_submission() is None
    assert plain(client.save_final_submission(CONFIG, 3.25)) == HANDED_IN
    assert plain(client.save_final_submission_json(FINAL)) == HANDED_IN
    assert [seen[3] for seen in server.seen] == [None, FINAL, FINAL]


def test_an_http_error_is_told_in_the_services_words(client) -> None:
    with pytest.raises(RuntimeError, match="404.*not found"):
        client.get_experiment(8)


@pytest.mark.parametrize("key", ["", "1234567", "123456789", "1234567a", " 12345678"])
def test_a_key_must_have_eight_digits(adapters, server, monkeypatch, key) -> None:
    monkeypatch.setenv("A3_API_KEY", key)
    with pytest.raises(ValueError, match="8 digits"):
        adapters.run_scaling_service(server.url).get_budget()
    assert server.seen == []
