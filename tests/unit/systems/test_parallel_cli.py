"""`cs336 train` with the options of this package: what a file may say, and what is refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cs336_course.cli import main
from tests.unit.basics.tiny_run import tiny_config

FILE = """
[parallel]
offload_optimizer = true
activation_checkpointing = "all"
strategy = "single"
"""


def arguments(corpus: Path, out: Path, *more: str) -> list[str]:
    """A tiny run on the command line."""
    config = tiny_config(corpus)
    return [
        *("train", "--out", str(out), "--device", "cpu", "--num-steps", "2", "--eval-every", "2", "--batch-size", "2"),
        *("--optimizer.warmup-steps", "1"),
        *("--train-tokens", str(config.train_tokens), "--valid-tokens", str(config.valid_tokens)),
        *("--model.vocab-size", "258", "--model.context-length", "16", "--model.d-model", "16"),
        *("--model.num-layers", "2", "--model.num-heads", "2", "--model.d-ff", "32", *more),
    ]


def test_a_table_of_the_config_file_and_flags_over_it(corpus, tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text(FILE)
    losses = []
    for name, more in (("file", ["--config", str(file)]), ("plain", [])):
        assert main(arguments(corpus, tmp_path / name, "--json", *more)) == 0
        losses.append(json.loads(capsys.readouterr().out)["validation_loss"])
    assert losses[0] == losses[1]
    assert main(arguments(corpus, tmp_path / "ddp", "--config", str(file), "--strategy", "ddp")) == 1
    assert "started by torchrun" in capsys.readouterr().err
    file.write_text(FILE.replace("offload_optimizer", "offload_optimiser"))
    assert main(arguments(corpus, tmp_path / "typo", "--config", str(file))) == 1
    assert "offload_optimizer" in capsys.readouterr().err


def test_processes_that_nobody_told_how_to_share(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(arguments(corpus, tmp_path / "run")) == 1
    assert "torchrun has started 2 processes; choose --strategy ddp-naive" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--strategy", "pipeline"], "micro_batches=4 cannot be cut from batch_size=2"),
        (["--strategy", "tensor", "--chunked-loss", "8"], "unset chunked_loss"),
        (["--activation-checkpointing", "2", "--compile"], "activation checkpointing cannot be compiled"),
    ],
)
def test_contradictions_are_told_at_once(corpus, tmp_path, capsys, more, message):
    assert main(arguments(corpus, tmp_path / "run", *more)) == 1
    assert message in capsys.readouterr().err
