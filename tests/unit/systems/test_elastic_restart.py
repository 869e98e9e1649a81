"""A worker that is killed: torchrun restarts all, the run goes on from its checkpoint and ends in the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.unit.basics.tiny_run import tiny_config, write_tiny_corpus

LIMIT_S = 280.0
WORKER = """
import os, pathlib, sys
name = f"pid.{os.environ['RANK']}.{os.environ['TORCHELASTIC_RESTART_COUNT']}"
pathlib.Path(sys.argv[1], name).write_text(str(os.getpid()))
from cs336_course.cli import main
sys.exit(main(sys.argv[2:]))
"""


def start(folder: Path, out: Path) -> subprocess.Popen[str]:
    """A real torchrun of `cs336 train --strategy zero1` on two processes."""
    config = tiny_config(folder)
    (folder / "worker.py").write_text(WORKER)
    command = [
        *(
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "--max-restarts",
            "2",
        ),
        *("--monitor-interval", "0.1", str(folder / "worker.py"), str(out.parent), "train", "--strategy", "zero1"),
        *("--out", str(out), "--device", "cpu", "--num-steps", "60", "--checkpoint-every", "2", "--eval-every", "60"),
        *("--log-every", "1", "--batch-size", "4", "--optimizer.warmup-steps", "5", "--keep-checkpoints", "2"),
        *("--train-tokens", str(config.train_tokens), "--valid-tokens", str(config.valid_tokens)),
        *("--model.vocab-size", "257", "--model.context-length", "16", "--model.d-model", "16"),
        *("--model.num-layers", "1", "--model.num-heads", "2", "--model.d-ff", "32"),
    ]
    root = str(Path(__file__).resolve().parents[3])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(agent: subprocess.Popen[str]) -> str:
    """Wait for torchrun; its own text is in the error if it fails."""
    try:
        _, errors = agent.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        agent.send_signal(signal.SIGTERM)  # torchrun ends its workers
        _, errors = agent.communicate(timeout=60)
        raise AssertionError(f"torchrun did not end in time:\n{errors[-3000:]}") from None
    assert agent.returncode == 0, errors[-3000:]
    return errors


@pytest.mark.long
def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path):
    write_tiny_corpus(tmp_path)
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    finish(start(tmp_path, tmp_path / "straight" / "run"))
    run, step = tmp_path / "killed" / "run", random.Random(5).randrange(5, 25)
    agent, end = start(tmp_path, run), time.monotonic() + LIMIT_S
    log = run / "log.jsonl"
    while (
        agent.poll() is None and time.monotonic() < end and not (log.exists() and f'"step": {step},' in log.read_text())
    ):
        time.sleep(0.005)
    assert agent.poll() is None, finish(agent)
    os.kill(int((tmp_path / "killed" / "pid.1.0").read_text()), signal.SIGKILL)
    finish(agent)
    assert (tmp_path / "killed" / "pid.1.1").exists(), "the workers were not restarted"
    weights = [torch.load(path / "model.pt", weights_only=True) for path in (run, tmp_path / "straight" / "run")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    steps = [line.split('"step": ')[1].split(",")[0] for line in log.read_text().splitlines()]
    assert steps == [str(n) for n in range(1, 61)]
