"""A run killed without warning and started again ends in the same bits as one that was never disturbed.

The children die by SIGKILL at random moments from a fixed seed: during start-up, between steps, while a checkpoint is
written. benchmarks/bench_resume_after_kill.py does the same fifty times.
"""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

from tests.unit.basics.tiny_run import LIMIT_S, differences, kill_at_random, start_child, tiny_config, train_in_child
from tests.unit.forked_child import ForkedChild

KILLS = 2


def stop_under_way(child: ForkedChild, run: Path, number: signal.Signals) -> tuple[str, str]:
    """Send a signal as soon as the run has logged a few new steps; return what the child has said."""
    log, end = run / "log.jsonl", time.monotonic() + LIMIT_S
    enough = 500 + (log.stat().st_size if log.exists() else 0)
    while child.poll() is None and time.monotonic() < end and (not log.exists() or log.stat().st_size < enough):
        time.sleep(0.01)
    child.send_signal(number)
    return child.communicate(timeout=LIMIT_S)


def test_an_interrupted_and_killed_run_ends_in_the_same_bits(corpus, tmp_path) -> None:
    config = tiny_config(corpus, num_steps=120, checkpoint_every=2, eval_every=40)
    run, straight = tmp_path / "run", tmp_path / "straight"
    seconds = train_in_child(config, straight)
    child = start_child(config, run)
    out, err = stop_under_way(child, run, signal.SIGINT)
    assert child.returncode == 130, err
    step = int(out.split("stopped after step ")[1].split()[0])
    assert (run / "checkpoints" / f"step_{step:08d}.pt").exists()
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
    child = start_child(config, run)  # one kill that hits training on any machine, then those at random
    stop_under_way(child, run, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    list(kill_at_random(config, run, random.Random(1), kills=KILLS - 1, seconds=seconds))
    train_in_child(config, run)
    assert differences(run, straight) == []
    assert json.loads((run / "manifest.json").read_text())["status"] == "complete"
