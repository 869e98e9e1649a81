"""The verbs of training, run as a user runs them, on a model of a few thousand weights."""

from __future__ import annotations

import json

import pytest

from cs336_alignment.cli import find_task
from cs336_alignment.grpo_config import METHODS
from cs336_alignment.tasks.arithmetic import Arithmetic
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_basics.training import save_model
from cs336_course.cli import main

TASK = ("--task", "arithmetic", "--task-settings", "digits=1", "sizes.test=8", "sizes.sft=8", "sizes.rl=20",
        "sizes.preference=12", "--device", "cpu")  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> str:
    """A model with a tokenizer of bytes beside it, as `cs336 alignment sft` leaves them."""
    folder = tmp_path_factory.mktemp("start")
    tokenizer = Tokenizer({i: bytes([i]) for i in range(128)}, [], ["<|endoftext|>"])
    tokenizer.save(folder / "tokenizer")
    save_model(
        TransformerLM(ModelConfig(vocab_size=129, context_length=64, d_model=16, num_layers=1, num_heads=2)), folder
    )
    return str(folder)


def run(capsys, *words: str) -> dict:
    assert main(["alignment", *words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_sft_then_grpo_then_evaluation_of_the_same_questions(capsys, start, tmp_path):
    sft = run(capsys, "sft", start, *TASK, "--out", str(tmp_path / "sft"), "--num-steps", "3", "--batch-size", "4")
    assert sft["questions"] == 8 and sft["steps"] == 3
    again = run(capsys, "sft", start, *TASK, "--out", str(tmp_path / "sft"), "--num-steps", "3", "--batch-size", "4")
    assert again == sft, "a complete run is not done again"
    out = tmp_path / "grpo"
    found = run(
        capsys, "grpo", str(tmp_path / "sft"), *TASK, "--out", str(out), "--num-steps", "2", "--prompts-per-step", "2",
        "--group-size", "2", "--max-tokens", "3", "--method", "dapo",
    )  # fmt: skip
    assert found["accuracy_before"] == sft["accuracy_after"]
    config = json.loads((out / "config.json").read_text())["run"]
    assert config["loss_normalization"] == "token" and config["cliprange_high"] == 0.28 and config["num_steps"] == 2
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert samples and {"prompt", "response", "answer", "reward"} <= set(samples[0])
    assert TransformerLM.from_pretrained(out).config.d_model == 16
    assert main(["generate", str(out), "--prompt", "1 + 1", "--max-new-tokens", "2", "--device", "cpu"]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ("ppo", "--num-steps", "1", "--prompts-per-step", "4", "--max-tokens", "3"),
        ("sft", "--num-steps", "1", "--packed", "16", "--batch-size", "2"),
    ],
    ids=lambda words: words[0],
)
def test_other_trainers(capsys, start, tmp_path, words):
    assert run(capsys, words[0], start, *words[1:], *TASK, "--out", str(tmp_path / "run"))["steps"] == 1


def test_sft_on_a_file(capsys, start, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n' * 4)
    run(capsys, "sft", start, *TASK, "--data", str(path), "--out", str(tmp_path / "run"), "--num-steps", "1")
    path.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"\n')
    code = main(["alignment", "sft", start, *TASK, "--data", str(path), "--out", str(tmp_path / "other")])
    assert code == 1 and "pairs.jsonl, line 2" in capsys.readouterr().err


def test_dpo_and_reward_model_on_hh(capsys, start, tmp_path):
    path = tmp_path / "hh.jsonl"
    turn = "\n\nHuman: hi {}\n\nAssistant: {}"
    path.write_text("".join(
        json.dumps({"chosen": turn.format(i, "good"), "rejected": turn.format(i, "bad")}) + "\n" for i in range(6)
    ))  # fmt: skip
    for verb in ("dpo", "reward-model"):
        found = run(
            capsys, verb, start, *TASK, "--hh", str(path), "--validation-pairs", "2", "--num-steps", "2",
            "--batch-size", "2", "--out", str(tmp_path / verb),
        )  # fmt: skip
        assert found["num_pairs"] == 4 and "validation_preference_accuracy" in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("grpo", "/nowhere", "--out", "x"), "no model in /nowhere"),
        (("grpo", "START", "--out", "x", "--minibatches", "2"), "off policy"),
        (("sft", "START", "--out", "x", "--task", "algebra"), "task must be one of"),
        (("sft", "START", "--out", "x", "--task-settings", "steps=3"), "unknown config key steps"),
        (("dpo", "START", "--out", "x", "--hh", "nothing.jsonl"), "nothing.jsonl"),
        (("sft", "START", "--out", "x", "--sampler", "huggingface"), "does not fit"),
    ],
)
def test_errors_are_one_line(capsys, start, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["alignment", *[start if word == "START" else word for word in words]]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize("verb", ["sft", "dpo", "grpo", "ppo", "expert-iteration", "reward-model"])
def test_help(capsys, verb):
    assert main(["alignment", verb, "--help"]) == 0
    assert f"cs336 alignment {verb} runs/" in capsys.readouterr().out


def test_every_method_is_a_valid_config():
    from cs336_alignment.grpo_config import method_config

    for name in METHODS:
        assert method_config(name).num_steps == 200
    with pytest.raises(ValueError, match="method must be one of"):
        method_config("grpo2")


def test_find_task():
    assert find_task("arithmetic", ("digits=3",)) == Arithmetic(digits=3)
    posed = find_task("arithmetic", (), "r1_zero")
    example = posed.examples("sft", 0)[0]
    assert example.prompt.endswith("Assistant: <think>") and posed.stop == ("</answer>",)
    assert posed.reward(example.response, example.answer)["reward"] == 1
    boxed = find_task("arithmetic", (), "question_only")
    example = boxed.examples("sft", 0)[0]
    assert boxed.reward(example.response, example.answer)["reward"] == 1 and boxed.stop == ()


def test_question_files(tmp_path):
    (tmp_path / "test.jsonl").write_text('{"problem": "1/2?", "solution": "so \\\\boxed{\\\\frac{1}{2}}"}\n')
    (tmp_path / "train.jsonl").write_text("".join(f'{{"question": "q{i}", "answer": "{i}"}}\n' for i in range(20)))
    task = find_task("questions", (f"folder={tmp_path}",))
    assert task.examples("test", 0)[0].answer == r"\frac{1}{2}"
    counts = [len(task.examples(split, 0)) for split in ("sft", "preference", "rl")]
    assert counts == [2, 2, 16]
    (tmp_path / "test.jsonl").write_text('{"problem": "1/2?"}\n')
    with pytest.raises(ValueError, match="line 1 needs"):
        task.examples("test", 0)
