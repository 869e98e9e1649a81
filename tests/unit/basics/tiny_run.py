"""A tiny corpus, a training run that takes a second, and child processes that train it and can be killed."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cs336_basics.data import write_tokens
from cs336_basics.model_config import ModelConfig
from cs336_basics.tokenization import Tokenizer
from cs336_basics.training import Interrupted, train
from cs336_basics.training_config import OptimizerConfig, TrainConfig
from tests.unit.forked_child import ForkedChild

TRAIN_CORPUS = "the cat sat.\n<|endoftext|>a dog ran to the cat.\n<|endoftext|>" * 40
VALID_CORPUS = "the dog sat.\n<|endoftext|>a cat ran to the dog.\n<|endoftext|>" * 4


def write_tiny_corpus(folder: Path) -> None:
    """train.bin, valid.bin and tokenizer/, one token per byte and 256 for the end of a document."""
    tokenizer = Tokenizer({b: bytes([b]) for b in range(256)}, [], ["<|endoftext|>"])
    tokenizer.save(folder / "tokenizer")
    for name, text in (("train", TRAIN_CORPUS), ("valid", VALID_CORPUS)):
        ids = tokenizer.encode(text)
        write_tokens(folder / f"{name}.bin", ids, vocab_size=257, text_bytes=len(text.replace("<|endoftext|>", "")))


def tiny_config(folder: Path, **changes: object) -> TrainConfig:
    """30 steps of a one-block model with dropout; validation, samples, logs and checkpoints at odd intervals."""
    config = TrainConfig(
        model=ModelConfig(
            vocab_size=257, context_length=16, d_model=16, num_layers=1, num_heads=2, d_ff=32, attn_pdrop=0.1,
            residual_pdrop=0.1,
        ),
        train_tokens=folder / "train.bin", valid_tokens=folder / "valid.bin", tokenizer=folder / "tokenizer",
        optimizer=OptimizerConfig(max_learning_rate=0.01, warmup_steps=5),
        num_steps=30, batch_size=4, gradient_accumulation=2, seed=3, device="cpu", log_every=4, eval_every=9,
        eval_tokens=60, checkpoint_every=5, sample_tokens=5,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


# Child processes

LIMIT_S = 240.0


def train_or_stop(config: TrainConfig, directory: Path) -> int:
    """The program of a child: train, and say what an interruption says."""
    try:
        train(config, directory, progress=False)
    except Interrupted as stop:
        print(stop)
        return 130
    return 0


def start_child(config: TrainConfig, directory: Path) -> ForkedChild:
    """A process that trains, or goes on training, in `directory` on one thread."""
    return ForkedChild(train_or_stop, config, directory)


def finish_child(child: ForkedChild, *, limit_s: float = LIMIT_S) -> str:
    """Wait for a child to succeed; its own text is in the error if it does not."""
    try:
        out, err = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise
    if child.returncode:
        raise RuntimeError(f"training failed with {child.returncode}: {err[-2000:]}")
    return out


def train_in_child(config: TrainConfig, directory: Path) -> float:
    """Train without disturbance; return the seconds it took, start-up included."""
    started = time.monotonic()
    finish_child(start_child(config, directory))
    return time.monotonic() - started


@dataclasses.dataclass(frozen=True)
class Kill:
    """One SIGKILL: when, and in which phase the victim was, told by what it left behind."""

    delay_s: float
    phase: str
    checkpoint_step: int


def kill_at_random(
    config: TrainConfig, directory: Path, generator: random.Random, *, kills: int, seconds: float
) -> Iterator[Kill]:
    """Start the run `kills` times and kill it each time, by its own pid, at a moment drawn uniformly from its life.

    Args:
        seconds: how long an undisturbed run takes; half of it is taken for start-up and finish, which a resumed run
            has too, the other half shrinks with the steps that are left.
        kills: fewer happen if the run completes first.
    """
    for _ in range(kills):
        before = observe(directory)
        left = 1 - before["step"] / config.num_steps
        delay = generator.uniform(0.0, seconds * (1 + left) / 2)
        child = start_child(config, directory)
        try:
            finish_child(child, limit_s=delay)
            return
        except subprocess.TimeoutExpired:
            pass  # communicate's own clock ran out: finish_child has sent SIGKILL to the pid and reaped it
        assert child.returncode == -signal.SIGKILL
        after = observe(directory)
        yield Kill(delay, phase_of(before, after), after["step"])


def observe(directory: Path) -> dict[str, Any]:
    """What a run has left on disk: newest checkpoint, log bytes, torn files, files written at the end."""
    checkpoints = sorted((directory / "checkpoints").glob("step_*.pt"))
    log = directory / "log.jsonl"
    return {
        "step": int(checkpoints[-1].stem.removeprefix("step_")) if checkpoints else 0,
        "log_bytes": log.stat().st_size if log.exists() else 0,
        "partial": {str(path) for path in directory.rglob("*.partial")},
        "final": (directory / "model.pt").exists(),
    }


def phase_of(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The phase in which a kill came."""
    if after["partial"] - before["partial"]:
        return "writing a file"
    if after["final"]:
        return "finishing"
    return "start-up" if after["step"] == before["step"] and after["log_bytes"] <= before["log_bytes"] else "training"


def differences(actual: Path, expected: Path) -> list[str]:
    """What distinguishes two finished runs: weights bit by bit, files byte by byte, log records without seconds."""
    found = []
    states = [torch.load(d / "model.pt", weights_only=True) for d in (actual, expected)]
    if list(states[0]) != list(states[1]):
        found.append("names of weights")
    found += [n for n, w in states[1].items() if states[0][n].numpy().tobytes() != w.numpy().tobytes()]
    if (actual / "model.pt").read_bytes() != (expected / "model.pt").read_bytes():
        found.append("bytes of model.pt")
    texts = [(d / "log.jsonl").read_text(encoding="utf-8") for d in (actual, expected)]
    logs = [[json.loads(line) | {"seconds": 0} for line in text.splitlines()] for text in texts]
    if logs[0] != logs[1]:
        found.append("log")
    return found
