"""GSM8K: grade-school word problems with worked answers, from the files train.jsonl and test.jsonl.

    {"question": "...", "answer": "48/2 = <<48/2=24>>24 clips ...\\n#### 72"}

The double brackets are calls of a calculator that the authors wrote into the answers. `worked_solution` drops them for
plain text; `chat_parts` turns them into tool calls and their output for `chat_format.py`.

Source: Cobbe et al. 2021. Files: github.com/openai/grade-school-math. Handout: gsm8k_baseline, grpo_experiments. Read
next: `mmlu.py`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cs336_alignment.jsonl import read_json_lines
from cs336_alignment.task import Example, Split
from cs336_alignment.tasks.final_answer import final_answer, judge, same_number
from cs336_alignment.tasks.splits import split_of

_CALL = re.compile(r"<<([^<>=]*)=([^<>]*)>>")


def read_gsm8k(path: str | os.PathLike[str]) -> list[Example]:
    """The problems of a file.

    Returns:
        `prompt` is the question and a line feed, `answer` the number behind `####` without commas, `response` the
        worked solution without calculator calls.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a broken line or an answer without `####`; the line is named.
    """
    examples = []
    for number, record in read_json_lines(path, required=("question", "answer")):
        answer = final_answer(record["answer"])
        if answer is None:
            raise ValueError(f"{path}, line {number}: no answer behind '####' in {record['answer'][-60:]!r}")
        prompt = f"{record['question'].strip()}\n"
        examples.append(Example(prompt, answer.replace(",", ""), worked_solution(record["answer"])))
    return examples


def worked_solution(answer: str) -> str:
    """The answer as plain text: `48/2 = <<48/2=24>>24 clips` becomes `48/2 = 24 clips`."""
    return _CALL.sub("", answer).strip()


def chat_parts(answer: str) -> list[dict[str, str]]:
    """The answer as parts of an assistant message, each calculator call a tool call.

    >>> chat_parts("48/2 = <<48/2=24>>24 clips")[1:3]
    [{'type': 'python', 'text': '48/2'}, {'type': 'python_output', 'text': '24'}]
    """
    parts: list[dict[str, str]] = []
    done = 0
    for call in _CALL.finditer(answer):
        if call.start() > done:
            parts.append({"type": "text", "text": answer[done : call.start()]})
        parts.append({"type": "python", "text": call[1].strip()})
        parts.append({"type": "python_output", "text": call[2].strip()})
        done = call.end()
    if done < len(answer):
        parts.append({"type": "text", "text": answer[done:]})
    return parts


@dataclass(frozen=True)
class Gsm8k:
    """GSM8K for training: test.jsonl is held out, train.jsonl is shared between the other splits."""

    folder: Path = Path("data/gsm8k")
    """folder with train.jsonl and test.jsonl"""
    max_tokens: int = 512
    """longest response worth sampling, in tokens"""

    name = "gsm8k"
    stop = ()

    def examples(self, split: Split, seed: int) -> list[Example]:
        """The problems of a split in the order of the file; `seed` changes nothing.

        Raises:
            FileNotFoundError: no file there.
            ValueError: an unknown split, or see `read_gsm8k`.
        """
        if split == "test":
            return read_gsm8k(self._file("test.jsonl"))
        if split not in ("sft", "preference", "rl"):
            raise ValueError(f"split must be sft, preference, rl or test; got {split!r}")
        owners = (split, "test") if split == "rl" else (split,)  # what would be held out practises here
        return [example for example in read_gsm8k(self._file("train.jsonl")) if split_of(example.prompt) in owners]

    def reward(self, response: str, answer: str) -> dict[str, float]:
        """1 for the right number behind `####`."""
        return judge(response, answer, same_number)

    def _file(self, name: str) -> Path:
        path = Path(self.folder) / name
        if not path.is_file():
            raise FileNotFoundError(
                f"no {path}; get {name} from github.com/openai/grade-school-math (grade_school_math/data)"
            )
        return path
