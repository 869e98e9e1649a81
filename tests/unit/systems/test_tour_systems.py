"""The tour's stage of systems on a toy model: files, figures, and the cache's tokens."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from cs336_basics.data import write_tokens
from cs336_basics.generation import generate
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.stage import run_stages
from cs336_basics.tour_tokenizers import TRAIN_TOKENS, VALID_TOKENS
from cs336_systems.tour_checks import max_gap
from cs336_systems.tour_systems import BLOCKS, FIGURES, PARTS, QUICK, RESULTS, systems_stage

pytest.importorskip("matplotlib")
pytest.importorskip("markdown_it")
TINY = dataclasses.replace(
    QUICK, batch_size=2, repeats=1, roofline_context=4, peak_size=32, copy_bytes=1 << 12, new_tokens=50, parallel_steps=3,
    requests=3, device="cpu",
)  # fmt: skip


def test_the_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "cs336_systems.tour_systems.course_model",
        lambda name, context_length: ModelConfig(
            vocab_size=30, context_length=context_length, d_model=16, num_layers=1, num_heads=2
        ),
    )
    config = ModelConfig(
        vocab_size=40, context_length=24, d_model=16, num_layers=2, num_heads=2, attention="blocked", positions="alibi",
        canon_width=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = TransformerLM(config).eval()
    folder = tmp_path / "pretraining"
    folder.mkdir()
    torch.save(model.state_dict(), folder / "model.pt")
    (folder / "model_config.json").write_text(json.dumps(dataclasses.asdict(config)))
    generator = torch.Generator().manual_seed(1)
    for name in (TRAIN_TOKENS, VALID_TOKENS):
        write_tokens(tmp_path / name, torch.randint(40, (3_000,), generator=generator).tolist(), vocab_size=40)
    _, ran = run_stages([systems_stage(TINY)], tmp_path, title="t", say=lambda _: None)
    assert ran == ["systems"]
    results = json.loads((tmp_path / RESULTS).read_text())
    assert results.keys() == PARTS.keys() == FIGURES.keys() == BLOCKS.keys()
    assert list(results["benchmark"]["timings"]) == ["forward", "backward", "optimizer", "total"]
    assert results["generation"]["new_tokens"] == 23 and results["generation"]["same"] is True
    assert len(generate(model, torch.zeros(1, 1, dtype=torch.long), 23, temperature=0.0)[0]) == 23
    curves = results["parallel"]["curves"]
    assert [len(curve) for curve in curves.values()] == [3, 3, 3] and curves["one"][0] != curves["one"][2]
    assert max_gap(curves) < 1e-5 and max_gap(curves | {"ddp": [9.0, 9.0, 9.0]}) > 1
    assert results["kernels"]["differences"].keys() >= {"RMSNorm", "FlashAttention", "cross-entropy"}
    assert results["engine"]["same"] is True
    text = (tmp_path / "report.md").read_text()
    assert "both write the same tokens | yes | yes | pass" in text and "figures/systems-roofline.svg" in text
    _, again = run_stages([systems_stage(TINY)], tmp_path, title="t", say=lambda _: None)
    assert again == []
