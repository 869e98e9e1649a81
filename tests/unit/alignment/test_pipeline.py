"""All phases on a toy: what is stored, what is told, and that a second start does nothing again."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from cs336_alignment.grpo_config import method_config
from cs336_alignment.pipeline import PipelineOptions, run_pipeline
from cs336_alignment.preference_training import DpoConfig
from cs336_alignment.sft import SftConfig
from cs336_alignment.tasks.splits import SplitSizes
from cs336_alignment.tasks.word_problems import WordProblems
from cs336_alignment.tour_alignment import QUICK, RESULTS, alignment_stage, smoothed
from cs336_basics.runs.stage import run_stages
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_basics.tour_tokenizers import STORIES_TOKENIZER
from cs336_basics.training import save_model
from tests.unit.alignment.tiny_task import CharTokenizer, LastDigit, tiny_model


def options_of(task, **changes) -> PipelineOptions:
    values = {
        "task": task, "sft": SftConfig(num_steps=8, batch_size=8), "dpo": DpoConfig(num_steps=2, batch_size=4),
        "grpo": method_config("grpo", num_steps=2, prompts_per_step=2, group_size=4, importance="grpo", cliprange=0.2,
                              minibatches=2, max_tokens=6),
        "pair_samples": 16, "pair_problems": 25, "validation_pairs": 2,
    }  # fmt: skip
    return PipelineOptions(**{**values, **changes})


class AnyDigit(LastDigit):
    """Right is any digit, so that an untrained model is right at times."""

    def reward(self, response, answer):
        right = float(response[:1].isdigit())
        return {"format_reward": right, "answer_reward": right, "reward": right}


def test_phases_follow_each_other(tmp_path):
    options = options_of(AnyDigit())
    results = run_pipeline(tiny_model(), CharTokenizer(), options, tmp_path, progress=False)
    assert list(results["phases"]) == ["base", "sft", "dpo", "grpo", "control"]
    answers = {n: json.loads((tmp_path / n / "answers.json").read_text()) for n in ("sft", "dpo", "grpo", "control")}
    assert answers["dpo"]["before"] == answers["sft"]["after"]
    assert answers["grpo"]["before"] == answers["control"]["before"] == answers["dpo"]["after"]
    for name, phase in results["phases"].items():
        stored = answers["sft"]["before"] if name == "base" else answers[name]["after"]
        assert phase["right"] == sum(score["answer_reward"] for score in stored)
        assert phase["interval"][0] <= phase["right"] / phase["questions"] <= phase["interval"][1]
    control = json.loads((tmp_path / "control" / "config.json").read_text())
    assert control["random_reward"] is True
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("log.jsonl")}
    again = run_pipeline(tiny_model(), CharTokenizer(), options, tmp_path, progress=False)
    assert again["phases"] == json.loads(json.dumps(results["phases"])) or again["phases"] == results["phases"]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("log.jsonl")}


def test_without_pairs_dpo_is_left_out(tmp_path):
    options = options_of(LastDigit(), validation_pairs=1000)
    results = run_pipeline(tiny_model(), CharTokenizer(), options, tmp_path, progress=False)
    assert list(results["phases"]) == ["base", "sft", "grpo", "control"]
    assert "too few" in results["dpo"]


@pytest.mark.parametrize("validation_pairs", [0, 1000])
def test_the_stage(tmp_path, validation_pairs):
    pytest.importorskip("matplotlib")
    pytest.importorskip("markdown_it")
    tokenizer = Tokenizer({i: bytes([i]) for i in range(128)}, [], ["<|endoftext|>"])
    tokenizer.save(tmp_path / STORIES_TOKENIZER)
    save_model(tiny_model(vocab_size=129, context_length=160), tmp_path / "pretraining")
    task = WordProblems(max_steps=1, largest=30, sizes=SplitSizes(sft=8, preference=8, rl=8, test=6))
    sft = SftConfig(num_steps=1, batch_size=2)
    options = dataclasses.replace(
        QUICK, device="cpu", pipeline=options_of(task, sft=sft, validation_pairs=validation_pairs)
    )
    torch.manual_seed(0)
    _, ran = run_stages([alignment_stage(options)], tmp_path, title="t", say=lambda _: None)
    assert ran == ["alignment"]
    text = (tmp_path / "report.md").read_text()
    phases = json.loads((tmp_path / RESULTS).read_text())["phases"]
    assert f"word problems after GRPO | {phases['grpo']['right'] / 6:.1%}" in text
    assert "figures/alignment-accuracy.svg" in text and "figures/alignment-mean-reward.svg" in text
    _, again = run_stages([alignment_stage(options)], tmp_path, title="t", say=lambda _: None)
    assert again == []


def test_smoothed():
    log = [{"step": 0, "accuracy": 1.0}] + [{"step": i, "x": float(i)} for i in range(1, 8)]
    assert smoothed(log, "x")[0] == (1.0, 1.0) and smoothed(log, "x")[-1] == (7.0, 5.0)
