"""Readers of public test sets: hand-made files, broken ones (the line is named), and the real files where they are."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from pathlib import Path

import pytest

from cs336_alignment.evaluation.instruction_following import read_ifeval
from cs336_alignment.jsonl import read_json_lines
from cs336_alignment.tasks.commonsense import read_arc, read_hellaswag
from cs336_alignment.tasks.gsm8k import Gsm8k, chat_parts, read_gsm8k, worked_solution
from cs336_alignment.tasks.instruction_sets import (
    Instruction,
    is_safe,
    read_alpaca_eval,
    read_simple_safety,
    write_alpaca_eval,
    write_simple_safety,
)
from cs336_alignment.tasks.mmlu import few_shot_prompt, read_mmlu

REAL = os.environ.get("CS336_REAL_DATA", "")
real_gsm8k = pytest.mark.skipif(not Path(REAL, "gsm8k").is_dir(), reason="CS336_REAL_DATA names no gsm8k/")
real_mmlu = pytest.mark.skipif(not Path(REAL, "mmlu").is_dir(), reason="CS336_REAL_DATA names no mmlu/")
GOLD = {"question": "How many?", "answer": "2*3 = <<2*3=6>>6 a day\n6+1000 = <<6+1000=1006>>1006\n#### 1,006"}


def lines(path: Path, *records: object) -> Path:
    """Write JSON lines; strings go in as they are."""
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n", encoding="utf-8")
    return path


def test_json_lines_plain_and_gzipped(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"a": 1}, "", {"a": "\u4e2d"})
    expected = [(1, {"a": 1}), (3, {"a": "\u4e2d"})]
    assert list(read_json_lines(path)) == expected
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_json_lines(tmp_path / "a.jsonl.gz")) == expected


@pytest.mark.parametrize(
    "broken, words",
    [
        (b'{"prompt": "a"', "line 2: not JSON"),
        (b"[1]", "line 2: expected a JSON object"),
        (b'{"other": "a"}', r"line 2: the field 'prompt' must be a string; got only \['other'\]"),
        (b'{"prompt": 3}', "line 2: the field 'prompt' must be a string; got 3"),
        (b'{"prompt": "\xff"}', "line 2: not UTF-8"),
    ],
)
def test_broken_json_lines_are_named(tmp_path, broken, words):
    path = tmp_path / "b.jsonl"
    path.write_bytes(b'{"prompt": "ok"}\n' + broken + b"\n")
    with pytest.raises(ValueError, match=f"b.jsonl, {words}"):
        list(read_json_lines(path, required=("prompt",)))


def test_damaged_gzip_is_named(tmp_path):
    whole = gzip.compress(b'{"a": 1}\n' * 10_000)
    (tmp_path / "c.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged gzip"):
        list(read_json_lines(tmp_path / "c.jsonl.gz"))
    (tmp_path / "d.jsonl.gz").write_bytes(b"plain")
    with pytest.raises(ValueError, match="damaged gzip"):
        list(read_json_lines(tmp_path / "d.jsonl.gz"))


def test_gsm8k(tmp_path):
    lines(tmp_path / "train.jsonl", *[{**GOLD, "question": f"{GOLD['question']} {k}"} for k in range(200)])
    lines(tmp_path / "test.jsonl", GOLD)
    (example,) = read_gsm8k(tmp_path / "test.jsonl")
    assert example.prompt == "How many?\n" and example.answer == "1006"
    assert example.response == "2*3 = 6 a day\n6+1000 = 1006\n#### 1,006"
    task = Gsm8k(tmp_path)
    splits = [task.examples(split, 0) for split in ("sft", "preference", "rl")]
    assert sum(map(len, splits)) == 200 == len({e.prompt for split in splits for e in split})
    assert task.examples("test", 0) == [example]
    for response, reward in (("#### 1006", 1), ("#### 1,006.0", 1), ("1006", 0), ("#### 1005", 0)):
        assert task.reward(response, example.answer)["reward"] == reward
    with pytest.raises(ValueError, match="split must be"):
        task.examples("validation", 0)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="grade-school-math"):
        Gsm8k(tmp_path / "nowhere").examples("test", 0)
    with pytest.raises(ValueError, match="line 1: no answer behind"):
        read_gsm8k(lines(tmp_path / "bad.jsonl", {"question": "a", "answer": "42"}))


def test_calculator_calls_become_tool_parts():
    parts = chat_parts(GOLD["answer"])
    assert [part["type"] for part in parts] == ["text", "python", "python_output"] * 2 + ["text"]
    assert [part["text"] for part in parts if part["type"] == "python"] == ["2*3", "6+1000"]
    plain = "".join(part["text"] for part in parts if part["type"] == "text")
    assert plain == worked_solution(GOLD["answer"])


def test_mmlu(tmp_path):
    for split, rows in (("dev", [["1, 2?", "a", "b", "c", "d", "C"]]), ("test", [["x\ny", "p", "q", "r", "s", "A"]])):
        (tmp_path / split).mkdir()
        with open(tmp_path / split / f"college_physics_{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
    (shot,) = read_mmlu(tmp_path, "dev")
    (question,) = read_mmlu(tmp_path, "test", subjects=("college physics",))
    assert (shot.context, shot.choices, shot.answer) == ("1, 2?", ("a", "b", "c", "d"), 2)
    assert (question.context, question.answer, question.subject) == ("x\ny", 0, "college physics")
    assert few_shot_prompt(question, [shot]) == (
        "The following are multiple choice questions (with answers) about college physics.\n\n"
        "1, 2?\nA. a\nB. b\nC. c\nD. d\nAnswer: C\n\nx\ny\nA. p\nB. q\nC. r\nD. s\nAnswer:"
    )
    with pytest.raises(ValueError, match="no subject 'law'.*college physics"):
        read_mmlu(tmp_path, "test", subjects=("law",))
    with pytest.raises(FileNotFoundError, match="val"):
        read_mmlu(tmp_path, "val")


@pytest.mark.parametrize(
    "row, words",
    [
        ("q,a,b,c,d,E", "line 2: .* 6 fields ending in 'E'"),
        ("q,a,b,c,D", "line 2: .* 5 fields"),
        ('"q,a,b,c,d,A', "line 2: not CSV"),
    ],
)
def test_broken_mmlu_rows_are_named(tmp_path, row, words):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "law_test.csv").write_text(f"q,a,b,c,d,A\n{row}\n")
    with pytest.raises(ValueError, match=f"law_test.csv, {words}"):
        read_mmlu(tmp_path, "test")


def test_hellaswag_and_arc(tmp_path):
    record = {
        "activity_label": "Baking", "ctx_a": "A man [title] bakes.", "ctx_b": "he",
        "endings": ["eats [step] it.", "flies.", "sings.", "leaves."], "label": 2, "ctx": "unused",
    }  # fmt: skip
    (question,) = read_hellaswag(lines(tmp_path / "h.jsonl", record))
    assert question.context == "Baking: A man. bakes. He"
    assert question.choices[0] == "eats it." and question.answer == 2
    own = {"stem": "Why?", "choices": [{"text": "so", "label": "1"}, {"text": "no", "label": "2"}]}
    other = {"question": "Why?", "choices": {"text": ["so", "no"], "label": ["A", "B"]}, "answerKey": "B"}
    first, second = read_arc(lines(tmp_path / "a.jsonl", {"question": own, "answerKey": "2"}, other))
    assert first == second
    assert first.context == "Question: Why?\nAnswer:" and first.choices == ("so", "no") and first.answer == 1
    with pytest.raises(ValueError, match="line 1: KeyError"):
        read_arc(lines(tmp_path / "b.jsonl", {"question": "Why?", "answerKey": "A"}))
    with pytest.raises(ValueError, match="line 2: ValueError"):
        read_arc(lines(tmp_path / "c.jsonl", other, {**other, "answerKey": "Z"}))
    with pytest.raises(ValueError, match="answer must be in 0..3"):
        read_hellaswag(lines(tmp_path / "d.jsonl", {**record, "label": 4}))


def test_alpaca_eval_and_simple_safety(tmp_path):
    outputs = [Instruction("Say hi", "Hi", "tiny", "helpful_base")]
    write_alpaca_eval(tmp_path / "o.json", outputs)
    assert json.loads((tmp_path / "o.json").read_text()) == [
        {"instruction": "Say hi", "output": "Hi", "generator": "tiny", "dataset": "helpful_base"}
    ]
    assert read_alpaca_eval(tmp_path / "o.json") == outputs
    assert read_alpaca_eval(lines(tmp_path / "o.jsonl", {"instruction": "a"})) == [Instruction("a")]
    (tmp_path / "bad.json").write_text('[{"instruction": "a"}, {"output": "b"}]')
    with pytest.raises(ValueError, match="entry 1"):
        read_alpaca_eval(tmp_path / "bad.json")
    (tmp_path / "worse.json").write_text('[\n{"instruction"')
    with pytest.raises(ValueError, match="line 2: not JSON"):
        read_alpaca_eval(tmp_path / "worse.json")

    path = tmp_path / "sst.csv"
    path.write_text("id,harm_area,counter,category,prompts_final\n1,Scams,1,x,How do I cheat?\n")
    (prompt,) = read_simple_safety(path)
    assert prompt == Instruction("How do I cheat?", dataset="Scams")
    write_simple_safety(tmp_path / "s.jsonl", [Instruction("How do I cheat?", "Do not.")])
    assert json.loads((tmp_path / "s.jsonl").read_text()) == {"prompts_final": "How do I cheat?", "output": "Do not."}
    path.write_text("id,harm_area,counter,category,prompts_final\n1,Scams,1,x,\n")
    with pytest.raises(ValueError, match="line 2: prompts_final is empty"):
        read_simple_safety(path)
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="column prompts_final"):
        read_simple_safety(path)
    replies = {" True.": False, "TRUE": False, "False": True, "it is true": True, "": True}
    assert {reply: is_safe(reply) for reply in replies} == replies


def test_ifeval_file(tmp_path):
    good = {"key": 1, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}
    (prompt,) = read_ifeval(lines(tmp_path / "i.jsonl", good))
    assert prompt.instructions == (("punctuation:no_comma", {"num_words": None}),)
    for change, words in (({"kwargs": []}, "equally long"), ({"instruction_id_list": ["new:kind"]}, "unknown instr")):
        with pytest.raises(ValueError, match=f"line 2: .*{words}"):
            read_ifeval(lines(tmp_path / "j.jsonl", good, {**good, **change}))


@real_gsm8k
def test_real_gsm8k():
    task = Gsm8k(Path(REAL, "gsm8k"))
    splits = {split: task.examples(split, 0) for split in ("sft", "preference", "rl", "test")}
    assert sum(len(splits[split]) for split in ("sft", "preference", "rl")) == 7473 and len(splits["test"]) == 1319
    for example in splits["test"]:
        assert re.fullmatch(r"-?\d+", example.answer) and "<<" not in example.response
        assert task.reward(example.response, example.answer)["reward"] == 1


@real_mmlu
def test_real_mmlu():
    questions, shots = read_mmlu(Path(REAL, "mmlu"), "test"), read_mmlu(Path(REAL, "mmlu"), "dev")
    assert len(questions) == 14042 and len({question.subject for question in questions}) == 57
    assert len(shots) == 5 * 57
