"""Executors: a stated law, a bank, and real training in a process of its own; what they report is looked up."""

from __future__ import annotations

import gc
import json
import math
import socket
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from cs336_basics.data import write_tokens
from cs336_scaling.app import create_app
from cs336_scaling.executors.answering import AnsweringExecutor
from cs336_scaling.executors.bank import open_bank
from cs336_scaling.executors.cluster import SlurmExecutor
from cs336_scaling.executors.law import StatedLaw
from cs336_scaling.executors.local import LocalExecutor, LocalSource
from cs336_scaling.executors.protocol import LossRequest
from cs336_scaling.scheduler.dispatcher import Dispatcher
from cs336_scaling.training.run import default_training_config, train_config
from tests.unit.scaling_service.configs import body_of, config_of

LIMIT_S = 200


def until_finished(client, headers, number: int = 1) -> dict:
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        status = client.get(f"/experiment/{number}", headers=headers).json()["status"]
        if status["status_type"] in ("completed", "failed"):
            return status
        time.sleep(0.1)
    raise TimeoutError(status)


def test_the_law_is_the_stated_one():
    request = LossRequest(256, 4, 4, 128, 0.004 * (12 * 4 * 256**2 / 1e5) ** -0.2, 10**17)
    size, tokens = 12 * 4 * 256**2, 10**17 / (6 * 12 * 4 * 256**2)
    answer = StatedLaw().answer(request)
    assert answer.loss == pytest.approx(2.69 + 1606.4 / size**0.34 + 3210.7 / tokens**0.36, rel=0.01)
    assert answer == StatedLaw().answer(request) and answer.source == "law"


def test_a_source_answers_the_queue(service):
    headers, client = service.add_user(), service.client()
    client.post("/submit", headers=headers, json=body_of(30))
    executor = AnsweringExecutor(StatedLaw(), service.sessions)
    Dispatcher(service.sessions, executor, service.settings).tick()
    status = until_finished(client, headers)
    executor.close()
    assert len(status["val_losses"]) == 16 and status["val_losses"] == sorted(status["val_losses"], reverse=True)
    answer = client.get("/experiment/1", headers=headers)
    assert answer.headers["X-Source"] == "law"
    charged = client.get("/budget", headers=headers).json()["used_seconds"]
    assert charged == math.ceil(1000 * max(1, status["used_runtime_seconds"])) / 1000


def record(index: int, loss: float | None, request: LossRequest, **changes: object) -> dict:
    return {
        "id": f"{index:x}", "corpus": "stories", "role": "random", "held_out": False,
        "budget": float(request.train_flops),
        "model": {"d_model": request.d_model, "num_layers": request.num_layers, "num_heads": request.num_heads},
        "training": {
            "batch_size": request.batch_size, "learning_rate": request.learning_rate, "seed": request.seed
        },
        "parameters": {}, "tokens": 1, "loss": loss, "seconds": 2.0, **changes,
    }  # fmt: skip


def test_a_bank_answers_measured_or_surface(tmp_path):
    draw = np.random.default_rng(2)

    def true(request: LossRequest) -> float:
        return math.exp(
            1.0 - 0.05 * math.log(request.non_embedding_parameters) + 0.01 * math.log(request.learning_rate) ** 2
        )

    records, requests = [], []
    for index in range(80):
        request = LossRequest(
            int(draw.choice([16, 32, 64])), int(draw.integers(1, 6)), 2, int(draw.choice([8, 16])),
            float(10 ** draw.uniform(-3.5, -1.6)), int(draw.choice([10**9, 10**10])),
        )  # fmt: skip
        requests.append(request)
        records.append(record(index, true(request), request))
    records.append(record(1000, 99.0, requests[0], held_out=True))
    records.append(record(1001, 99.0, requests[0], corpus="stdlib"))
    records.append(record(1002, None, requests[0]))
    path = tmp_path / "bank.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in records))
    bank = open_bank(path)
    known = bank.answer(requests[0])
    assert known.loss == pytest.approx(true(requests[0])) and known.source == "measured" and known.seconds == 2.0
    unseen = LossRequest(48, 3, 2, 16, 0.005, 3 * 10**9)
    guess = bank.answer(unseen)
    assert guess.source == "surface" and guess.loss == pytest.approx(true(unseen), rel=0.02)
    with pytest.raises(ValueError, match="outside the measured"):
        bank.answer(LossRequest(1024, 24, 2, 16, 0.005, 10**18))
    path.write_text(path.read_text() + '{"corpus": "stories"}\n')
    with pytest.raises(ValueError, match="line 84"):
        open_bank(path)
    with pytest.raises(FileNotFoundError, match="BANK_PATH"):
        open_bank(tmp_path / "none.jsonl")


def test_a_job_becomes_a_run_of_the_training_loop():
    config = train_config(default_training_config(), train_tokens="a.bin", valid_tokens="b.bin")
    assert (config.model.d_model, config.model.num_layers, config.model.d_ff) == (448, 9, 1280)
    assert config.model.qk_norm and config.model.rope_pairs == "halves" and config.model.context_length == 512
    assert (config.num_steps, config.batch_size, config.eval_every) == (16, 128, 1)
    assert config.optimizer.max_learning_rate == 3e-4 and config.optimizer.min_learning_rate == pytest.approx(3e-5)
    assert config.precision == "bfloat16" and config.tokens_per_step * config.num_steps == 2**20
    sgd = config_of(optimizer_config={"lr_scheduler": {"peak_value": 0.1}})
    with pytest.raises(ValueError, match="no SGD"):
        train_config(sgd, train_tokens="a.bin", valid_tokens="b.bin")


@pytest.fixture
def tokens(tmp_path):
    """Two small token files of a repeating pattern."""
    for name, count in (("train", 20_000), ("valid", 2_000)):
        write_tokens(tmp_path / f"{name}.bin", [(7 * n + n // 50) % 32 for n in range(count)], vocab_size=32)
    return tmp_path


def tiny_body(seconds: int, *, steps: int = 4) -> dict:
    shape = {
        "attention_bias": False, "head_dim": 8, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
        "num_hidden_layers": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-6, "rope_theta": 10_000,
        "tie_word_embeddings": False, "dtype": "float32", "vocab_size": 32,
    }  # fmt: skip
    return body_of(
        seconds, architecture_config=shape, train_batch_size=1, n_evals=4, total_train_tokens=512 * steps,
        optimizer_config={"lr_scheduler": {"peak_value": 0.01}, "weight_decay": 0.01},
    )  # fmt: skip


@pytest.fixture
def real_service(sqlite_service, tokens):
    """A service on a port of its own, whose local executor trains for real."""
    listener = socket.create_server(("127.0.0.1", 0))
    sqlite_service.configure(
        EXECUTOR="local", TRAIN_TOKENS=tokens / "train.bin", VALID_TOKENS=tokens / "valid.bin",
        RUNS_DIR=tokens / "runs", API_BASE_URL=f"http://127.0.0.1:{listener.getsockname()[1]}",
    )  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield sqlite_service
    server.should_exit = True
    thread.join()


@pytest.mark.timeout(280)
def test_a_job_is_really_trained(real_service, tokens):
    headers, client = real_service.add_user(), real_service.client()
    client.post("/submit", headers=headers, json=tiny_body(100))
    client.post("/submit", headers=headers, json=tiny_body(1, steps=40_000))
    executor = LocalExecutor(real_service.settings)
    Dispatcher(real_service.sessions, executor, real_service.settings).tick()
    done, late = until_finished(client, headers), until_finished(client, headers, 2)
    log = [json.loads(line) for line in (tokens / "runs/experiment_1/run/log.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in log if "validation_loss" in line]
    assert done["status_type"] == "completed" and done["val_losses"] == losses and len(losses) == 4
    assert losses[-1] < losses[0] and abs(losses[0] - math.log(32)) < 0.5
    assert late["status_type"] == "failed" and late["reason"]["reason"] == "timeout"
    assert late["used_runtime_seconds"] == 1.0
    while executor._children:
        assert executor.dead_runs() == []
        time.sleep(0.05)
    executor.close()


def test_the_old_api_really_trains(sqlite_service, tokens):
    sqlite_service.configure(
        TRAIN_TOKENS=tokens / "train.bin", VALID_TOKENS=tokens / "valid.bin", RUNS_DIR=tokens / "runs"
    )
    request = LossRequest(16, 1, 2, 8, 0.01, 6 * 12 * 16**2 * 8 * 128 * 5)
    answer = LocalSource(sqlite_service.settings).answer(request)
    (folder,) = (tokens / "runs").glob("loss_*")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["steps"] == 5 and answer.source == "run" and answer.loss == summary["validation_loss"]
    (folder / "answer.json").write_text('{"loss": 1.5, "seconds": 2}')
    assert LocalSource(sqlite_service.settings).answer(request).loss == 1.5, "made once"
    with pytest.raises(ValueError, match="0 steps"):
        LocalSource(sqlite_service.settings).answer(LossRequest(16, 1, 2, 8, 0.01, 100))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its logs open
def test_slurm_jobs_are_watched(sqlite_service, tokens, monkeypatch):
    """submitit's own local mode stands in for Slurm."""
    pytest.importorskip("submitit")
    sqlite_service.configure(
        TRAIN_TOKENS=tokens / "train.bin", VALID_TOKENS=tokens / "valid.bin", RUNS_DIR=tokens / "runs"
    )
    codes = {1: 0, 2: 3}

    def run(path: str, key: str) -> int:
        return codes[json.loads(Path(path).read_text())["experiment_id"]]

    monkeypatch.setattr("cs336_scaling.executors.cluster._run", run)
    executor = SlurmExecutor(sqlite_service.settings, cluster="debug")
    for number in codes:
        executor.start(types.SimpleNamespace(experiment_id=number, run_id=f"r{number}", config=config_of(30)))
    assert executor.dead_runs() == [(2, "r2")] and executor.dead_runs() == []
    executor.close()
    gc.collect()
