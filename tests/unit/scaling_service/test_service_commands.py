"""`cs336 scaling admin` and `client` as a user calls them; `serve` runs for real in test_kill.py."""

from __future__ import annotations

import csv
import json
import socket

import pytest

from cs336_course.cli import main
from cs336_scaling import client as client_module
from cs336_scaling.executors.law import StatedLaw
from tests.unit.scaling_service.configs import body_of
from tests.unit.scaling_service.conftest import clear_caches


def test_an_instructors_day(sqlite_service, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "learners.csv").write_text("sunet_id,api_key\nada,\n")
    assert main(["scaling", "admin", "seed", "learners.csv"]) == 0
    assert main(["scaling", "admin", "seed", "learners.csv"]) == 1
    assert "1 learners already" in capsys.readouterr().err
    assert main(["scaling", "admin", "export", "grades.csv"]) == 0
    with open("grades.csv", newline="") as file:
        assert [row["sunet_id"] for row in csv.DictReader(file)] == ["ada"]
    assert main(["scaling", "admin", "requeue", "1"]) != 0
    assert main(["scaling", "admin", "key", "bob"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("cs336_")
    assert main(["scaling", "admin", "seed"]) == 1
    assert main(["scaling", "admin", "party"]) == 2
    clear_caches()


def test_a_learners_day(sqlite_service, tmp_path, monkeypatch, capsys):
    """The client's requests go to the application itself instead of through a network."""
    headers = sqlite_service.add_user()
    monkeypatch.setenv("A3_API_KEY", headers["X-API-Key"])
    http = sqlite_service.client(source=StatedLaw())

    class Answer:
        def __init__(self, answer) -> None:
            self.status_code, self.text, self.json = answer.status_code, answer.text, answer.json
            self.ok, self.reason = answer.is_success, answer.reason_phrase

    def request(method, url, *, json, params, timeout, headers):
        return Answer(http.request(method, url.replace("http://there", ""), json=json, params=params, headers=headers))

    monkeypatch.setattr(client_module.requests, "request", request)

    def run(*words: str):
        code = main(["scaling", "client", *words, "--url", "http://there"])
        said = capsys.readouterr()
        return code, json.loads(said.out) if code == 0 else said.err

    (tmp_path / "config.json").write_text(json.dumps(body_of(10)))
    assert run("submit", str(tmp_path / "config.json"))[1]["experiment_id"] == 1
    assert run("budget")[1]["used_seconds"] == 10.0
    assert run("show", "1")[1]["training_config"] == body_of(10) and len(run("list")[1]) == 1
    assert run("handed-in") == (0, None) and run("previous-runs") == (0, [])
    query = ("d_model=64", "num_layers=2", "num_heads=2", "batch_size=128", "learning_rate=1e-3", "train_flops=1e13")
    assert run("loss", *query)[1]["total_flops_used"] == 10**13
    assert len(run("previous-runs")[1]) == 1
    assert run("loss", "d_model=64")[0] == 1 and run("show")[0] == 1
    with pytest.raises(RuntimeError, match="409.*already exists"):
        client_module.Client("http://there").submit_experiment(body_of(10))


def test_answers_are_not_held_back_by_nagles_algorithm(sqlite_service, monkeypatch):
    """Asked of a connection, as it is accepted from the socket that `serve` hands to the server."""
    found = []

    def run(server, sockets):
        (listener,) = sockets
        with listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            found.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr("uvicorn.Server.run", run)
    monkeypatch.setenv("EXECUTOR", "none")  # `serve` sets these two; monkeypatch takes them back
    monkeypatch.setenv("API_BASE_URL", "http://there")
    assert main(["scaling", "serve", "--port", "0", "--executor", "none"]) == 0
    assert len(found) == 1 and found[0] != 0
    clear_caches()
