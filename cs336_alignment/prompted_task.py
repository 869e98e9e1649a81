r"""Problems posed in a prompt of the course, rewarded by the contract that belongs to it.

    prompt                                 stop text      reward               a worked solution for SFT
    r1_zero, r1_zero_three_shot_gsm8k      </answer>      r1_zero_reward_fn    ... </think> <answer> 72 </answer>
    question_only                          none           question_only_...    ... \boxed{72}

Prompt, stop text and reward come as one here, because a wrong combination gives reward 0 and no error. Read next:
`rewards.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cs336_alignment.jsonl import read_json_lines
from cs336_alignment.prompts import fill_prompt, load_prompt
from cs336_alignment.rewards import last_boxed, question_only_reward_fn, r1_zero_reward_fn
from cs336_alignment.task import Example, Split, Task

PROMPTS = ("r1_zero", "r1_zero_three_shot_gsm8k", "question_only")


@dataclass(frozen=True)
class PromptedTask:
    """Another task's problems in one of `PROMPTS`.

    Raises:
        ValueError: a prompt that has no contract.
    """

    inner: Task
    """where problems, answers and worked solutions come from"""
    prompt: str = "r1_zero"
    """how they are posed"""
    max_tokens: int = 512
    """longest response worth sampling, in tokens"""

    def __post_init__(self) -> None:
        if self.prompt not in PROMPTS:
            raise ValueError(f"prompt must be one of {', '.join(PROMPTS)}, which have a reward; got {self.prompt!r}")

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{self.inner.name}-{self.prompt}"

    @property
    def stop(self) -> tuple[str, ...]:
        """The stop text that the prompt asks for."""
        return () if self.prompt == "question_only" else ("</answer>",)

    def examples(self, split: Split, seed: int) -> list[Example]:
        """The inner task's problems, posed in the prompt."""
        template = load_prompt(self.prompt)
        return [
            Example(fill_prompt(template, question=e.prompt.strip()), e.answer, self._response(e))
            for e in self.inner.examples(split, seed)
        ]

    def _response(self, example: Example) -> str:
        solution = example.response.rpartition("####")[0].strip() or example.response.strip()
        if not solution:
            return ""
        if self.prompt == "question_only":
            return f" {solution} \\boxed{{{example.answer}}}"
        return f" {solution} </think> <answer> {example.answer} </answer>"

    def reward(self, response: str, answer: str) -> dict[str, float]:
        """The prompt's contract."""
        judge = question_only_reward_fn if self.prompt == "question_only" else r1_zero_reward_fn
        return judge(response, answer)


@dataclass(frozen=True)
class QuestionFiles:
    r"""Problems of one's own, such as MATH: train.jsonl and test.jsonl in a folder.

    Each line has `question` (or `problem`) and `answer` (or `solution`, whose last \boxed{} is the answer).
    """

    folder: Path = Path("data/math")
    """folder with train.jsonl and test.jsonl"""
    max_tokens: int = 1024
    """longest response worth sampling, in tokens"""

    name = "questions"
    stop = ()

    def examples(self, split: Split, seed: int) -> list[Example]:
        """test.jsonl for the test split; of train.jsonl every tenth for sft, every tenth for preference, the rest rl."""
        if split == "test":
            return read_questions(Path(self.folder) / "test.jsonl")
        every = read_questions(Path(self.folder) / "train.jsonl")
        owner = {0: "sft", 1: "preference"}
        return [example for place, example in enumerate(every) if owner.get(place % 10, "rl") == split]

    def reward(self, response: str, answer: str) -> dict[str, float]:
        r"""The contract of \boxed{}; with a prompt, `PromptedTask` has its own."""
        return question_only_reward_fn(response, answer)


def read_questions(path: str | os.PathLike[str]) -> list[Example]:
    """The problems of a file; see `QuestionFiles`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line without a question or an answer; it is named.
    """
    examples = []
    for number, item in read_json_lines(path):
        question = item.get("question", item.get("problem"))
        solution = str(item.get("solution", ""))
        answer = item.get("answer", last_boxed(solution))
        if not isinstance(question, str) or answer is None:
            raise ValueError(
                f"{os.fspath(path)}, line {number} needs 'question' or 'problem', and 'answer' or a 'solution' with a "
                f"\\boxed{{}}; it has {', '.join(sorted(item))}"
            )
        examples.append(Example(question, str(answer), solution))
    return examples
