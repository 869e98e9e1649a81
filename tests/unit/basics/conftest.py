"""A tiny corpus as token files and a training configuration that takes a second, shared by the tests of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cs336_basics.data import write_tokens
from cs336_basics.model_config import ModelConfig
from cs336_basics.tokenization import Tokenizer
from cs336_basics.training_config import OptimizerConfig, TrainConfig

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


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny corpus; nobody writes into it."""
    folder = tmp_path_factory.mktemp("corpus")
    write_tiny_corpus(folder)
    return folder


@pytest.fixture
def make_config(corpus: Path) -> Callable[..., TrainConfig]:
    """The tiny configuration with changes."""
    return lambda **changes: tiny_config(corpus, **changes)


@pytest.fixture
def tokens(corpus: Path) -> np.ndarray:
    """The training tokens, read without the library."""
    return np.fromfile(corpus / "train.bin", dtype="<u2").astype(np.int64)
