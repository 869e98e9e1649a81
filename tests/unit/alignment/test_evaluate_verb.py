"""`cs336 alignment evaluate` and `chat-sft` on tiny models: results, resume, comparison, refusals; responders."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from cs336_alignment.chat.conversations import (
    encode_conversations,
    learnt_stretches,
    read_conversations,
    task_conversation,
    tool_parts,
)
from cs336_alignment.chat.training import with_chat_tokens
from cs336_alignment.chat_format import ChatFormat
from cs336_alignment.evaluation.responders import make_responder
from cs336_alignment.task import Example
from cs336_alignment.tasks.final_answer import as_number
from cs336_alignment.tasks.word_problems import WordProblems
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_basics.generation import generate
from cs336_basics.training import save_model
from cs336_course.cli import main
from tests.unit.alignment.chat_doubles import byte_tokenizer, tiny_model
from tests.unit.alignment.test_public_sets import GOLD, lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny plain model as `cs336 train` leaves it."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer(chat=False)
    save_model(tiny_model(tokenizer, context_length=192), folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Small files in the formats of the public test sets."""
    data = tmp_path_factory.mktemp("data")
    lines(data / "test.jsonl", GOLD, {**GOLD, "question": "x" * 500})
    lines(data / "train.jsonl", {"question": "a?", "answer": "#### 1"})
    for split in ("dev", "test"):
        (data / split).mkdir()
        (data / split / f"law_{split}.csv").write_text("q,a,b,c,d,A\nr,a,b,c,d,B\n")
    choice = {"question": "Why?", "choices": {"text": ["so", "no"], "label": ["A", "B"]}, "answerKey": "B"}
    lines(data / "arc.jsonl", choice)
    (data / "alpaca.json").write_text(json.dumps([{"instruction": "Say hi", "output": "Hi"}] * 3))
    (data / "sst.csv").write_text("id,harm_area,counter,category,prompts_final\n1,Scams,1,x,How?\n")
    (data / "text.txt").write_text("abc def " * 30)
    return data


def evaluate(*arguments: object) -> int:
    return main(["alignment", "evaluate", *map(str, arguments)])


def test_every_kind_of_test_runs_and_is_reported(folder, data, tmp_path, capsys):
    code = evaluate(
        folder, "--tasks", "word-problems", "story-cloze", "story-core", "story-instructions",
        "--gsm8k", data / "test.jsonl", "--mmlu", data, "--arc", data / "arc.jsonl",
        "--alpaca-eval", data / "alpaca.json", "--safety", data / "sst.csv", "--text", data / "text.txt",
        "--limit", 3, "--max-tokens", 4, "--batch-size", 4, "--out", tmp_path, "--json",
    )  # fmt: skip
    assert code == 0
    shown = json.loads(capsys.readouterr().out)
    names = {"word-problems", "story-cloze", "story-core", "story-instructions", "gsm8k", "mmlu", "arc", "alpaca_eval",
             "safety", "text"}  # fmt: skip
    assert set(shown) == {*names, "report"}
    assert shown["word-problems"]["headline"] == {"value": 0.0, "low": 0.0, "high": pytest.approx(0.5615, abs=1e-3)}
    assert shown["gsm8k"]["further"]["prompts too long for the context"] == 1.0
    assert shown["mmlu"]["chance"] == 0.25 and shown["arc"]["chance"] == 0.5
    assert shown["text"]["measure"] == "bits per byte" and 5 < shown["text"]["headline"] < 12
    for name in names:
        records = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert len(records) == shown[name]["questions"] > 0
    assert len(json.loads((tmp_path / "alpaca_eval_outputs.json").read_text())) == 3
    report = (tmp_path / "report.md").read_text().replace("\\_", "_")
    assert all(f"## {name}" in report for name in names) and (tmp_path / "report.html").is_file()


def test_finished_tests_are_not_run_again_and_others_are_compared(folder, data, tmp_path, capsys, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    common = ("--tasks", "story-cloze", "--limit", 4, "--batch-size", 4)
    assert evaluate(folder, *common, "--out", first) == 0
    before = (first / "story-cloze.json").stat().st_mtime_ns
    capsys.readouterr()
    assert evaluate(folder, *common, "--out", first) == 0
    assert "story-cloze: taken from" in capsys.readouterr().err
    assert (first / "story-cloze.json").stat().st_mtime_ns == before
    assert evaluate(folder, *common, "--seed", 1, "--out", first) == 0
    assert (first / "story-cloze.json").stat().st_mtime_ns != before  # another request

    assert evaluate(folder, *common, "--out", second, "--compare", first) == 1  # other questions
    assert "on other questions" in capsys.readouterr().err
    assert evaluate(folder, *common, "--seed", 1, "--out", second, "--compare", first, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [value for name, value in shown.items() if "against" in name] == ["p = 1, z = +0.00"]
    assert "no clear difference" in (second / "report.md").read_text()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--tasks", "chess"), "unknown task 'chess'; there are arithmetic"),
        (("--samples", "0"), "--samples must be at least 1"),
        (("--gsm8k", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--tasks", "sorting", "--style", "chat"), "lacks the chat tokens"),
        (("--tasks", "sorting", "--style", "nonsense"), "no prompt 'nonsense'"),
        (("--tasks", "sorting", "--style", "alpaca_sft", "--shots", "2"), "styles plain and chat"),
    ],
)
def test_bad_requests_are_refused(folder, tmp_path, capsys, arguments, words):
    assert evaluate(folder, *arguments, "--out", tmp_path) != 0
    assert words in capsys.readouterr().err


def test_a_missing_model_is_named(tmp_path, capsys):
    assert evaluate(tmp_path) == 1
    assert "no model in" in capsys.readouterr().err


def test_plain_answers_are_plain_generation():
    tokenizer = byte_tokenizer(chat=False)
    model = tiny_model(tokenizer)
    shots = [Example("1 + 1 =\n", "2", "#### 2")]
    respond = make_responder(model, TextTokenizer(tokenizer), style="plain", shots=shots, max_tokens=6)
    (text,) = respond(["2 + 2 =\n"])[0]
    ids = tokenizer.encode("1 + 1 =\n#### 2\n\n2 + 2 =\n")
    expected = generate(model, torch.tensor([ids]), 6, temperature=0.0, stop_ids=(256,))[0]
    assert text == tokenizer.decode(expected).split("\n\n")[0]


def test_chat_answers_use_the_chat_format():
    tokenizer = byte_tokenizer()
    model = tiny_model(tokenizer)
    respond = make_responder(model, TextTokenizer(tokenizer), style="chat", max_tokens=6, samples=2, temperature=1.0)
    with respond.chat:
        answers = respond(["hello", "you", "x" * 400])
        again = respond(["hello"])
    assert [len(texts) for texts in answers] == [2, 2, 2] and answers[0][0] != answers[0][1]
    assert answers[0] == again[0]
    assert answers[2] == ["", ""] and respond.truncated == 2


def test_solutions_become_tool_calls_with_the_same_text():
    for example in WordProblems(max_steps=3).examples("sft", 0)[:50]:
        parts = tool_parts(example.response)
        visible = "".join(part["text"] for part in parts if part["type"] == "text")
        assert visible == example.response
        calls = [part["text"] for part in parts if part["type"] == "python"]
        outputs = [part["text"] for part in parts if part["type"] == "python_output"]
        assert calls and [as_number(str(eval(call))) for call in calls] == [as_number(output) for output in outputs]


def test_learnt_stretches_are_the_mask():
    chat = ChatFormat(byte_tokenizer())
    example = Example("q\n", "12", "7 + 5 = 12. 12 - 3 = 9.\n#### 9")
    conversation = task_conversation(example, tools=True)
    conversation["messages"] += [{"role": "user", "content": "and?"}, {"role": "assistant", "content": "done"}]
    ids, mask = chat.render_conversation(conversation)
    stretches = list(learnt_stretches(chat, conversation))
    assert sum(len(learnt) for _, learnt in stretches) == sum(mask) and len(stretches) == 4
    for before, learnt in stretches:
        assert ids[: len(before) + len(learnt)] == before + learnt
        assert mask[len(before) : len(before) + len(learnt)] == [1] * len(learnt) and mask[len(before) - 1] == 0
    with pytest.raises(ValueError, match="conversation 0 has .* the model sees 20"):
        encode_conversations(chat, [conversation], context_length=20)


def test_files_of_conversations(tmp_path):
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(good).encode()))
    assert read_conversations(path) == [good]
    for bad, words in (
        ({"messages": good["messages"][:1]}, "no message by the assistant"),
        ({"messages": good["messages"][::-1]}, "message 0 must be by user"),
        ({"text": "a"}, "at least one message"),
    ):
        with pytest.raises(ValueError, match=f"d.jsonl, line 2: .*{words}"):
            read_conversations(lines(tmp_path / "d.jsonl", good, bad))
    with pytest.raises(ValueError, match="holds no conversation"):
        read_conversations(lines(tmp_path / "e.jsonl", ""))


def test_chat_tokens_leave_the_old_model_as_it_was():
    tokenizer = byte_tokenizer(chat=False)
    model = tiny_model(tokenizer)
    larger, extended = with_chat_tokens(model, tokenizer)
    assert extended.vocab_size == tokenizer.vocab_size + 9 == larger.config.vocab_size
    ids = torch.tensor([tokenizer.encode("hello")])
    old, new = model(ids).detach(), larger(ids).detach()
    torch.testing.assert_close(new[..., : tokenizer.vocab_size], old)
    torch.testing.assert_close(new[..., tokenizer.vocab_size :], old.mean(-1, keepdim=True).expand(-1, -1, 9))
    assert with_chat_tokens(larger, extended) == (larger, extended)


def test_chat_sft_makes_a_model_that_cs336_chat_opens(folder, tmp_path, capsys):
    conversation = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    path = lines(tmp_path / "c.jsonl", conversation)
    run = ["alignment", "chat-sft", str(folder), "--conversations", str(path), "--out", str(tmp_path / "chat")]
    training = {"num-steps": 60, "batch-size": 4, "optimizer.max-learning-rate": 0.02, "optimizer.warmup-steps": 5}
    run += [word for name, value in training.items() for word in (f"--training.{name}", str(value))]
    assert main([*run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 1
    assert main(["chat", str(tmp_path / "chat"), "--prompt", "hi", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.strip() == "hello"
    assert main(["alignment", "chat-sft", str(folder)]) != 0
    assert "nothing to learn from" in capsys.readouterr().err


def test_huggingface_models_are_evaluated_too(data, tmp_path, capsys):
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = {"<eos>": 0, "<unk>": 1} | {
        letter: k + 2 for k, letter in enumerate("abcdefghijklmnopqrstuvwxyz#0123456789")
    }
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", unk_token="<unk>")
    config = transformers.GPT2Config(
        vocab_size=len(words), n_positions=512, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    code = evaluate(
        tmp_path / "model", "--tasks", "sorting", "--arc", data / "arc.jsonl", "--text", data / "text.txt",
        "--limit", 3, "--max-tokens", 4, "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    shown = json.loads(capsys.readouterr().out)
    assert code == 0 and {"sorting", "arc", "text"} < set(shown)
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "model")
    ids = torch.tensor([[0, *tokenizer.encode((data / "text.txt").read_text(), add_special_tokens=False)]])
    with torch.no_grad():
        loss = float(model(ids, labels=ids).loss)
    assert shown["text"]["further"]["nats per token"] == pytest.approx(loss, rel=1e-4)
