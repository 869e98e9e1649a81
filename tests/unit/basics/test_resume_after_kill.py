"""A run killed without warning and started again ends in the same bits as one that was never disturbed.

The children die by SIGKILL at random moments from a fixed seed: during start-up, between steps, while a checkpoint is
written. benchmarks/bench_resume_after_kill.py does the same fifty times.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

from tests.unit.basics.tiny_run import differences, kill_at_random, start_child, tiny_config, train_in_child

KILLS = 4


def interrupt(child: subprocess.Popen[str], run: Path, limit_s: float) -> int:
    """Send Ctrl-C once the run has logged a few steps; return the step it says it stopped after."""
    log, end = run / "log.jsonl", time.monotonic() + limit_s
    while child.poll() is None and time.monotonic() < end and (not log.exists() or log.stat().st_size < 500):
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=limit_s)
    assert child.returncode == 130, err
    return int(out.split("stopped after step ")[1].split()[0])


def test_an_interrupted_and_killed_run_ends_in_the_same_bits(corpus, tmp_path) -> None:
    config = tiny_config(corpus, num_steps=120, checkpoint_every=2, eval_every=40)
    run, straight = tmp_path / "run", tmp_path / "straight"
    seconds = train_in_child(config, straight)
    step = interrupt(start_child(config, run), run, limit_s=20 * seconds)
    assert (run / "checkpoints" / f"step_{step:08d}.pt").exists()
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
    kills = list(kill_at_random(config, run, random.Random(1), kills=KILLS, seconds=seconds))
    assert kills, "every start ended before its kill"
    train_in_child(config, run)
    assert differences(run, straight) == []
    assert json.loads((run / "manifest.json").read_text())["status"] == "complete"
