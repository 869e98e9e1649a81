"""Every shipped config: loads, has the shape it is named for, and trains.

The shapes are checked at full size on the meta device, which holds no numbers. The two CPU steps are made with a shrunk
copy of each config (a narrow model of one layer, small batches, short context) on random tokens.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import cs336_basics
from cs336_basics.data import write_tokens
from cs336_basics.model import TransformerLM
from cs336_basics.runs.config import load_config
from cs336_basics.training import train
from cs336_basics.training_config import TrainConfig

CONFIGS = sorted((Path(cs336_basics.__file__).parent / "configs").glob("*.toml"))
PARAMETERS = {  # as the handout counts them, but for the last three
    "gpt2-small": 162_148_608, "gpt2-medium": 406_539_264, "gpt2-large": 833_591_040, "gpt2-xl": 1_640_452_800,
    "tinystories": 22_696_448, "owt": 22_696_448 + 2 * 22_000 * 512,
    "qwen2.5-0.5b": 494_032_768,  # as Hugging Face's checkpoint has them
    "nanochat-2025-d20": 2 * 65_536 * 1280 + 12 * 20 * 1280**2,  # 561 M
    "nanochat-d12": 2 * 32_768 * 768 + 12 * 12 * 768**2 + 6 * (32_768 * 768 + 12 * 6) + 2 * 12 + 24 + 1 + 1,
}  # fmt: skip


def test_the_configs_are_there():
    assert {path.stem for path in CONFIGS} >= {*PARAMETERS, "stories-one-hour"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shape(path):
    config = load_config(TrainConfig, path)
    model = TransformerLM(config.model, device="meta")
    expected = PARAMETERS.get(path.stem)
    assert expected is None or model.get_num_params() == expected


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps(path, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train", "valid"):
        write_tokens(tmp_path / f"{name}.bin", rng.integers(0, 50, 400).tolist(), vocab_size=50)
    shrunk = {
        "model.vocab_size": 50, "model.context_length": 8, "model.d_model": 16, "model.num_layers": 1,
        "model.num_heads": 2, "model.d_ff": 16, "model.num_kv_heads": "none",
        "batch_size": 2, "gradient_accumulation": 2, "num_steps": 2,
        "optimizer.warmup_steps": 1, "train_tokens": tmp_path / "train.bin", "valid_tokens": tmp_path / "valid.bin",
        "tokenizer": "none", "sample_tokens": 0, "eval_by": "windows", "windows": "anywhere", "device": "cpu",
    }  # fmt: skip
    config = load_config(TrainConfig, path, overrides=[f"{name}={value}" for name, value in shrunk.items()])
    summary = train(config, tmp_path / "run", progress=False)
    assert summary["steps"] == 2
    assert summary["tokens"] == 2 * 2 * 2 * 8
    assert math.log(50) - 1 < summary["validation_loss"] < math.log(50) + 2  # untrained: near a uniform guess
