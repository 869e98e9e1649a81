"""Variants from the command line: flags and TOML tables reach the model that is trained, saved and used again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cs336_basics.data import write_tokens
from cs336_basics.model import TransformerLM
from cs336_basics.variants.configs import LatentAttentionConfig, RopeScaling
from cs336_course.cli import main

SMALL = (
    "--model.vocab-size=50 --model.context-length=8 --model.d-model=16 --model.num-layers=2 --model.num-heads=2 "
    "--batch-size=2 --num-steps=2 --optimizer.warmup-steps=1 --device=cpu --json"
)


@pytest.fixture
def tokens(tmp_path) -> list[str]:
    rng = np.random.default_rng(0)
    for name in ("train", "valid"):
        write_tokens(tmp_path / f"{name}.bin", rng.integers(0, 50, 400).tolist(), vocab_size=50)
    return [f"--train-tokens={tmp_path / 'train.bin'}", f"--valid-tokens={tmp_path / 'valid.bin'}"]


def test_flags_of_optional_parts_choose_them(tmp_path, tokens, capsys) -> None:
    given = "--model.latent-attention.kv-rank 6 --model.rope_scaling.kind linear --model.rope_scaling.factor 2"
    assert main(["train", f"--out={tmp_path / 'run'}", *tokens, *SMALL.split(), *given.split()]) == 0
    capsys.readouterr()
    config = TransformerLM.from_pretrained(tmp_path / "run").config
    assert config.latent_attention == LatentAttentionConfig(kv_rank=6)
    assert config.rope_scaling == RopeScaling("linear", 2.0) and config.moe is None
    assert main(["model", "info", str(tmp_path / "run"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["parameters"] == TransformerLM.from_pretrained(tmp_path / "run").get_num_params()
    assert "latent" in printed["not counted"]


def test_tables_of_a_file_choose_them_and_flags_adjust_them(tmp_path, tokens, capsys) -> None:
    text = """
[model]
vocab_size = 50
mixers = ["window", "attention"]
attention_window = 3
num_kv_heads = 1
[model.rope_scaling]
"""
    (tmp_path / "window.toml").write_text(text, encoding="utf-8")
    given = [f"--config={tmp_path / 'window.toml'}", *SMALL.split(), "--model.attention-window=4"]
    assert main(["train", f"--out={tmp_path / 'run'}", *tokens, *given]) == 0
    capsys.readouterr()
    config = TransformerLM.from_pretrained(tmp_path / "run").config
    assert config.mixers == ("window", "attention") and config.attention_window == 4
    assert config.rope_scaling == RopeScaling(), "an empty table stands for its defaults"
